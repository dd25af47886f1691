"""Ends in the database what deleted Studies left; the cluster's garbage collector does the same for their objects."""

from __future__ import annotations

import logging

from study_operator.model.plan import Tell, tell_result
from study_operator.model.trial import Failure, FailureClass, Rows, TrialRow, TrialState
from study_operator.pool import BlockingPool
from study_operator.storage.studies import KnownStudy, Studies
from study_operator.storage.trials import Trials

_DELETED = Failure("StudyDeleted", "the Study was deleted before the trial had ended", kind=FailureClass.TERMINATED)

log = logging.getLogger(__name__)


class DeletedStudies:
    """No finalizer holds a deleted Study back: its rows are ended when it is seen to be gone, or by the next sweep.

    Args:
        namespaces: those that this operator watches; empty for all.
    """

    def __init__(self, studies: Studies, trials: Trials, threads: BlockingPool, namespaces: tuple[str, ...]) -> None:
        self._studies, self._trials, self._threads, self._namespaces = studies, trials, threads, namespaces

    async def known(self) -> list[KnownStudy]:
        """The Studies that the database knows, of the namespaces that are watched here."""
        known = await self._threads.run(self._studies.known)
        return [study for study in known if not self._namespaces or study.namespace in self._namespaces]

    async def end(self, namespace: str, name: str, but: str | None) -> None:
        """Ends the Studies that had this name, but for the one with the UID `but`, which has it now."""
        for study in await self._threads.run(self._studies.known, (namespace, name)):
            if study.uid != but:
                await self._end(study)

    async def _end(self, study: KnownStudy) -> None:
        while running := await self._running(study):  # again, for a value may arrive meanwhile, and is not lost
            tells = [
                tell_result(row, ()) if row.has_final else Tell(row, TrialState.FAIL, failure=_DELETED)
                for row in running
            ]
            await self._threads.run(self._trials.tell, study.study_id, tells)
        await self._threads.run(self._studies.forget, study)
        log.info("Study %s/%s is gone; deletionPolicy: %s", study.namespace, study.name, study.deletion_policy)

    async def _running(self, study: KnownStudy) -> list[TrialRow]:
        """Its running trials, but for those that somebody else runs."""
        rows: Rows = await self._threads.run(self._trials.observe, study.study_id)
        return [row for row in rows.open.values() if row.job is not None]
