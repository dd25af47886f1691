"""End the rows that deleted Studies have left in the database. Kubernetes removes their objects by itself."""

from __future__ import annotations

import logging

from study_operator import looks
from study_operator.model.actions import Tell
from study_operator.model.trial import Failure, FailureClass, Rows, TrialRow, TrialState
from study_operator.model.trial_rules import tell_result
from study_operator.pool import BlockingPool
from study_operator.storage.studies import KnownStudy, Studies
from study_operator.storage.trials import Trials

TOLD_AT_ONCE = 64  # trials that are ended in one transaction
_DELETED = Failure("StudyDeleted", "the Study was deleted before the trial had ended", kind=FailureClass.TERMINATED)

log = logging.getLogger(__name__)


class DeletedStudies:
    """Ends the rows of deleted Studies, when the operator notices that they are gone or at the next resync.

    Studies have no finalizer: nothing delays their deletion.

    Args:
        studies: the studies in the database.
        trials: their trials.
        threads: where calls of the database are made.
        namespaces: the namespaces that this operator watches; empty for all.
    """

    def __init__(self, studies: Studies, trials: Trials, threads: BlockingPool, namespaces: tuple[str, ...]) -> None:
        self._studies, self._trials, self._threads, self._namespaces = studies, trials, threads, namespaces

    async def known(self) -> list[KnownStudy]:
        """Return the Studies that the database knows, in the namespaces that are watched here.

        Raises:
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses the query.
        """
        known = await self._threads.run(self._studies.known)
        return [study for study in known if not self._namespaces or study.namespace in self._namespaces]

    async def end(self, namespace: str, name: str, but: str | None) -> None:
        """End the Studies that had this name.

        Args:
            but: the UID of the Study that has the name now; None if there is none.

        Raises:
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses a statement.
            NotHeld: this replica may not write about the study any more.
        """
        for study in await self._threads.run(self._studies.known, (namespace, name)):
            if study.uid != but:
                await self._end(study)

    async def _end(self, study: KnownStudy) -> None:
        while running := await self._running(study):  # again, because a value may arrive meanwhile and must not be lost
            tells = [
                tell_result(row, ()) if row.has_final else Tell(row, TrialState.FAIL, failure=_DELETED)
                for row in running
            ]
            for start in range(0, len(tells), TOLD_AT_ONCE):
                looks.check("ends the trials of a deleted Study")
                await self._threads.run(self._trials.tell, study.study_id, tells[start : start + TOLD_AT_ONCE])
        while await self._threads.run(self._studies.remove_reports, study):
            looks.check("removes what a deleted Study has stored")
        await self._threads.run(self._studies.forget, study)
        if study.purged_by:
            log.info("the rows of Study %s/%s are removed: %s wants it", study.namespace, study.name, study.purged_by)
        else:
            log.info("Study %s/%s is gone; deletionPolicy: %s", study.namespace, study.name, study.deletion_policy)

    async def _running(self, study: KnownStudy) -> list[TrialRow]:
        """Return its running trials, without those that a notebook runs."""
        rows: Rows = await self._threads.run(self._trials.observe, study.study_id)
        return [row for row in rows.open.values() if row.job is not None]
