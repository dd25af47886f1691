"""`logs`: what a trial's program has printed, found by the labels of its pods."""

from __future__ import annotations

from typing import Any

from study_client.errors import ClientError
from study_client.kubectl import STUDY_LABEL, TRIAL_LABEL, Kubectl
from study_client.studies import StudyView, TrialName, trial_name
from study_client.texts import one_line

_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"


def logs(kubectl: Kubectl, name: str, best: bool, failed: bool, follow: bool, more: list[str]) -> int:
    """Print the log of a trial's latest pods, by kubectl itself.

    Args:
        name: STUDY/NUMBER, or the Study with `best` or `failed`.
        more: further options of `kubectl logs`.
    """
    trial = _trial(kubectl, name, best, failed)
    selector = f"{STUDY_LABEL}={trial.study},{TRIAL_LABEL}={trial.number}"
    pods = latest(kubectl.read("get", "pods", "-l", selector, "-o", "json")["items"])
    if not pods:
        raise ClientError(_gone(kubectl, trial))
    options = [*(["--follow"] if follow else []), *more]
    codes = [
        kubectl.passed_on("logs", pod["metadata"]["name"], *_container(pod), *options)
        # With -f the others would never have their turn.
        for pod in (pods[:1] if follow else pods)
    ]
    return max(codes)


def _trial(kubectl: Kubectl, name: str, best: bool, failed: bool) -> TrialName:
    if "/" in name:
        return trial_name(name)
    if not (best or failed):
        raise ClientError(f"which trial? Write {one_line(name)}/7, or --best, or --failed for the latest failure")
    study = StudyView(kubectl.study(name))
    if best:
        found = (study.status.get("bestTrial") or {}).get("number")
        if found is None:
            raise ClientError(f"{name} has no best trial yet: {study.why}")
    else:
        found = next((one["trial"] for one in study.status.get("recentFailures") or ()), None)
        if found is None:
            raise ClientError(f"no trial of {name} has failed")
    return TrialName(name, int(found))


def latest(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pods of a trial's latest Job, in order of their index."""

    def job(pod: dict[str, Any]) -> str:
        return str((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") or "")

    if not pods:
        return []
    newest = max(pods, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))
    indexed = [pod for pod in pods if job(pod) == job(newest)]
    by_index: dict[str, dict[str, Any]] = {}
    for pod in sorted(indexed, key=lambda pod: pod["metadata"].get("creationTimestamp") or ""):
        index = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", "0")
        by_index[index] = pod  # a later pod of the same index is what counts
    return [by_index[index] for index in sorted(by_index, key=lambda text: (len(text), text))]


def _container(pod: dict[str, Any]) -> list[str]:
    program = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER)
    return ["--container", program] if program else []


def _gone(kubectl: Kubectl, trial: TrialName) -> str:
    """Return why there is no log, and what is known instead."""
    study = kubectl.study(trial.study)
    spec, status = study["spec"], study.get("status") or {}
    words = (
        f"trial {trial.study}/{trial.number} has no pod now, and its log went with it: the Jobs of the last "
        f"{spec.get('successfulJobsHistoryLimit')} trials that completed and of the last "
        f"{spec.get('failedJobsHistoryLimit')} that failed are kept (spec.successfulJobsHistoryLimit, "
        "failedJobsHistoryLimit)"
    )
    for failure in status.get("recentFailures") or ():
        if failure.get("trial") == trial.number and failure.get("lastLogLine"):
            return f"{words}; its last line was: {one_line(failure['lastLogLine'])}"
    return words
