"""The bounded pool of threads in which everything that blocks runs: Optuna and the database."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from study_operator.logs import current_namespace
from study_operator.shares import Rounds, Shares

T = TypeVar("T")


class BlockingPool:
    """Runs blocking calls in threads, because one such call on the event loop would hold up every watch.

    Threads are shared among the namespaces of the studies that calls are about: shares.py. Belongs to one event loop.

    Args:
        size: how many calls run at once.
    """

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="storage")
        self._size, self._shares, self._waiting = size, Shares(size), Rounds[asyncio.Future[None]]()

    @property
    def busy(self) -> int:
        """How many calls run."""
        return self._size - self._shares.free

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a blocking call in a thread, and return its result. Raises what the call raises.

        The call has the caller's context: log lines keep their study, and writes their hold.

        Args:
            call: is called with `args` and `kwargs`.
        """
        loop, owner = asyncio.get_running_loop(), current_namespace()
        await self._take(owner)
        try:
            work = self._executor.submit(partial(contextvars.copy_context().run, call, *args, **kwargs))
        except BaseException:
            self._give_back(owner)
            raise

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(self._give_back, owner)

        work.add_done_callback(ended)  # and not when the caller is cancelled, because the thread goes on
        return await asyncio.wrap_future(work)

    def shutdown(self) -> None:
        """Take no more calls. Calls that run are not waited for, and calls that wait never run."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _take(self, owner: str | None) -> None:
        """Wait for a thread."""
        if not len(self._waiting) and self._shares.may_take(owner):
            self._shares.take(owner)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(owner, turn)
        self._give_turns()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.discard(owner, turn)
            if turn.done() and not turn.cancelled():
                self._give_back(owner)
            raise

    def _give_back(self, owner: str | None) -> None:
        self._shares.give_back(owner)
        self._give_turns()

    def _give_turns(self) -> None:
        while (found := self._waiting.pop(self._shares.may_take)) is not None:
            owner, turn, _ = found
            if not turn.done():
                self._shares.take(owner)
                turn.set_result(None)
