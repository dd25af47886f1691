"""SIGTERM in a trial's pod: an exception in the main thread, once, so that the script can save its state."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from study_trial._errors import StudyTrialError, Terminated
from study_trial._output import say

_installed = False
_held = False  # a final value is on its way
_asked = False
_raised = False


def install() -> None:
    """Lets SIGTERM raise `Terminated` in the main thread.

    Does nothing in another thread, where Python allows no handlers, and when the program (or a training framework)
    handles the signal itself.
    """
    global _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    _installed = True
    signal.signal(signal.SIGTERM, _on_sigterm)
    # A worker of a data loader is ended by its parent with the same signal, and has nothing to save. The signal is
    # blocked meanwhile, because Python forgets one that comes between the fork and the child's first step.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_uninstall)


class Hold:
    """While the main thread has entered it SIGTERM waits: a result is worth the time that the pod has left."""

    def __enter__(self) -> None:
        global _held
        _held = threading.current_thread() is threading.main_thread()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _held
        if not _held:
            return
        _held = False
        if _asked and not _raised:
            if isinstance(error, StudyTrialError):
                say(str(error))  # `Terminated` ends a process without a word, and this may hold the final value
            _raise()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if not _held and not _raised:  # a second signal must not interrupt the saving
        _raise()


def _raise() -> None:
    global _raised
    _raised = True
    raise Terminated


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _uninstall() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()
