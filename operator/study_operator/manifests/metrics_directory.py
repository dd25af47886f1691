"""Refuse a directory for metrics that hides what the program's image has.

Where the template mounts no volume at the file, the operator mounts an empty one at the file's directory. Only the
container runtime knows what the image has there. So directories are refused that images fill, and those in which the
template itself looks for its program.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from study_operator.manifests.volumes import mounted_above
from study_operator.model.study import Metrics, Refused, Study

# Directories that images fill, and those in which programs lie mostly. A directory below one of them is another one.
_FILLED = re.compile(
    r"/(app|bin|boot|code|dev|etc|home(/[^/]+)?|lib|lib64|opt(/(conda|ml/code|program|venv))?|(proc|sys)(/.*)?|root|run"
    r"|sbin|src|srv|usr(/(include|local|share|src(/app)?))?|var(/lib)?|venv|workspace)?"
)
# Wherever they are, programs or their libraries lie in directories of these names.
_OF_PROGRAMS = frozenset(("bin", "sbin", "lib", "lib64", "site-packages", "dist-packages", "node_modules"))
# A path is bounded, because each slash of a text that has nothing else may begin one.
_SCRIPT = re.compile(r"(?<![\w.)}])/[\w./+-]{0,1023}\.(?:py|sh|bash|R|r|jl|jar|js|pl|rb|lua|so|ipynb)(?![\w.])")
_CHANGED_TO = re.compile(r"\bcd\s+[\"']?(/[\w./+-]*)")


def directory_of(metrics: Metrics) -> str:
    """Return the directory that the program and the sidecar share."""
    assert metrics.path is not None
    return metrics.path if metrics.format == "TensorBoard" else posixpath.dirname(metrics.path)


def check_directory(study: Study) -> None:
    """Check that the metrics' directory holds none of the image's files, as far as the Study tells.

    Raises:
        Refused: the message says what is there, and what to write instead.
    """
    if study.metrics.source != "File":
        return
    directory = posixpath.normpath(directory_of(study.metrics))
    program = study.job_template["spec"]["template"]["spec"]["containers"][0]
    mounts = list(program.get("volumeMounts") or ())
    if study.checkpoints is not None:
        mounts.append({"mountPath": study.checkpoints.mount_path})
    if mounted_above({"volumeMounts": mounts}, directory) is not None:
        return  # the template says itself what is there
    if (held := _held(directory, program)) is not None:
        own = "/study-metrics" if study.metrics.format == "TensorBoard" else "/study-metrics/metrics.jsonl"
        raise Refused(
            "InvalidMetrics",
            f"spec.metrics.path puts an empty volume at {directory}, which would hide {held}: give the metrics a "
            f"directory of their own, such as {own}, or mount a volume at {directory} in the program's container",
        )


def _held(directory: str, program: Mapping[str, Any]) -> str | None:
    """Return what a directory holds, in words; None if nothing is known of it."""
    working = program.get("workingDir")
    if isinstance(working, str) and _is_in(working, directory):
        return f"the program's workingDir {working}"
    for path in _named(program):
        if _is_in(path, directory):
            return f"{path}, which command or args name"
    names = directory.split("/")
    of_programs = names[1] != "var" and _OF_PROGRAMS.intersection(names)
    return "what the image has there" if _FILLED.fullmatch(directory) or of_programs else None


def _named(program: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of programs and scripts that a container's command and args name."""
    words = [word for kind in ("command", "args") for word in program.get(kind) or () if isinstance(word, str)]
    if words and words[0].startswith("/") and program.get("command"):
        yield words[0]
    for word in words:
        yield from _SCRIPT.findall(word)
        yield from _CHANGED_TO.findall(word)


def _is_in(path: str, directory: str) -> bool:
    return f"{posixpath.normpath(path)}/".startswith(directory.rstrip("/") + "/")
