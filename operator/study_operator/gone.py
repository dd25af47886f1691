"""Ends in the database what deleted Studies left; the cluster's garbage collector does the same for their objects."""

from __future__ import annotations

import logging

from optuna.trial import TrialState

from study_operator.model.trial import Rows
from study_operator.storage.studies import KnownStudy, Studies
from study_operator.storage.threads import StorageThreads
from study_operator.storage.trials import Trials

log = logging.getLogger(__name__)


class Gone:
    """No finalizer holds a deleted Study back: its rows are ended when it is seen to be gone, or by the next sweep.

    Args:
        namespaces: those that this operator watches; empty for all.
    """

    def __init__(self, studies: Studies, trials: Trials, threads: StorageThreads, namespaces: tuple[str, ...]) -> None:
        self._studies, self._trials, self._threads, self._namespaces = studies, trials, threads, namespaces

    async def known(self) -> list[KnownStudy]:
        """The Studies that the database knows, of the namespaces that are watched here."""
        known = await self._threads.run(self._studies.known)
        return [study for study in known if not self._namespaces or study.namespace in self._namespaces]

    async def sweep(self, known: list[KnownStudy], present: set[str]) -> None:
        """Ends those of `known` whose UID is not `present`, which was listed after `known` was read."""
        for study in known:
            if study.uid not in present:
                await self._end(study)

    async def end(self, namespace: str, name: str, but: str | None) -> None:
        """Ends the Studies that had this name, but for the one with the UID `but`, which has it now."""
        for study in await self.known():
            if (study.namespace, study.name) == (namespace, name) and study.uid != but:
                await self._end(study)

    async def _end(self, study: KnownStudy) -> None:
        rows: Rows = await self._threads.run(self._trials.observe, study.study_id)
        for row in rows.open.values():
            if row.job is None:  # somebody else's trial
                continue
            complete = row.result is not None and not row.result.pruned
            state = TrialState.COMPLETE if complete else TrialState.FAIL
            values = row.result.values if complete and row.result else None
            await self._threads.run(self._trials.tell, row.trial_id, state, values, despite_result=True)
        await self._threads.run(self._studies.forget, study)
        log.info("Study %s/%s is gone; deletionPolicy: %s", study.namespace, study.name, study.deletion_policy)
