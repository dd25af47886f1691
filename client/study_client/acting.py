"""What changes a Study: suspend, resume, scale, extend, stop and clone."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from study_client.errors import ClientError, ConflictError
from study_client.kubectl import Kubectl
from study_client.output import print_as
from study_client.studies import StudyView
from study_client.texts import one_line

_TRIES = 10  # to change a number that others change too
_MOST_CLONES = 100
# The most trials and slots that a Study may have; the API server has the last word.
_NUMBER = re.compile(r"\+?[0-9]{1,9}")
_STEP = re.compile(r"([^.\[\]]+)((?:\[[0-9]{1,4}\])*)")
_OWN_METADATA = ("labels", "annotations")
_NOT_COPIED = ("kubectl.kubernetes.io/", "study-operator.io/")


def suspend(kubectl: Kubectl, name: str) -> int:
    """Start no more trials of a study. What becomes of running ones, spec.suspendPolicy says."""
    found = _patch(kubectl, name, {"suspend": True})
    running = (
        "are ended, and run again later" if found.spec.get("suspendPolicy") == "Terminate" else "end by themselves"
    )
    print(f"{name} is suspended; trials that run {running}. `kubectl study resume {name}` goes on")
    return 0


def resume(kubectl: Kubectl, name: str) -> int:
    """Go on with a study that was suspended or stopped."""
    found = _patch(kubectl, name, {"suspend": False, "stop": None})
    if found.spec.get("parallelism") == 0:
        print(f"{name} has parallelism 0, so no trial starts: `kubectl study scale {name} 4`")
    elif found.holds("Finished") or found.finished >= found.max_trials:
        print(f"{name} has used up its {found.max_trials} trials: `kubectl study extend {name} --trials +50` adds some")
    else:
        print(f"{name} goes on")
    return 0


def scale(kubectl: Kubectl, name: str, slots: int) -> int:
    """Let so many trials run at the same time."""
    _patch(kubectl, name, {"parallelism": slots})
    print(f"{name} runs up to {slots} trials at the same time" if slots else f"{name} starts no trials")
    return 0


def extend(kubectl: Kubectl, name: str, trials: str) -> int:
    """Give a study more trials: `+50` more, or `200` in all."""
    if not _NUMBER.fullmatch(trials):
        raise ClientError(f"--trials is {trials!r}: write +50 for fifty more, or 200 for so many in all")
    for _ in range(_TRIES):
        study = StudyView(kubectl.study(name))
        before = study.max_trials
        wanted = before + int(trials) if trials.startswith("+") else int(trials)
        if wanted < before:
            raise ClientError(
                f"{name} has maxTrials {before}, and extend adds trials: `kubectl study stop {name}` ends it earlier"
            )
        # The version lets the API server refuse this if somebody has changed the Study since it was read: without
        # it, two who add 50 each would together add 50.
        version = study.manifest["metadata"]["resourceVersion"]
        try:
            kubectl.patch(name, {"metadata": {"resourceVersion": version}, "spec": {"maxTrials": wanted}})
        except ConflictError:
            continue
        print(f"{name} has {wanted} trials in all, before it had {before}")
        return 0
    raise ClientError(f"{name} is changed by somebody else all the time: try again")


def stop(kubectl: Kubectl, name: str, now: bool) -> int:
    """End a study: running trials end by themselves, or at once."""
    policy = "Terminate" if now else "Drain"
    found = _patch(kubectl, name, {"stop": policy})
    if found.spec.get("stop") != policy:
        raise ClientError(
            f"this cluster's Study has no field spec.stop, so its operator is older than 0.3; "
            f"`kubectl study suspend {name}` starts no more trials"
        )
    rest = "running trials end now" if now else "running trials end by themselves, and count; --now ends them"
    print(f"{name} stops; {rest}. `kubectl study resume {name}` goes on")
    return 0


def clone(kubectl: Kubectl, name: str, changes: list[str], new_name: str | None, form: str | None) -> int:
    """Create a Study like another one, with some fields changed.

    Args:
        changes: such as `maxTrials=50`, fields of the spec.
        new_name: its name; None for the first free one of NAME-2, NAME-3 and so on.
        form: json or yaml to print the Study and not create it; None to create it.
    """
    manifest = cloned(kubectl.study(name), changes)
    names = [new_name] if new_name else [f"{name}-{number}" for number in range(2, _MOST_CLONES)]
    if form is not None:
        manifest["metadata"]["name"] = names[0]
        print_as(form, manifest)
        return 0
    for wanted in names:
        manifest["metadata"]["name"] = wanted
        try:
            kubectl.create(manifest)
        except ConflictError:
            continue
        print(f"study.study-operator.io/{wanted} created")
        return 0
    raise ClientError(f"there is a Study {one_line(names[-1])} already: --name names another one")


def cloned(manifest: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Return a Study without what belongs to the original alone, with changes of its spec.

    Raises:
        ClientError: a change cannot be read, or names no place of the spec.
    """
    spec = copy.deepcopy(manifest["spec"])
    for field in ("stop", "suspend"):
        spec.pop(field, None)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise ClientError(f"--set {change!r} has no value: write FIELD=VALUE, such as maxTrials=50")
        _put(spec, path.removeprefix("spec."), _value(text), change)
    metadata = {
        field: {key: value for key, value in kept.items() if not key.startswith(_NOT_COPIED)}
        for field in _OWN_METADATA
        if (kept := manifest["metadata"].get(field))
    }
    metadata = {field: kept for field, kept in metadata.items() if kept}
    head = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"]}
    return {**head, "metadata": {**metadata, "namespace": manifest["metadata"].get("namespace")}, "spec": spec}


def _value(text: str) -> Any:
    """Return a value as JSON has it, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put(spec: dict[str, Any], path: str, value: Any, change: str) -> None:
    """Put a value at a place such as `jobTemplate.spec.template.spec.containers[0].image`. null removes a field."""
    steps: list[str | int] = []
    for part in path.split("."):
        found = _STEP.fullmatch(part)
        if found is None:
            raise ClientError(f"--set {change!r} names no field: write names with dots, and [0] for a place in a list")
        steps += [found[1], *map(int, re.findall(r"[0-9]+", found[2]))]
    place: Any = spec
    for at, step in enumerate(steps[:-1]):
        if isinstance(step, str) and isinstance(place, dict):
            place = place.setdefault(step, {} if isinstance(steps[at + 1], str) else [])
        else:
            place = _member(place, step, change)
    last = steps[-1]
    if isinstance(last, str) and isinstance(place, dict):
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    elif isinstance(last, int) and isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        _member(place, last, change)
        place[last] = value


def _member(place: Any, step: str | int, change: str) -> Any:
    if isinstance(step, int) and isinstance(place, list) and step < len(place):
        return place[step]
    raise ClientError(f"--set {change!r}: the Study has nothing at {step!r} there")


def _patch(kubectl: Kubectl, name: str, spec: dict[str, Any]) -> StudyView:
    kubectl.study(name)  # says in words that there is none
    return StudyView(kubectl.patch(name, {"spec": spec}))
