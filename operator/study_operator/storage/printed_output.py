"""Stores what the operator has read from the logs of trials that report by printing lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from psycopg2.extensions import cursor
from psycopg2.extras import execute_values

from study_operator.model.final_values import has_extreme, joined, settled
from study_operator.model.log_position import Position
from study_operator.storage.database import Database, one_row


@dataclass(frozen=True)
class OutputBatch:
    """The content of some lines of one pod's log. It is stored together with the position after these lines.

    Attributes:
        reports: steps and intermediate values, in the order of the lines.
        values: what may be final of the values in these lines, by key (model/final_values.py).
        bad: how many lines look like a report and could not be read.
        last_bad: the latest of these lines, and what is wrong with it.
        warning: what the study cannot see because of the program's steps, or "". It counts as one line that could not
            be read, unless the trial has had such a line before.
        additional: the last value of each of metrics.additional in these lines, by name.
    """

    reports: Sequence[tuple[int, float]] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    bad: int = 0
    last_bad: str = ""
    warning: str = ""
    additional: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reports or self.values or self.bad or self.warning or self.additional)


class OutputStored(Enum):
    """What `Output.store` did with a batch."""

    DONE = "Done"  # the batch is stored
    STALE = "Stale"  # nothing is stored, because another reader has stored something of this log in the meantime
    ENDED = "Ended"  # nothing is stored, because the trial has ended


class Output:
    """Store the output of trials in one database. All methods block, so call them from the pool's threads.

    Every method raises `StorageUnavailable` when the connection fails, and `StorageError` when the database refuses a
    statement.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, trial_id: int, pod_uid: str) -> Position | None:
        """Return how far the log of a pod has been read, None when nothing of it has been stored."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT position FROM study_operator.log_positions WHERE trial_id = %s AND pod_uid = %s",
                (trial_id, pod_uid),
            )
            found = cursor.fetchone()
            return None if found is None else Position.of_text(found[0])

    def store(
        self, trial_id: int, pod_uid: str, before: Position | None, after: Position, batch: OutputBatch
    ) -> OutputStored:
        """Store a batch and the position after it, both or neither. So a crash at any moment loses and doubles nothing.

        As in `store_report()` of reporting.sql, a lock on the trial's row keeps the trial from ending meanwhile, the
        first value of a step stands, and the commit does not wait for the disk. If the server loses such a commit, it
        loses position and values together, and the lines are read again.

        Args:
            trial_id: the trial that printed the lines.
            pod_uid: the UID of its pod.
            before: the position that was stored last, None when there was none. The batch is stored only if the
                database has the same position. So if two processes read one log while one replaces the other, only one
                of them stores.
            after: the position after the batch.
            batch: what the lines say.

        Returns:
            Whether the batch was stored, or why not.

        Raises:
            NotHeld: when this process does not serve the trial's study.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if (study_id := _running(cursor, trial_id)) is None:
                return OutputStored.ENDED
            cursor.execute("SET LOCAL synchronous_commit = off")
            values = _with_kept(cursor, trial_id, pod_uid, batch.values) if before is not None else batch.values
            if before is None:
                cursor.execute(
                    "INSERT INTO study_operator.log_positions (trial_id, pod_uid, position, vals)"
                    " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (trial_id, pod_uid, after.as_text(), _json(values)),
                )
            else:
                cursor.execute(
                    "UPDATE study_operator.log_positions"
                    " SET position = %s, vals = vals || %s, updated_at = clock_timestamp()"
                    " WHERE trial_id = %s AND pod_uid = %s AND position = %s",
                    (after.as_text(), _json(values), trial_id, pod_uid, before.as_text()),
                )
            if cursor.rowcount != 1:
                return OutputStored.STALE
            batch = _within_limits(cursor, trial_id, study_id, batch)
            if batch.reports:
                stored = execute_values(
                    cursor,
                    "INSERT INTO trial_intermediate_values"
                    " (trial_id, step, intermediate_value, intermediate_value_type) VALUES %s"
                    " ON CONFLICT DO NOTHING RETURNING step",
                    [(trial_id, step, *_intermediate(value)) for step, value in batch.reports],
                    template="(%s, %s, %s, %s::trialintermediatevaluetype)",
                    fetch=True,
                )
                if len(stored) < len(batch.reports) and not batch.warning:
                    batch = replace(batch, warning=_dropped(cursor, trial_id, batch.reports))
            if batch.bad:
                cursor.execute(
                    "INSERT INTO study_operator.bad_reports AS b (trial_id, study_id, count, last)"
                    " VALUES (%s, %s, %s, %s) ON CONFLICT (trial_id) DO UPDATE"
                    " SET count = b.count + excluded.count, last = excluded.last, reported_at = clock_timestamp()",
                    (trial_id, study_id, batch.bad, batch.last_bad),
                )
            if batch.additional:
                _store_attributes(cursor, trial_id, batch.additional)
            if batch.warning:
                cursor.execute(
                    "INSERT INTO study_operator.bad_reports (trial_id, study_id, count, last)"
                    " VALUES (%s, %s, 1, %s) ON CONFLICT DO NOTHING",
                    (trial_id, study_id, batch.warning),
                )
            if batch.reports or batch.bad or batch.warning:
                cursor.execute("SELECT pg_notify(channel, %s) FROM study_operator.installation", (str(study_id),))
            return OutputStored.DONE

    def finish(
        self, trial_id: int, objectives: Mapping[str, str], constraints: Mapping[str, str], resumed: bool = False
    ) -> tuple[str, ...]:
        """Store the final values of objectives and constraints as the result of a trial.

        To be called when the trial's program has ended well. May be repeated, because an existing result stays as it
        is. Nothing is stored for a trial that has ended already.

        Args:
            trial_id: the trial.
            objectives: for each objective, in their order, the key of its final value (model/final_values.py).
            constraints: for each constraint, what the program calls its value.
            resumed: whether a later pod of the trial goes on where an earlier one has stopped, so that the lowest and
                highest values are those of all pods together.

        Returns:
            The objectives without a value. If there are any, nothing is stored.

        Raises:
            NotHeld: when this process does not serve the trial's study.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if _running(cursor, trial_id) is None:
                return ()
            # Each name's value is the latest of all pods, because a pod that resumes from a checkpoint may not print it
            # again.
            cursor.execute(
                "SELECT vals FROM study_operator.log_positions WHERE trial_id = %s ORDER BY updated_at", (trial_id,)
            )
            kept: dict[str, float] = {}
            for (vals,) in cursor.fetchall():
                later = {name: float(word) for name, word in vals.items()}
                kept = joined(kept, later) if resumed else {**kept, **later}
            kept = settled(kept)
            if missing := tuple(name for name, key in objectives.items() if key not in kept):
                return missing
            limited = {
                name: kept[metric] for name, metric in constraints.items() if math.isfinite(kept.get(metric, math.nan))
            }
            cursor.execute(
                "INSERT INTO study_operator.results (trial_id, vals, pruned, constraint_values)"
                " VALUES (%s, %s::float8[], false, %s) ON CONFLICT (trial_id) DO NOTHING",
                (
                    trial_id,
                    [kept[key] for key in objectives.values()],
                    json.dumps(limited),
                ),
            )
            return ()


def _with_kept(cursor: cursor, trial_id: int, pod_uid: str, values: Mapping[str, float]) -> Mapping[str, float]:
    """Return values together with the lowest and highest ones that are kept of the same log."""
    if not has_extreme(values):
        return values
    cursor.execute(
        "SELECT vals FROM study_operator.log_positions WHERE trial_id = %s AND pod_uid = %s FOR UPDATE",
        (trial_id, pod_uid),
    )
    found = cursor.fetchone()
    return joined({name: float(word) for name, word in found[0].items()}, values) if found else values


def _store_attributes(cursor: cursor, trial_id: int, values: Mapping[str, float]) -> None:
    """Store values as user attributes of a trial. JSON has neither NaN nor infinities: they are texts."""
    execute_values(
        cursor,
        "INSERT INTO trial_user_attributes AS a (trial_id, key, value_json) VALUES %s"
        " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json",
        [
            (trial_id, name, json.dumps(value if math.isfinite(value) else repr(value)))
            for name, value in values.items()
        ],
    )


def _running(cursor: cursor, trial_id: int) -> int | None:
    """Return the study_id of a RUNNING trial, and keep the trial from ending before this transaction does.

    None when the trial has ended, or does not exist.
    """
    cursor.execute("SELECT study_id, state::text FROM trials WHERE trial_id = %s FOR SHARE", (trial_id,))
    found = cursor.fetchone()
    return found[0] if found is not None and found[1] == "RUNNING" else None


def _within_limits(cursor: cursor, trial_id: int, study_id: int, batch: OutputBatch) -> OutputBatch:
    """Return what of a batch may be stored. Reports beyond a limit count as lines that could not be read."""
    if not batch.reports:
        return batch
    cursor.execute("SELECT study_operator.take_reports(%s, %s, %s)", (trial_id, study_id, len(batch.reports)))
    (fit,) = one_row(cursor)
    if left := len(batch.reports) - fit:
        words = "the trial or its study has reported as much as it may: docs/limits.md"
        batch = replace(batch, reports=batch.reports[:fit], bad=batch.bad + left, last_bad=words)
    return batch


def _dropped(cursor: cursor, trial_id: int, reports: Sequence[tuple[int, float]]) -> str:
    """Return in words that a report was dropped because its step has had another value, "" if none was.

    Earlier pods of the trial may have reported the step. `store_report()` of reporting.sql says the same.
    """
    cursor.execute(
        "SELECT step, intermediate_value, intermediate_value_type::text FROM trial_intermediate_values"
        " WHERE trial_id = %s AND step = ANY(%s)",
        (trial_id, [step for step, _ in reports]),
    )
    stored = {step: (value, kind) for step, value, kind in cursor.fetchall()}
    for step, value in reports:
        if stored[step] != _intermediate(value):
            return (
                f"step {step} came again, with {value!r}: the first value of a step stands, and others are no reports"
            )
    return ""


def _json(values: Mapping[str, float]) -> str:
    """Return values as a JSON object of texts, because JSON has neither NaN nor infinities."""
    return json.dumps({name: repr(value) for name, value in values.items()})


def _intermediate(value: float) -> tuple[float | None, str]:
    """Return an intermediate value as Optuna stores it: a finite number or NULL, and its type."""
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"
