"""The bounded pool of threads in which everything that blocks is done: Optuna and the database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class BlockingPool:
    """One blocking call on the event loop would hold up every watch; here at most `size` run at once."""

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="storage")

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs a blocking call in a thread; its log lines keep the study they are about."""
        run = partial(contextvars.copy_context().run, call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    def shutdown(self) -> None:
        """Takes no more calls; those that run are not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
