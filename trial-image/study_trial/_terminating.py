"""SIGTERM in a trial's pod: raise one exception in the main thread, so that the script can save its state."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

from study_trial._errors import StudyTrialError, Terminated
from study_trial._output import say

_installed = False
_held = False  # a final value is being sent, so the exception waits
_asked = False
_raised = False
_AGAIN_SECONDS = 0.01


def install() -> None:
    """Make SIGTERM raise `Terminated` in the main thread.

    Does nothing in another thread, because Python allows no handlers there. Does nothing either if the program or its
    training framework handles the signal itself.
    """
    global _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    _installed = True
    signal.signal(signal.SIGTERM, _on_sigterm)
    _never_lose()
    # A data loader ends its workers with the same signal, and they have nothing to save. The signal is blocked around
    # the fork, because Python loses a signal that comes between the fork and the child's first step.
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_uninstall)


class Hold:
    """Context that defers `Terminated` in the main thread, so that a final value is stored before the pod ends."""

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
                say(str(error))  # `Terminated` replaces this error, which may hold the final value
            _raise()


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if not _held and not _raised:  # once: a second signal must not interrupt the script's saving
        _raise()


def _raise() -> None:
    global _raised
    _raised = True
    raise Terminated


def _never_lose() -> None:
    """Raise `Terminated` again where Python has lost it: an exception in a finalizer ends nothing but the finalizer."""
    before = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        global _raised
        if not issubclass(lost.exc_type, Terminated):
            return before(lost)
        _raised = False
        # Not at once: Python is still in the finalizer, or in the next one.
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _uninstall() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()
