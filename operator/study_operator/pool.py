"""The bounded pool of threads in which everything that blocks runs: Optuna and the database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class BlockingPool:
    """Runs blocking calls in threads, because one such call on the event loop would hold up every watch.

    Args:
        size: how many calls run at once.
    """

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="storage")

    async def run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run a blocking call in a thread, and return its result. Raises what the call raises.

        The call has the caller's context: log lines keep their study, and writes their hold.

        Args:
            call: is called with `args` and `kwargs`.
        """
        run = partial(contextvars.copy_context().run, call, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, run)

    def shutdown(self) -> None:
        """Take no more calls. Calls that run are not waited for, and calls that wait never run."""
        self._executor.shutdown(wait=False, cancel_futures=True)
