"""Reads a Study as the API server gives it out. A Study that has just been created has no status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from study_client.errors import ClientError
from study_client.times import moment


class Condition(NamedTuple):
    """A condition: whether it holds, its reason, and a sentence."""

    status: str
    reason: str
    message: str


class TrialName(NamedTuple):
    """A trial, as the user names it: `digits/7`."""

    study: str
    number: int


def trial_name(text: str) -> TrialName:
    """Read NAME/NUMBER.

    Raises:
        ClientError: it is something else.
    """
    study, slash, number = text.partition("/")
    if not (study and slash and number.isascii() and number.isdecimal() and len(number) < 10):
        raise ClientError(f"{text!r} names no trial: write STUDY/NUMBER, such as digits/7")
    return TrialName(study, int(number))


@dataclass(frozen=True)
class StudyView:
    """A Study, with what commands need of it.

    Attributes:
        manifest: as the API server gives it out.
    """

    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"].get("namespace") or "default")

    @property
    def spec(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.manifest["spec"]
        return found

    @property
    def status(self) -> Mapping[str, Any]:
        return self.manifest.get("status") or {}

    @property
    def trials(self) -> Mapping[str, int]:
        return self.status.get("trials") or {}

    @property
    def finished(self) -> int:
        """How many trials have ended."""
        done, _, _ = str(self.status.get("progress") or "0/").partition("/")
        return int(done) if done.isdecimal() else 0

    @property
    def max_trials(self) -> int:
        return int(self.spec.get("maxTrials") or 0)

    @property
    def several(self) -> bool:
        """Whether there are several objectives, and so a Pareto front and no best trial."""
        return len(self.spec.get("objectives") or ()) > 1

    @property
    def objectives(self) -> list[str]:
        """The objectives' names, in order."""
        return [str(one["name"]) for one in self.spec.get("objectives") or ()]

    @property
    def maximised(self) -> bool:
        """Whether higher values of the first objective are better."""
        return self.spec["objectives"][0].get("direction") == "Maximize"

    @property
    def started(self) -> datetime | None:
        return moment(self.status.get("startTime"))

    def condition(self, kind: str) -> Condition | None:
        """Return a condition of the Study as it is now; None if there is none, or if it is of an earlier generation."""
        generation = self.manifest["metadata"].get("generation")
        for one in self.status.get("conditions") or ():
            if one.get("type") == kind and one.get("observedGeneration", generation) == generation:
                return Condition(one.get("status", ""), one.get("reason", ""), one.get("message", ""))
        return None

    def holds(self, kind: str) -> Condition | None:
        """Return a condition that is true; None if it is not, or not known."""
        found = self.condition(kind)
        return found if found and found.status == "True" else None

    @property
    def why(self) -> str:
        """What the study does, or waits for, in the operator's words."""
        found = self.condition("Progressing")
        return found.message if found else "the operator has not looked at this Study yet"

    def best_value(self) -> float | None:
        """Return the best value of a study with one objective; None while there is none."""
        best = self.status.get("bestTrial") or {}
        try:
            return float(best["values"][0])
        except (KeyError, IndexError, ValueError):
            return None
