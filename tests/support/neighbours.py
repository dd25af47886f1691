"""Neighbours who mean harm, or do it unknowingly: Studies and programs that once stopped everybody.

Tests put them beside a canary study, and so does `make bench-neighbours`. Studies are JSON text, because some of them
are nested more deeply than Python's json can write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from played_pod import Program, succeeds


@dataclass(frozen=True)
class Neighbour:
    """One kind of neighbour.

    Attributes:
        name: what it does, in a few words.
        studies: returns name and JSON text of each Study, for a namespace. The API server may refuse them.
        jobs: once a Study has had so many Jobs, it has done its worst; 0 if its end is waited for, or its refusal.
        program: of its pods.
        attacks: it has done its worst only when its program is `at_work`.
        patience: seconds within which the operator must have said what it thinks of each Study, or have served it.
    """

    name: str
    studies: Callable[[str], Iterable[tuple[str, str]]]
    jobs: int = 1
    program: Program = succeeds
    attacks: bool = False
    patience: float = 90.0

    def __str__(self) -> str:
        return self.name


def study_text(namespace: str, name: str, **spec: Any) -> str:
    """A Study without GPUs, with the given fields of its spec replaced."""
    return json.dumps(
        {
            "apiVersion": "study-operator.io/v1alpha1",
            "kind": "Study",
            "metadata": {"namespace": namespace, "name": name},
            "spec": {
                "objectives": [{"name": "score", "direction": "Maximize"}],
                "parameters": [{"name": "x", "float": {"low": 0, "high": 1}}],
                "maxTrials": 1_000,
                "parallelism": 2,
                "gpusPerTrial": 0,
                "jobTemplate": job_template(),
                **spec,
            },
        }
    )


def job_template(*containers: dict[str, Any]) -> dict[str, Any]:
    """A Job template of these containers, or of one."""
    return {"spec": {"template": {"spec": {"containers": containers or [{"name": "trial", "image": "trial:1"}]}}}}


def one(instead: dict[str, str] | None = None, **spec: Any) -> Callable[[str], Iterable[tuple[str, str]]]:
    """One Study; as `several`."""
    return several(1, instead, **spec)


def several(
    count: int, instead: dict[str, str] | None = None, **spec: Any
) -> Callable[[str], Iterable[tuple[str, str]]]:
    """Studies that are alike, as `study_text` makes them.

    Args:
        instead: what takes the place of texts in the Study's JSON, such as what json cannot write.
    """

    def studies(namespace: str) -> Iterable[tuple[str, str]]:
        for number in range(count):
            text = study_text(namespace, f"neighbour-{number}", **spec)
            for placeholder, more in (instead or {}).items():
                text = text.replace(json.dumps(placeholder), more)
            yield f"neighbour-{number}", text

    return studies


HARMLESS = Neighbour("a harmless study", one(), jobs=3)
