"""Reads the trials API, `results.study-operator.io`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study_client.errors import NotFoundError
from study_client.kubectl import RESULTS, STUDY_LABEL, TRIALS, Kubectl


@dataclass(frozen=True)
class Trial:
    """A trial, as the trials API has it.

    Attributes:
        manifest: the StudyTrial.
    """

    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"].get("namespace") or "default")

    @property
    def study(self) -> str:
        return str(self._spec.get("study") or self.manifest["metadata"]["labels"][STUDY_LABEL])

    @property
    def number(self) -> int:
        return int(self._spec["number"])

    @property
    def params(self) -> Mapping[str, Any]:
        return self._spec.get("parameters") or {}

    @property
    def status(self) -> Mapping[str, Any]:
        return self.manifest.get("status") or {}

    @property
    def state(self) -> str:
        return str(self.status.get("state") or "")

    @property
    def values(self) -> list[str]:
        """The final values as text, one per objective, in order; empty without."""
        found = self.status.get("values") or []
        return [str(value) for value in (found.values() if isinstance(found, Mapping) else found)]

    @property
    def value(self) -> float:
        """The first objective's value; NaN without one."""
        return to_float(self.values[0]) if self.values else math.nan

    @property
    def job(self) -> str:
        return str(self.status.get("jobName") or "")

    @property
    def seconds(self) -> float | None:
        """How long it has run, in seconds; None while it runs."""
        found = self.status.get("durationSeconds")
        return None if found is None else float(found)

    @property
    def reason(self) -> str:
        return str((self.status.get("failure") or {}).get("reason") or "")

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.status.get("attributes") or {}

    @property
    def _spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest["spec"]
        return found


def to_float(value: Any) -> float:
    """Return a number that may be written as text; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


class Trials:
    """Reads trials. Every method raises NotServedError where the cluster does not serve them."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def of(self, study: str, state: str | None = None) -> list[Trial]:
        """Return a study's trials in order of their numbers. kubectl reads them in pages.

        Args:
            state: of which state alone.
        """
        selected = ["-l", f"{STUDY_LABEL}={study}", "-o", "json"]
        selected += ["--field-selector", f"status.state={state}"] if state else []
        found = self._kubectl.read("get", TRIALS, *selected)["items"]
        return sorted(map(Trial, found), key=lambda trial: trial.number)

    def one(self, study: str, number: int) -> Trial:
        """Return one trial.

        Raises:
            NotFoundError: the study has none of this number.
        """
        try:
            return Trial(self._kubectl.read("get", f"{TRIALS}/{study}-{number}", "-o", "json"))
        except NotFoundError:
            raise NotFoundError(
                f"there is no trial {study}/{number}: `kubectl study trials {study}` shows those that there are"
            ) from None

    def reports(self, trial: Trial) -> list[tuple[int, float]]:
        """Return the steps and values that a trial has reported, in order of the steps."""
        path = f"{RESULTS}/namespaces/{trial.namespace}/studytrials/{trial.name}/reports"
        found = self._kubectl.raw(path)
        pairs = zip(found.get("steps") or (), found.get("values") or (), strict=False)
        return sorted((int(step), to_float(value)) for step, value in pairs)
