"""What has been read from the logs of trials that report by what they print."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from psycopg2.extensions import cursor
from psycopg2.extras import execute_values

from study_operator.model.log_position import Position
from study_operator.storage.database import Database


@dataclass(frozen=True)
class Batch:
    """What some lines of one pod's log say, to be stored with the position behind them.

    `reports` are intermediate values by step, in their order; `values` the last value of each name; `bad` how many
    lines could not be read, and `last_bad` the latest of them in words.
    """

    reports: Sequence[tuple[int, float]] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    bad: int = 0
    last_bad: str = ""

    def __bool__(self) -> bool:
        return bool(self.reports or self.values or self.bad)


class Stored(Enum):
    """What came of storing a batch: done; nothing, for somebody else has read on from there; nothing, for the trial has
    ended."""

    DONE = "Done"
    STALE = "Stale"
    ENDED = "Ended"


class Output:
    """The output of all trials in one database. Every method blocks; call from the storage threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, trial_id: int, pod_uid: str) -> Position | None:
        """How far the log of a pod has been read; None when nothing of it has been stored."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT position FROM study_operator.log_positions WHERE trial_id = %s AND pod_uid = %s",
                (trial_id, pod_uid),
            )
            found = cursor.fetchone()
            return None if found is None else Position.of_text(found[0])

    def store(self, trial_id: int, pod_uid: str, before: Position | None, after: Position, batch: Batch) -> Stored:
        """Stores a batch and the position behind it, both or neither: a crash at any moment loses and doubles nothing.

        As with `report()` of reporting.sql, the trial's row is locked against its end, a step's first value stands,
        and the commit does not wait for the disk: a position that is lost with its values is read on from again.

        Args:
            before: the position that was stored last, None when there was none. It is compared, so that of two readers
                of one log (a process that is just being replaced) only one stores.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if (study_id := _running(cursor, trial_id)) is None:
                return Stored.ENDED
            cursor.execute("SET LOCAL synchronous_commit = off")
            if before is None:
                cursor.execute(
                    "INSERT INTO study_operator.log_positions (trial_id, pod_uid, position, vals)"
                    " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (trial_id, pod_uid, after.as_text(), _json(batch.values)),
                )
            else:
                cursor.execute(
                    "UPDATE study_operator.log_positions"
                    " SET position = %s, vals = vals || %s, updated_at = clock_timestamp()"
                    " WHERE trial_id = %s AND pod_uid = %s AND position = %s",
                    (after.as_text(), _json(batch.values), trial_id, pod_uid, before.as_text()),
                )
            if cursor.rowcount != 1:
                return Stored.STALE
            if batch.reports:
                execute_values(
                    cursor,
                    "INSERT INTO trial_intermediate_values"
                    " (trial_id, step, intermediate_value, intermediate_value_type) VALUES %s ON CONFLICT DO NOTHING",
                    [(trial_id, step, *_intermediate(value)) for step, value in batch.reports],
                    template="(%s, %s, %s, %s::trialintermediatevaluetype)",
                )
            if batch.bad:
                cursor.execute(
                    "INSERT INTO study_operator.bad_reports AS b (trial_id, study_id, count, last)"
                    " VALUES (%s, %s, %s, %s) ON CONFLICT (trial_id) DO UPDATE"
                    " SET count = b.count + excluded.count, last = excluded.last, reported_at = clock_timestamp()",
                    (trial_id, study_id, batch.bad, batch.last_bad),
                )
            if batch.reports or batch.bad:
                cursor.execute("SELECT pg_notify('study_operator', %s)", (str(study_id),))
            return Stored.DONE

    def finish(self, trial_id: int, objectives: Sequence[str], constraints: Sequence[str]) -> tuple[str, ...]:
        """Stores the last value of each objective and constraint as the result of a trial whose program has ended well.
        May be repeated: a result that is there stays as it is.

        Returns:
            The objectives without a value; then nothing is stored.
        """
        with self._database.transaction(trial_id=trial_id) as cursor:
            if _running(cursor, trial_id) is None:
                return ()
            # Of several pods the latest that named it: one that goes on from a checkpoint may have nothing more to say.
            cursor.execute(
                "SELECT vals FROM study_operator.log_positions WHERE trial_id = %s ORDER BY updated_at", (trial_id,)
            )
            last = {name: float(word) for (vals,) in cursor.fetchall() for name, word in vals.items()}
            if missing := tuple(name for name in objectives if name not in last):
                return missing
            cursor.execute(
                "INSERT INTO study_operator.results (trial_id, vals, pruned, constraint_values)"
                " VALUES (%s, %s::float8[], false, %s) ON CONFLICT (trial_id) DO NOTHING",
                (
                    trial_id,
                    [last[name] for name in objectives],
                    json.dumps({name: last[name] for name in constraints if name in last}),
                ),
            )
            return ()


def _running(cursor: cursor, trial_id: int) -> int | None:
    """The study of a RUNNING trial, which cannot end before this transaction does; None when it has ended."""
    cursor.execute("SELECT study_id, state::text FROM trials WHERE trial_id = %s FOR SHARE", (trial_id,))
    found = cursor.fetchone()
    return found[0] if found is not None and found[1] == "RUNNING" else None


def _json(values: Mapping[str, float]) -> str:
    """Numbers as texts: JSON has neither NaN nor infinities."""
    return json.dumps({name: repr(value) for name, value in values.items()})


def _intermediate(value: float) -> tuple[float | None, str]:
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"
