"""Reads the logs of all pods of one Job. After an eviction, or with a backoffLimit, a Job has had several pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study_operator.kube.api_server import ApiError
from study_operator.model import final_values, log_lines
from study_operator.model.job_state import JobPhase, JobState
from study_operator.model.pod_status import program_ended
from study_operator.model.study import JOB_LABEL, Study
from study_operator.podlogs.tail import Source, Tail, Tails

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"  # Kubernetes' own, on pods
_MOST_PODS = 100
_GONE = "its pod was gone before its log could be read to its end"

Pod = Mapping[str, Any]


class JobLog:
    """What the pods of one Job have printed, the oldest pod first.

    Args:
        tails: where logs come from, and where their content goes to.
        study: whose metrics come from standard output.
        job: as it was when reading began.
    """

    def __init__(self, tails: Tails, study: Study, job: JobState) -> None:
        read = log_lines.build(study)
        assert read is not None
        self._tails, self._lines, self._job = tails, read, job
        self._namespace = study.namespace
        self._study = study
        self._program = study.program
        self._indexed = study.job_template["spec"].get("completionMode") == "Indexed"
        self._by_uid: dict[str, Tail] = {}
        self._read: dict[str, str] = {}  # UIDs of pods whose logs have been read, and why a log is not whole, or ""

    def begin_anew(self) -> None:
        """Forget what has been read and not stored. To be called after an error; the database knows what was stored."""
        self._by_uid.clear()

    async def follow(self) -> int | None:
        """Read on, pod by pod, each until the pod or its stream ends.

        Returns:
            How many new lines there were; None if no pod is left that could print any.

        Raises:
            ApiError: a log could not be read; the others have been.
            TrialEnded: the trial has ended, so that its output is of no use any more.
            Overtaken: another reader of the same log has stored something meanwhile.
        """
        new, trouble, left = 0, None, False
        for pod in await self._pods():
            if pod["metadata"]["uid"] not in self._read:
                left = True
                try:
                    new += await self._read_on(pod, over=_phase(pod) in ("Succeeded", "Failed"))
                except ApiError as error:
                    trouble = error
        if trouble is not None:
            raise trouble
        return new if left else None

    async def finish(self) -> str:
        """Read the rest of the log of an ended Job, and store the trial's result if the Job is complete.

        Returns:
            Why the log of the pod that ended well could not be read to its end; otherwise "".

        Raises:
            ApiError: a log could not be read; the others have been.
            TrialEnded: the trial has ended, so that its output is of no use any more.
            Overtaken: another reader of the same log has stored something meanwhile.
        """
        trouble, why = None, _GONE
        for pod in await self._pods():
            uid = pod["metadata"]["uid"]
            try:
                if uid not in self._read:
                    await self._read_on(pod, over=True)
            except ApiError as error:
                trouble = error
            if self._ended_well(pod) and uid in self._read:
                why = self._read[uid]
        complete = self._job.phase is JobPhase.COMPLETE
        if trouble is not None and (why or not complete):
            raise trouble
        if not complete:
            return ""
        if not why:
            study, threads, output = self._study, self._tails.threads, self._tails.output
            keys = {objective.name: final_values.key(objective) for objective in study.objectives}
            metrics = {constraint.name: constraint.metric for constraint in study.constraints}
            await threads.run(output.finish, self._job.trial_id, keys, metrics, study.checkpoints is not None)
        return why

    def _ended_well(self, pod: Pod) -> bool:
        """Return whether the pod has succeeded, or its program has, beside a container that does not end."""
        ended = program_ended(pod, self._program)
        return _phase(pod) == "Succeeded" or (ended is not None and ended["exitCode"] == 0)

    async def _pods(self) -> list[Pod]:
        # Of an Indexed Job, only the pod of index 0 reports.
        selector = f"{JOB_LABEL}={self._job.name}" + (f",{_INDEX_LABEL}=0" if self._indexed else "")
        pods = await self._tails.cluster.list_pods(self._namespace, selector, self._job.uid, limit=_MOST_PODS)
        return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    async def _read_on(self, pod: Pod, over: bool) -> int:
        """Read one pod's log, to its end if the pod is `over`. Return the number of new lines."""
        uid, source = pod["metadata"]["uid"], Source.of(pod, self._program)
        if source is None:  # its program has never run
            if over:
                self._read[uid] = ""
            return 0
        tail = self._by_uid.get(uid)
        if tail is None:
            tail = self._by_uid[uid] = Tail(self._tails, self._study, self._lines, self._job.trial_id, uid)
        try:
            new = await (tail.finish(source) if over else tail.follow(source))
        except ApiError as error:
            if error.status != 400 and (over or error.status != 404):
                raise
            if over:
                self._read[uid] = _GONE
            # Its container is just starting; or the pod has just been deleted, and is not listed the next time.
            return 0
        if not over:
            return new
        word = tail.kubelets_word
        self._read[uid] = f"its log could not be read to its end: {word}" if word else ""
        return new


def _phase(pod: Pod) -> str:
    return (pod.get("status") or {}).get("phase") or ""
