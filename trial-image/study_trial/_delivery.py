"""Delivery of calls to the database: in order, across its restarts, without stopping the training.

Every call joins a queue, and the queue is sent from its head. A report waits for the database no longer than its time
limit. A call that could not be sent stays in the queue and is sent before the next one. Final values wait much longer.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from study_trial._connection import Call, UnavailableError
from study_trial._errors import RefusedError, UndeliveredError
from study_trial._output import say

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 15.0
_ATTEMPT_SECONDS = 15.0  # for one attempt to send final values
_PROGRESS_SECONDS = 30.0  # between two log lines while final values wait


class Caller(Protocol):
    """What `Delivery` needs of a connection."""

    def call(self, call: Call, timeout: float) -> Any:
        """See `study_trial._connection.Connection.call`."""

    def close(self) -> None:
        """Close the connection until the next call."""


class Delivery:
    """An ordered queue of calls in front of a connection.

    Args:
        caller: the connection.
        report_timeout: how long a report may wait for the database, in seconds.
        finish_timeout: how long a final value is retried for, in seconds.
        clock: monotonic time in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        caller: Caller,
        report_timeout: float,
        finish_timeout: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._caller = caller
        self._report_timeout = report_timeout
        self._finish_timeout = finish_timeout
        self._clock = clock
        self._sleep = sleep
        self._waiting: deque[Call] = deque()
        self._sending = threading.RLock()  # another thread may be sending a final value when the process ends
        self._away = False  # whether the last attempt found the database away
        self._quiet_until = float("-inf")

    @property
    def waiting(self) -> list[str]:
        """The calls that were not delivered yet, in words, oldest first."""
        return [call.what for call in self._waiting]

    def send(self, call: Call) -> Any | None:
        """Deliver a call after all calls before it. If the time limit is over, leave it in the queue.

        The first call of an outage retries until the limit. After that, calls are only queued for a time as long as the
        limit; then one attempt follows, and so on. So training runs at half its speed at worst.

        Returns:
            The SQL function's result; None also when the call still waits.

        Raises:
            RefusedError: the database refused this call. If it refuses an earlier one, a line on stderr says so.
        """
        with self._sending:
            self._waiting.append(call)
            return self._try_for_bound()

    def ask(self, call: Call) -> Any | None:
        """Send a question, as `send` does. If it cannot be sent now, drop it and return None."""
        with self._sending:
            self._waiting.append(call)
            try:
                return self._try_for_bound()
            finally:
                if self._waiting:
                    self._waiting.pop()

    def flush(self, seconds: float) -> None:
        """Deliver the waiting calls, with retries, also if `send` would only queue a call now.

        Args:
            seconds: for how long; the time limit of a report if that is less.
        """
        seconds = min(seconds, self._report_timeout)
        deadline = self._clock() + seconds
        if not self._sending.acquire(timeout=seconds):
            return
        try:
            self._retry(deadline)
        except UnavailableError:
            pass  # the calls stay in `waiting`
        except RefusedError as error:
            say(str(error))
        finally:
            self._sending.release()

    def send_final(self, call: Call) -> Any:
        """Deliver the waiting calls and then this one. Retry with back-off for `finish_timeout`.

        Raises:
            RefusedError: the database refused this call.
            UndeliveredError: the call could not be delivered in that time.
        """
        with self._sending:
            self._waiting.append(call)
            return self._send_final(call)

    def _send_final(self, call: Call) -> Any:
        started = self._clock()
        deadline = started + self._finish_timeout
        next_line = started
        delays = _delays()
        while True:
            try:
                answer = self._drain(deadline, _ATTEMPT_SECONDS)
            except UnavailableError as error:
                now = self._clock()
                if next_line <= now < deadline:
                    next_line = now + _PROGRESS_SECONDS
                    say(
                        f"{call.what} waits for the database, {now - started:.0f} s of at most "
                        f"{self._finish_timeout:g} s so far: {error}"
                    )
                if now < deadline:
                    self._sleep(min(next(delays), deadline - now))
                if self._clock() >= deadline:
                    self._waiting.pop()
                    raise UndeliveredError(
                        f"{call.what} could not be delivered within {self._finish_timeout:g} s and is "
                        f"NOT stored; the last attempt: {error}"
                    ) from None
            else:
                self._caller.close()
                return answer

    def _try_for_bound(self) -> Any | None:
        now = self._clock()
        if now < self._quiet_until:
            return None
        deadline = now + self._report_timeout
        try:
            return self._drain(deadline, self._report_timeout) if self._away else self._retry(deadline)
        except UnavailableError as error:
            if not self._away:
                say(f"the database is away ({error}); training goes on, {self._waiting[0].what} waits")
            self._away = True
            self._quiet_until = self._clock() + self._report_timeout
            return None

    def _retry(self, deadline: float) -> Any:
        """Call `_drain`, and again with back-off, until the queue is empty or the deadline is near."""
        delays = _delays()
        while True:
            try:
                return self._drain(deadline, self._report_timeout)
            except UnavailableError:
                delay = next(delays)
                if self._clock() + delay >= deadline:
                    raise
                self._sleep(delay)

    def _drain(self, deadline: float, attempt_seconds: float) -> Any:
        """Send the queue from its head, and return the result of its last call.

        Args:
            deadline: by the clock, in seconds.
            attempt_seconds: time limit of each call.

        Raises:
            UnavailableError: the rest of the queue waits.
            RefusedError: the last call was refused; the queue is empty.
        """
        answer = None
        while self._waiting:
            call = self._waiting[0]
            timeout = min(attempt_seconds, deadline - self._clock())
            if timeout <= 0:
                raise UnavailableError(f"{len(self._waiting)} calls are left after the time allowed")
            try:
                answer = self._caller.call(call, timeout)
            except RefusedError as error:
                self._waiting.popleft()
                if not self._waiting:
                    raise
                say(str(error))
                continue
            self._waiting.popleft()
            if self._away:
                self._away = False
                say(f"the database is back: {call.what} is stored")
        return answer


def _delays() -> Iterator[float]:
    """Yield delays in seconds: exponential back-off with jitter, so that not all pods come back at the same moment."""
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(2 * delay, _LONGEST_DELAY)
