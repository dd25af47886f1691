"""What this installation takes in at once: how many Studies of a namespace, and how many cells of grids."""

from __future__ import annotations

from collections.abc import Collection

from study_operator.model import grid
from study_operator.model.samplers import is_finite
from study_operator.model.study import Refused, Study, StudyKey
from study_operator.texts import many

# Cells of grids that are held in memory, some 60 bytes each: of all studies, and of those of one namespace.
MOST_CELLS, MOST_CELLS_OF_NAMESPACE = 8_000_000, 4_000_000


class Intake:
    """Counts what Studies take, over all Studies that this process knows of. A Study beyond a limit waits.

    Args:
        studies_per_namespace: how many Studies of a namespace are served.
    """

    def __init__(self, studies_per_namespace: int) -> None:
        self._most_studies = studies_per_namespace
        self._present: dict[str, dict[StudyKey, tuple[str, str]]] = {}
        self._cells: dict[StudyKey, int] = {}

    def note(self, key: StudyKey, created: str, uid: str) -> None:
        """Note that a Study exists.

        Args:
            created: its creationTimestamp.
            uid: decides between Studies of the same second.
        """
        self._present.setdefault(key.namespace, {})[key] = created, uid

    def forget(self, key: StudyKey) -> None:
        """Free what a Study has taken that is gone, or served elsewhere."""
        self._cells.pop(key, None)

    def gone(self, key: StudyKey) -> None:
        """Note that a Study does not exist any more."""
        self.forget(key)
        if (there := self._present.get(key.namespace)) is not None:
            there.pop(key, None)
            if not there:
                del self._present[key.namespace]

    def keep(self, present: Collection[StudyKey], before: Collection[StudyKey]) -> None:
        """Drop Studies that are gone and whose deletion was missed.

        Args:
            present: those that have been listed.
            before: those that were known before the list was read. A newer one may be missing in it.
        """
        for key in before:
            if key not in present:
                self.gone(key)

    def admit(self, study: Study, accepted_before: bool) -> None:
        """Take in a Study, or go on with it.

        Args:
            accepted_before: whether this generation of it was: its grid is admitted then, because trials of it run.

        Raises:
            Refused: there is no room for it now.
        """
        key = StudyKey(study.namespace, study.name)
        self._check_count(key)
        if is_finite(study.sampler.name):
            self._take_cells(key, study, accepted_before)

    def _check_count(self, key: StudyKey) -> None:
        there = self._present.get(key.namespace, {})
        if len(there) <= self._most_studies or key not in there:
            return
        older = sum(1 for one in there.values() if one < there[key])
        if older >= self._most_studies:
            raise Refused(
                "TooManyStudies",
                f"the namespace {key.namespace} has {many(older, 'older Study', 'older Studies')}, and this "
                f"installation serves {self._most_studies} of a namespace (limits.studiesPerNamespace): "
                "delete some that you do not need",
            )

    def _take_cells(self, key: StudyKey, study: Study, accepted_before: bool) -> None:
        try:
            cells = grid.count(study.space)
        except ValueError:
            return  # the sampler's check has better words
        others = {other: count for other, count in self._cells.items() if other != key}
        of_namespace = sum(count for other, count in others.items() if other.namespace == key.namespace)
        if not accepted_before and of_namespace + cells > MOST_CELLS_OF_NAMESPACE:
            raise Refused(
                "TooManyCells",
                f"its grid has {cells:,} cells, those of other Studies of the namespace {key.namespace} have "
                f"{of_namespace:,}, and together they may have {MOST_CELLS_OF_NAMESPACE:,}: it is tried again each "
                "minute; write larger steps or fewer choices, or delete a Study with a grid",
            )
        if not accepted_before and sum(others.values()) + cells > MOST_CELLS:
            raise Refused(
                "TooManyCells",
                f"its grid has {cells:,} cells, and those of all Studies together may have {MOST_CELLS:,}, of which "
                f"{sum(others.values()):,} are taken: it is tried again each minute; write larger steps or fewer "
                "choices",
            )
        self._cells[key] = cells
