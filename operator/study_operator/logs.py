"""Logs as text or JSON, with namespace, study and trial on every line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

_study: ContextVar[tuple[str, str]] = ContextVar("study", default=("-", "-"))
_trial: ContextVar[str] = ContextVar("trial", default="-")


@contextmanager
def study_context(namespace: str, name: str) -> Iterator[None]:
    """Lines logged inside are about this study."""
    token = _study.set((namespace, name))
    try:
        yield
    finally:
        _study.reset(token)


@contextmanager
def trial_context(number: int) -> Iterator[None]:
    """Lines logged inside are about this trial."""
    token = _trial.set(str(number))
    try:
        yield
    finally:
        _trial.reset(token)


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        namespace, study = _study.get()
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        fields = {
            "time": time,
            "level": record.levelname.lower(),
            "namespace": namespace,
            "study": study,
            "trial": _trial.get(),
            "logger": record.name,
            "message": message,
        }
        if self._json:
            return json.dumps(fields)
        return f"{time} {fields['level']:<7} namespace={namespace} study={study} trial={fields['trial']} {message}"


def configure(log_format: str, level: str) -> None:
    """Sends all logs to standard error.

    Args:
        log_format: text or json.
        level: debug, info, warning or error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)  # Optuna's, on lines like all others
    # These report every request or handler call; what matters of it is logged here.
    for name in ("kopf", "optuna", "alembic", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
        logging.getLogger(name).propagate = True
    # What breaks a watch off is one sentence of watch.py, and signals are not kopf's to receive.
    for name in ("running", "orchestration"):
        logging.getLogger(f"kopf._core.reactor.{name}").setLevel(logging.CRITICAL)
