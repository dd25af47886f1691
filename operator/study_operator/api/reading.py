"""Asks the database from the event loop: in threads, a few at once, shared among namespaces; its errors as refusals."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TypeVar

from study_operator.api import names
from study_operator.api.refusals import Refusal, database_away
from study_operator.logs import study_context
from study_operator.model.readable import (
    Changes,
    Columns,
    Key,
    Page,
    ReadableReport,
    ReadableStudy,
    ReadableTrial,
    Where,
)
from study_operator.pool import BlockingPool
from study_operator.storage.database import StorageError, StorageUnavailable
from study_operator.storage.readable_trials import ReadableTrials

T = TypeVar("T")
log = logging.getLogger(__name__)


class Reading:
    """What the database has of trials. Each call raises Refusal if it cannot be asked.

    Args:
        trials: the database's side; its calls block.
        threads: where they are made; namespaces share them.
    """

    def __init__(self, trials: ReadableTrials, threads: BlockingPool) -> None:
        self._trials, self._threads = trials, threads

    async def page(self, where: Where, limit: int, after: Key | None = None) -> Page:
        """Return some trials, from a key on."""
        return await self.ask(where.namespace, self._trials.page, where, limit, after)

    async def pages(self, where: Where, size: int, after: Key | None = None) -> AsyncIterator[Page]:
        """Yield all trials, from a key on, in pages of some size; one page at least."""
        while True:
            page = await self.page(where, size, after)
            yield page
            if page.after is None:
                return
            after = page.after

    async def trial(self, where: Where) -> ReadableTrial | None:
        """Return one trial; None if there is none."""
        return await self.ask(where.namespace, self._trials.trial, where)

    async def named(self, namespace: str, name: str) -> ReadableTrial | None:
        """Return the trial that a name stands for; None if there is none."""
        for named in names.trials_named(name):
            where = Where(namespace, named.study, named.uid or None, None, bool(named.uid), named.number)
            if (trial := await self.trial(where)) is not None:
                return trial
        return None

    async def trials(self, keys: Sequence[Key]) -> list[ReadableTrial]:
        """Return trials as they are now; those that are gone are missing."""
        return await self.ask(None, self._trials.trials, keys)

    async def reports(self, trial: ReadableTrial, after_step: int, limit: int) -> list[ReadableReport]:
        """Return reports of a trial, from a step on."""
        return await self.ask(trial.study.namespace, self._trials.reports, trial, after_step, limit)

    async def study(self, where: Where) -> ReadableStudy | None:
        """Return one study; None if there is none."""
        return await self.ask(where.namespace, self._trials.study, where)

    async def study_named(self, namespace: str, name: str) -> ReadableStudy | None:
        """Return the study that a name stands for; None if there is none."""
        for named in names.sets_named(name):
            where = Where(namespace, named.study, named.uid or None, None, bool(named.uid))
            if (study := await self.study(where)) is not None:
                return study
        return None

    async def studies(self, where: Where, limit: int, after_id: int) -> list[ReadableStudy]:
        """Return some studies, from an id on."""
        return await self.ask(where.namespace, self._trials.studies, where, limit, after_id)

    async def number(self) -> int:
        """Return the number of the latest change."""
        return await self.ask(None, self._trials.number)

    async def changes(self, since: int, limit: int) -> Changes:
        """Return some changes.

        Raises:
            Gone: they are not kept any more.
            Refusal: as the other calls.
        """
        return await self.ask(None, self._trials.changes, since, limit)

    async def whole(self, study: ReadableStudy, with_reports: bool, write: Callable[[Iterator[Columns]], None]) -> None:
        """Give a function all blocks of a study's trials, in a thread.

        It must take them at once: the database waits for nobody who reads slowly.
        """

        def read() -> None:
            with self._trials.whole(study, with_reports) as blocks:
                write(blocks)

        await self.ask(study.namespace, read)

    async def ask(self, namespace: str | None, call: Callable[..., T], *arguments: object) -> T:
        """Make a call that blocks, in a thread, and return what it returns.

        Args:
            namespace: whose share of the threads it takes; None for that of all.

        Raises:
            Refusal: the database cannot be asked, or refuses.
        """
        with study_context(namespace or "-", "-"):  # so that threads are shared among namespaces
            try:
                return await self._threads.run(call, *arguments)
            except StorageUnavailable as error:
                raise database_away(str(error)) from None
            except StorageError as error:
                log.warning("the database refuses to tell of trials: %s", error)
                raise Refusal(503, "ServiceUnavailable", f"the database of the trials refuses this: {error}") from None
