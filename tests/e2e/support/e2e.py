"""What the end-to-end tests do with a cluster: kubectl, Studies with small scripts, and waiting for conditions."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import api

SYSTEM = "study-operator"
T = TypeVar("T")

# A trial of a few reports. `sleep` makes it long enough for something to happen meanwhile.
TRAIN = """
import time
import study_trial

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, {steps} + 1):
        time.sleep({sleep})
        trial.report(x * step, step)
        if trial.should_prune():
            raise study_trial.TrialPruned()
    return x

study_trial.run(objective)
"""


# For `assert_whole`.
KEEP_JOBS = {"successfulJobsHistoryLimit": 1000, "failedJobsHistoryLimit": 1000}


class Cluster:
    """One namespace of the cluster that KUBECONFIG names.

    Attributes:
        namespace: the name of that namespace.
        images: the images that the cluster has, by name.
        system: the namespace and the name of the installation whose operator serves it.
        database: the database that has its rows, on that installation's server; the chart's own unless given.
    """

    def __init__(self, namespace: str, images: dict[str, str], system: str = SYSTEM) -> None:
        self.namespace, self.images, self.system = namespace, images, system
        self.database: str | None = None

    def create(self, enforced: str = "restricted") -> None:
        """Create the namespace, with a level of Pod Security."""
        labels = {"pod-security.kubernetes.io/enforce": enforced}
        metadata = {"name": self.namespace, "labels": labels}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
        self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))

    def delete(self) -> None:
        """Begin to delete the namespace."""
        self.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def kubectl(self, *arguments: str, stdin: str | None = None, namespace: str | None = None) -> str:
        """Output of a command that must succeed."""
        return kubectl("-n", namespace or self.namespace, *arguments, stdin=stdin)

    def get(self, kind: str, name: str = "", *, namespace: str | None = None, **selectors: str) -> dict[str, Any]:
        """Return an object, or the list of those that `labels` and `fields` select."""
        return api.get(namespace or self.namespace, kind, name, **selectors)

    def apply(self, name: str, script: str = TRAIN.format(steps=3, sleep=0.1), **spec: Any) -> None:
        """Creates a Study whose trials run a Python script; `spec` replaces fields of it."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self.manifest(name, script, **spec)))

    def manifest(self, name: str, script: str, **spec: Any) -> dict[str, Any]:
        container = {
            "name": "trial",
            "image": self.images["study-trial"],
            "imagePullPolicy": "IfNotPresent",
            "command": ["python", "-c", script],
            "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        pod = {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "terminationGracePeriodSeconds": 1,
            "containers": [container | spec.pop("container", {})],
        }
        return {
            "apiVersion": "study-operator.io/v1alpha1",
            "kind": "Study",
            "metadata": {"name": name},
            "spec": {
                "objectives": [{"name": "score", "direction": "Maximize"}],
                "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
                "maxTrials": 4,
                "parallelism": 2,
                "gpusPerTrial": 0,
                "jobTemplate": {"spec": {"template": {"spec": pod}}},
                **spec,
            },
        }

    def study(self, name: str) -> dict[str, Any]:
        return self.get("study", name)

    def status(self, name: str) -> dict[str, Any]:
        return self.study(name).get("status") or {}

    def condition(self, name: str, type_: str) -> dict[str, Any]:
        return next((c for c in self.status(name).get("conditions") or () if c["type"] == type_), {})

    def jobs(self) -> list[dict[str, Any]]:
        return self.get("jobs")["items"]

    def wait(self, name: str, condition: str = "Complete", seconds: int = 240) -> dict[str, Any]:
        """Waits as a user does, with `kubectl wait`. Returns the status."""
        try:
            self.kubectl_wait(name, condition, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'study', name)}") from None
        return self.status(name)

    def kubectl_wait(self, name: str, condition: str, seconds: int) -> None:
        command = ["kubectl", "-n", self.namespace, "wait", f"--for=condition={condition}", f"study/{name}"]
        done = subprocess.run([*command, f"--timeout={seconds}s"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def rows(self, name: str) -> list[tuple[int, str]]:
        """Number and state of the study's trials, from the database."""
        text = self.sql(
            "SELECT t.number, t.state FROM trials t JOIN studies s USING (study_id)"
            f" WHERE s.study_name = '{self.status(name).get('studyName')}' ORDER BY 1"
        )
        rows = (line.split("|") for line in text.splitlines())
        return [(int(number), state) for number, state in rows]

    def reports(self, name: str, number: int) -> list[tuple[int, float]]:
        """Steps and values of a trial's reports, in the order in which they were stored."""
        text = self.sql(
            "SELECT v.step, v.intermediate_value FROM trial_intermediate_values v JOIN trials t USING (trial_id)"
            f" JOIN studies s USING (study_id) WHERE s.study_name = '{self.status(name).get('studyName')}'"
            f" AND t.number = {number} ORDER BY v.trial_intermediate_value_id"
        )
        pairs = (line.split("|") for line in text.splitlines())
        return [(int(step), float(value)) for step, value in pairs]

    def assert_whole(
        self, name: str, trials: int, steps: int | None, jobs: set[str] | None = None, may_lack: int = 0
    ) -> None:
        """A study of TRAIN scripts, or of held trials, has ended with exactly its trials.

        No number is there twice, no report is lost or doubled, every final value is stored as the program returned it,
        each Job was made once, and nothing is left running.

        Args:
            trials: spec.maxTrials.
            steps: reports of each trial. None: as many as the trial's user attribute `steps` says.
            jobs: names of the Jobs; those of trials that ran once unless given. The Study has KEEP_JOBS.
            may_lack: reports that each trial may have lost: a crash of PostgreSQL takes those of its last half second.
        """
        status = self.status(name)
        assert {state: n for state, n in status["trials"].items() if n} == {"total": trials, "complete": trials}, status
        assert self.rows(name) == [(number, "COMPLETE") for number in range(trials)]
        of_study = f"JOIN studies s USING (study_id) WHERE s.study_name = '{status['studyName']}'"
        ended = self.sql(
            "SELECT t.number, v.value - p.param_value FROM trials t JOIN trial_values v USING (trial_id)"
            f" JOIN trial_params p USING (trial_id) {of_study} ORDER BY 1"
        )
        assert ended.split() == [f"{number}|0" for number in range(trials)], ended
        reports = self.sql(
            "SELECT t.number, string_agg(v.step::text, ',' ORDER BY v.trial_intermediate_value_id) FROM trials t"
            f" JOIN trial_intermediate_values v USING (trial_id) {of_study} GROUP BY 1 ORDER BY 1"
        )
        assert [int(line.partition("|")[0]) for line in reports.split()] == list(range(trials)), reports
        made = dict.fromkeys(range(trials), steps) if steps is not None else self.steps(name)
        for number, line in enumerate(reports.split()):
            stored = [int(step) for step in line.partition("|")[2].split(",")]
            assert stored == sorted(set(stored)), reports
            assert stored[-1] == made[number], reports
            assert len(stored) >= made[number] - may_lack, reports
        ours = self.get("jobs", labels=f"study-operator.io/study={name}")["items"]
        found = {job["metadata"]["name"]: job["status"] for job in ours}
        assert set(found) == (jobs or {f"{name}-{number}" for number in range(trials)})
        assert not [job for job, state in found.items() if state.get("active")]
        if jobs is None:
            pods = self.get("pods", labels=f"study-operator.io/study={name}")["items"]
            names = [pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] for pod in pods]
            assert sorted(names) == sorted(found), "each Job has had one pod"

    def steps(self, name: str) -> dict[int, int]:
        """How often each trial has reported, as it says itself by the user attribute `steps`."""
        text = self.sql(
            "SELECT t.number, a.value_json FROM trial_user_attributes a JOIN trials t USING (trial_id)"
            f" JOIN studies s USING (study_id) WHERE s.study_name = '{self.status(name)['studyName']}'"
            " AND a.key = 'steps' ORDER BY 1"
        )
        return {int(number): int(steps) for number, steps in (line.split("|") for line in text.splitlines())}

    def sql(self, statement: str, release: str | None = None, namespace: str | None = None) -> str:
        """Return what psql prints in the pod of an installation's embedded database: of `system` unless given."""
        login = "PGPASSWORD=$POSTGRES_PASSWORD psql -h 127.0.0.1 -U $POSTGRES_USER"
        command = f'{login} -d {self.database or "$POSTGRES_DB"} -At -c "$0"'
        pod = f"{release or self.system}-database-0"
        return self.kubectl("exec", pod, "--", "sh", "-c", command, statement, namespace=namespace or self.system)


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Output of a command that must succeed."""
    command = ["kubectl", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def eventually(check: Callable[[], T], what: str, seconds: float = 240) -> T:
    """The first true result of a check. Fails with what was last seen when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        seen = check()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; last seen: {seen!r}"
        time.sleep(0.2)


def processes_of(pod_uid: str) -> list[int]:
    """Process ids, on this machine, of a pod of the local cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and pod_uid in (entry / "cgroup").read_text().replace("_", "-"):
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


def commands_of(pod_uid: str) -> dict[int, bytes]:
    """The command lines of a pod's processes, by process id."""
    found = {}
    for pid in processes_of(pod_uid):
        with suppress(OSError):  # it has just ended
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


def kill(pid: int) -> bool:
    """SIGKILL. False when the process has just ended by itself."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return False
    return True
