"""All neighbours that once stopped everybody, and several of them at once, as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hostile_pods import ATTRIBUTES, FORGED, LOCKS, LOGIN, REPORTS
from hostile_studies import DEPTH, OPTIONS, SIZE
from neighbours import Neighbour
from played_pod import PlayedPod, Program

HOSTILE = (*DEPTH, *OPTIONS, *SIZE, *ATTRIBUTES, *REPORTS, *LOCKS, *LOGIN, FORGED)


def together(name: str, *neighbours: Neighbour) -> Neighbour:
    """All of them at the same time in one namespace. Their Studies have names of their own.

    They are at work as soon as one of them is.
    """
    programs: dict[str, Program] = {}  # by Study

    def studies(namespace: str) -> Iterable[tuple[str, str]]:
        for place, neighbour in enumerate(neighbours):
            for study, text in neighbour.studies(namespace):
                own = f"n{place}-{study}"
                programs[own] = neighbour.program
                yield own, text.replace(f'"name": "{study}"', f'"name": "{own}"', 1)

    def program(pod: PlayedPod) -> None:
        programs[pod.study](pod)

    return Neighbour(
        name,
        studies,
        program=program,
        attacks=any(neighbour.attacks for neighbour in neighbours),
        patience=max(neighbour.patience for neighbour in neighbours),
    )


def hostile_studies(count: int) -> Neighbour:
    """So many hostile Studies in one namespace: those of the neighbours that have one each, and the same once more."""
    of_one = [neighbour for neighbour in HOSTILE if len(list(neighbour.studies("any"))) == 1]
    chosen = itertools.islice(itertools.cycle(of_one), count)
    return together(f"{count} hostile Studies of one namespace", *chosen)


EVERYBODY = together("all of them at once", *HOSTILE)
