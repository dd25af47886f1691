"""Makes a process of a trial's pod: its command, its variables and its directories. Says what cannot be here."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_client.errors import ClientError
from study_operator.manifests.job import Reporting, job_manifest
from study_operator.model.study import SIDECAR, Study
from study_operator.model.trial import TrialRow

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_CONTAINER = "spec.jobTemplate.spec.template.spec.containers[0]"


@dataclass(frozen=True)
class Program:
    """What is started for a trial.

    Attributes:
        command: the program with its arguments.
        environment: the variables beside those of this machine.
        follower: the arguments of `study-trial` that read metrics from a file; empty if none does.
        directories: those that are to exist.
    """

    command: list[str]
    environment: dict[str, str]
    follower: list[str]
    directories: list[Path]


def program_of(study: Study, row: TrialRow, folder: Path, url: str, instead: Sequence[str] = ()) -> Program:
    """Return the process of a trial.

    Args:
        folder: the trial's own, in which its volumes are directories.
        url: where it reports to.
        instead: a command in place of the container's; empty for that one.

    Raises:
        ClientError: the container has no command, and so its image would have to be known.
    """
    reporting = Reporting(url, "0" * 64, image="study-trial")
    job = job_manifest(study, reporting, row.number, row.trial_id, row.params)
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    here = _directories(study, pod, folder)
    moved = _mover(here)
    secret = {"url": url, "key": reporting.key}
    names = {"metadata.name": study.job_name(row.number), "metadata.namespace": study.namespace}
    environment: dict[str, str] = {}
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        if "secretKeyRef" in source and variable["name"].startswith("STUDY_STORAGE_"):
            environment[variable["name"]] = secret[source["secretKeyRef"]["key"]]
        elif source:
            if (known := names.get((source.get("fieldRef") or {}).get("fieldPath", ""))) is not None:
                environment[variable["name"]] = known
        else:
            environment[variable["name"]] = moved(expanded(str(variable.get("value") or ""), environment))
    command = list(instead) or [*(container.get("command") or ()), *(container.get("args") or ())]
    if not instead and not container.get("command"):
        raise ClientError(
            f"{_CONTAINER} has no command, so its image {container.get('image')} decides what runs, and that is not "
            "here: write the command after --, such as `kubectl study run --local study.yaml -- python train.py`"
        )
    command = [moved(expanded(str(word), environment)) for word in command]
    follower: list[str] = []
    for one in pod.get("initContainers") or ():
        if one.get("name") == SIDECAR:
            words = [moved(expanded(word, environment)) for word in one["command"]]
            follower = words[words.index("follow") :]
    return Program(command, environment, follower, list(here.values()))


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """Return a text as Kubernetes hands it to a container: `$(NAME)` replaced where there is such a variable, and a
    doubled dollar sign as one."""

    def put(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return _REFERENCE.sub(put, text)


def _directories(study: Study, pod: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the directories of this machine that stand for mounts which begin empty: by the path in the container."""
    empty = {volume["name"] for volume in pod.get("volumes") or () if "emptyDir" in volume}
    here = {}
    for mount in pod["containers"][0].get("volumeMounts") or ():
        path = str(mount["mountPath"]).rstrip("/")
        checkpoints = study.checkpoints is not None and path == study.checkpoints.mount_path.rstrip("/")
        if path and (checkpoints or mount["name"] in empty):
            here[path] = folder / path.strip("/").replace("/", "-")
    return here


def _mover(here: Mapping[str, Path]) -> Callable[[str], str]:
    """Return what puts this machine's directories in place of a container's, in any text."""
    if not here:
        return str
    longest_first = sorted(here, key=len, reverse=True)
    # A path, and not the end or the beginning of a longer name.
    found = re.compile(r"(?<![\w./-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w.-])")
    return lambda text: found.sub(lambda match: str(here[match[1]]), text)


def elsewhere(study: Study, instead: Sequence[str] = ()) -> list[str]:
    """Return what of a Study is not as in a cluster, in sentences."""
    spec = study.job_template["spec"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    python = shutil.which("python") or sys.executable
    said = [f"image {container.get('image')}: programs and packages are those of this machine; python is {python}"]
    empty = {volume["name"] for volume in pod.get("volumes") or () if "emptyDir" in volume}
    for mount in container.get("volumeMounts") or ():
        if mount["name"] in empty:
            said.append(f"volume {mount['name']}: {mount['mountPath']} is an empty directory of each trial")
        else:
            said.append(f"volume {mount['name']}: nothing is mounted at {mount['mountPath']}")
    if study.checkpoints is not None:
        said.append(f"checkpoints: {study.checkpoints.mount_path} is a directory of each trial")
    missing = [
        str(one["name"])
        for one in container.get("env") or ()
        if "valueFrom" in one and "fieldPath" not in (one["valueFrom"].get("fieldRef") or {})
    ]
    missing += ["envFrom"] if container.get("envFrom") else []
    if missing:
        said.append(f"variables from Secrets, ConfigMaps and the like are not set: {', '.join(missing)}")
    if others := [str(one.get("name")) for one in [*(pod.get("initContainers") or ()), *pod["containers"][1:]]]:
        said.append(f"further containers are not started: {', '.join(others)}")
    if container.get("workingDir") and not instead:
        said.append(f"workingDir {container['workingDir']}: programs start in the directory of this command")
    if (spec.get("completions") or 1) > 1:
        said.append(f"completions {spec['completions']}: a trial is one process")
    if study.gpus_per_trial:
        said.append(f"gpusPerTrial {study.gpus_per_trial}: programs share whatever GPUs this machine has")
    if container.get("resources"):
        said.append("resources: nothing limits CPU and memory")
    if study.warm_start:
        said.append("warmStart: the sampler begins without earlier studies")
    if spec.get("backoffLimit"):
        said.append("backoffLimit: a program that fails is not run again")
    return said
