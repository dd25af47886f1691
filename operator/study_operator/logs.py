"""Configures logs as text or JSON, with namespace, study and trial on every line.

Whatever a message quotes, it stays one line: in text, only what begins with a time begins a line about something.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter

from study_operator.texts import one_line

_TEXT = "%(time)s %(level)-7s namespace=%(namespace)s study=%(study)s trial=%(trial)s %(message)s"
# The keys of a JSON line, in this order, and the attributes of a record that they show.
_FIELDS = {
    "time": "time",
    "level": "level",
    "namespace": "namespace",
    "study": "study",
    "trial": "trial",
    "name": "logger",
    "message": "message",
}
# Keys of lines that have something to show there.
_MORE = ("exc_info", "stack_info")
# Stands before each line of a traceback, which quotes exceptions: in text, such a line would look like any other.
_QUOTED = "  | "

_study: ContextVar[tuple[str, str]] = ContextVar("study", default=("-", "-"))
_trial: ContextVar[str] = ContextVar("trial", default="-")


@contextmanager
def study_context(namespace: str, name: str) -> Iterator[None]:
    """Mark lines that are logged inside as being about a study."""
    token = _study.set((namespace, name))
    try:
        yield
    finally:
        _study.reset(token)


def current_namespace() -> str | None:
    """Return the namespace of the study that the current code is about; None if it is about none."""
    namespace, _ = _study.get()
    return None if namespace == "-" else namespace


@contextmanager
def trial_context(number: int) -> Iterator[None]:
    """Mark lines that are logged inside as being about a trial."""
    token = _trial.set(str(number))
    try:
        yield
    finally:
        _trial.reset(token)


class _Context(logging.Filter):
    """Adds to each record the study and trial that it is about, and its time and level as lines show them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields. Let every record pass."""
        record.time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        record.level = record.levelname.lower()
        record.namespace, record.study = map(one_line, _study.get())
        record.trial = _trial.get()
        return True


class _TextFormatter(logging.Formatter):
    """One line of text for each event; the lines of a traceback are indented below it."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, without a traceback."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Return a traceback."""
        return _lines(super().formatException(ei), _QUOTED)

    def formatStack(self, stack_info: str) -> str:
        """Return where something was logged."""
        return _lines(super().formatStack(stack_info), _QUOTED)


class _JsonFormatter(JsonFormatter):
    """One JSON object a line. Leaves out what libraries attach to their records, because it may be anything."""

    def __init__(self) -> None:
        super().__init__(list(_FIELDS), rename_fields=_FIELDS)

    def process_log_record(self, log_data: LogData) -> LogData:
        """Return the fields that a line shows."""
        shown = {key: log_data[key] for key in (*_FIELDS.values(), *_MORE) if key in log_data}
        return {key: _lines(str(value)) if key in _MORE else one_line(str(value)) for key, value in shown.items()}


def _lines(text: str, before: str = "") -> str:
    """Return a text of several lines, each of them safe to show."""
    return "\n".join(before + one_line(line) for line in text.split("\n"))


def configure(log_format: str, level: str) -> None:
    """Send all logs to standard error.

    Args:
        log_format: text or json.
        level: debug, info, warning or error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Context())
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)  # Optuna's, on lines like all others
    # These log every request or handler call. The operator logs itself what matters of it.
    for name in ("kopf", "optuna", "alembic", "aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
        logging.getLogger(name).propagate = True
    # controller/study_watch.py logs in one sentence why a watch was broken off, and signals are not kopf's to receive.
    for name in ("running", "orchestration"):
        logging.getLogger(f"kopf._core.reactor.{name}").setLevel(logging.CRITICAL)
