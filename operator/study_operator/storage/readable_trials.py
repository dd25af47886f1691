"""What the trials API asks the database, as the reader's login: trials, reports, and what has changed.

Each question is bounded: in rows, in time by the pool's statement timeout, and in connections by the pool. A page and
the number that it is read at come from one snapshot.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from psycopg2.extensions import connection, cursor

from study_operator.model.distributions import Distribution
from study_operator.model.readable import (
    Changes,
    Columns,
    Gone,
    Key,
    Page,
    ReadableReport,
    ReadableStudy,
    ReadableTrial,
    Where,
    columns,
)
from study_operator.storage.database import one_row
from study_operator.storage.readable_rows import (
    CHANGE_COLUMNS,
    STUDY_COLUMNS,
    TRIAL_COLUMNS,
    change_of,
    distribution_of,
    study_of,
    trial_of,
    unknown_distributions,
)
from study_operator.storage.reader_pool import ReaderPool, call

# Rows of trials, and of reports, that are in memory at once.
MOST_AT_ONCE, MOST_REPORTS = 500, 10_000
# Of a whole study: reports of each trial, and trials that are read at once with them.
REPORTS_OF_EACH, _TRIALS_WITH_REPORTS = 1_000, 50
# The distributions of one page, in characters together. Parameters of others are left out.
_MOST_DISTRIBUTIONS = 8_000_000

_NUMBER = "SELECT study_reading.number_changes()"
_STUDIES = (
    f"SELECT {STUDY_COLUMNS} FROM study_reading.studies s WHERE s.cluster_id = %(cluster)s AND s.deleted = %(deleted)s"
    " AND (%(namespace)s IS NULL OR s.namespace = %(namespace)s) AND (%(study)s IS NULL OR s.name = %(study)s)"
    " AND (%(uid)s IS NULL OR starts_with(s.uid, %(uid)s))"
)
# The next trials by key: studies one after the other, each in the order of an index.
_KEYS = (
    "SELECT k.trial_id FROM (SELECT study_id FROM ({studies} AND s.study_id >= %(after_study)s) f ORDER BY study_id) s,"
    " LATERAL (SELECT t.trial_id, t.number FROM study_reading.trials t WHERE t.study_id = s.study_id"
    " AND t.number > CASE WHEN s.study_id = %(after_study)s THEN %(after_number)s ELSE -1 END{filter}"
    " ORDER BY t.number LIMIT %(most)s) k ORDER BY s.study_id, k.number LIMIT %(most)s"
)
_TRIALS = f"SELECT {TRIAL_COLUMNS} FROM study_reading.trials WHERE trial_id = ANY(%s) ORDER BY study_id, number"
_REPORTS = (
    "(SELECT array_agg(ARRAY[r.step, r.value] ORDER BY r.step) FROM (SELECT i.step::double precision, i.value,"
    " row_number() OVER (ORDER BY i.step) - 1 AS nth, count(*) OVER () - 1 AS last"
    " FROM study_reading.reports i WHERE i.trial_id = t.trial_id) r"
    f" WHERE r.nth %% (r.last / {REPORTS_OF_EACH} + 1) = 0 OR r.nth = r.last)"
)


class ReadableTrials:
    """Studies and trials of one cluster. All methods block, so call them from threads.

    Every method raises `StorageUnavailable` when the database does not answer or every connection is in use, and
    `StorageError` when it refuses a statement, or when that takes too long.

    Args:
        pool: the reader's connections.
        cluster_id: the UID of the cluster's namespace kube-system. Clusters may share a database.
    """

    def __init__(self, pool: ReaderPool, cluster_id: str) -> None:
        self._pool, self._cluster_id = pool, cluster_id

    def check(self) -> None:
        """Check that the database answers and has the views."""
        with self._snapshot() as cursor:
            cursor.execute("SELECT last FROM study_reading.numbers")
            one_row(cursor)

    def page(self, where: Where, limit: int = MOST_AT_ONCE, after: Key | None = None) -> Page:
        """Return the next trials in the order of their keys.

        Args:
            where: which trials.
            limit: how many at most; never more than MOST_AT_ONCE.
            after: the key of the last trial of the page before; None for the first page.
        """
        limit = min(max(limit, 1), MOST_AT_ONCE)
        with self._pool.lend() as connection:
            if after is None:
                call(connection, _NUMBER)  # or a watch from here on would tell again what the page shows
            with _reading(connection) as cursor:
                cursor.execute("SELECT last FROM study_reading.numbers")
                (at,) = one_row(cursor)
                ids = self._ids(cursor, where, limit + 1, after or Key(0, -1))
                found = self._read(cursor, ids[:limit])
        more = len(ids) > limit and found
        return Page(found, Key(found[-1].study.study_id, found[-1].number) if more else None, at)

    def trial(self, where: Where) -> ReadableTrial | None:
        """Return the first trial that is meant; None if there is none."""
        with self._snapshot() as cursor:
            found = self._read(cursor, self._ids(cursor, where, 1, Key(0, -1)))
        return found[0] if found else None

    def trials(self, keys: Sequence[Key]) -> list[ReadableTrial]:
        """Return trials by their keys, MOST_AT_ONCE at most, in the order of keys. One that is gone is missing."""
        wanted = [*dict.fromkeys(keys)][:MOST_AT_ONCE]
        with self._snapshot() as cursor:
            cursor.execute(
                "SELECT t.trial_id FROM unnest(%s::int[], %s::int[]) k (study_id, number)"
                " JOIN study_reading.trials t USING (study_id, number)",
                ([key.study_id for key in wanted], [key.number for key in wanted]),
            )
            return self._read(cursor, [trial_id for (trial_id,) in cursor.fetchall()])

    def reports(self, trial: ReadableTrial, after_step: int = -1, limit: int = MOST_REPORTS) -> list[ReadableReport]:
        """Return the next reports of a trial by step, `limit` at most, and never more than MOST_REPORTS."""
        with self._snapshot() as cursor:
            cursor.execute(
                "SELECT step, value FROM study_reading.reports WHERE trial_id = %s AND step > %s"
                " ORDER BY step LIMIT %s",
                (trial.trial_id, after_step, min(limit, MOST_REPORTS)),
            )
            return [ReadableReport(step, value) for step, value in cursor.fetchall()]

    def study(self, where: Where) -> ReadableStudy | None:
        """Return the first study that is meant; None if there is none."""
        found = self.studies(where, 1)
        return found[0] if found else None

    def studies(self, where: Where, limit: int = MOST_AT_ONCE, after_id: int = 0) -> list[ReadableStudy]:
        """Return the next studies by study_id, `limit` at most, and never more than MOST_AT_ONCE."""
        with self._snapshot() as cursor:
            cursor.execute(
                f"{_STUDIES} AND s.study_id > %(after)s ORDER BY s.study_id LIMIT %(most)s",
                {**self._named(where), "after": after_id, "most": min(limit, MOST_AT_ONCE)},
            )
            return [study_of(row) for row in cursor.fetchall()]

    @contextmanager
    def whole(self, study: ReadableStudy, with_reports: bool = True) -> Iterator[Iterator[Columns]]:
        """Give the trials of a study by columns, some at a time, all from one snapshot.

        The caller reads them without long breaks: the server ends a transaction that does nothing for 30 seconds.

        Args:
            study: the study.
            with_reports: whether reports are read, too: of each trial REPORTS_OF_EACH at most, spread evenly.
        """
        with self._snapshot() as others, closing(self._chunks(others, study, with_reports)) as chunks:
            yield chunks

    def number(self) -> int:
        """Give numbers to what has changed, and return the last number."""
        with self._pool.lend() as connection:
            return int(call(connection, _NUMBER))

    def changes(self, since: int, limit: int = MOST_AT_ONCE) -> Changes:
        """Give numbers to what has changed, and return the changes after a number.

        Args:
            since: the last number that is known already.
            limit: how many changes at most; never more than MOST_AT_ONCE.

        Raises:
            Gone: when changes since that number are not kept any more, or the number was never given out.
        """
        limit = min(max(limit, 1), MOST_AT_ONCE)
        with self._pool.lend() as connection:
            call(connection, _NUMBER)
            with _reading(connection) as cursor:
                cursor.execute("SELECT last, gone FROM study_reading.numbers")
                last, gone = one_row(cursor)
                if not gone <= since <= last:
                    raise Gone(gone)
                cursor.execute(
                    f"SELECT {CHANGE_COLUMNS} FROM study_reading.changes WHERE number > %s AND cluster_id = %s"
                    " ORDER BY number LIMIT %s",
                    (since, self._cluster_id, limit + 1),
                )
                rows = cursor.fetchall()
        found = [change_of(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Changes(found, found[-1].number if more else last, more)

    @contextmanager
    def _snapshot(self) -> Iterator[cursor]:
        with self._pool.lend() as connection, _reading(connection) as cursor:
            yield cursor

    def _named(self, where: Where) -> dict[str, Any]:
        return {
            "cluster": self._cluster_id,
            "deleted": where.deleted,
            "namespace": where.namespace,
            "study": where.study,
            "uid": where.uid,
        }

    def _ids(self, cursor: cursor, where: Where, most: int, after: Key) -> list[int]:
        """Return the trial_ids of the next trials."""
        filters = ""
        if where.states is not None:
            filters += " AND t.state = ANY(%(states)s)"
        if where.number is not None:
            filters += " AND t.number = %(number)s"
        cursor.execute(
            _KEYS.format(studies=_STUDIES, filter=filters),
            {
                **self._named(where),
                "states": [str(state) for state in where.states or ()],
                "number": where.number,
                "after_study": after.study_id,
                "after_number": after.number,
                "most": most,
            },
        )
        return [trial_id for (trial_id,) in cursor.fetchall()]

    def _read(self, cursor: cursor, ids: list[int]) -> list[ReadableTrial]:
        """Return the trials with these ids, in the order of keys."""
        if not ids:
            return []
        cursor.execute(_TRIALS, (ids,))
        rows = cursor.fetchall()
        cursor.execute(
            f"SELECT {STUDY_COLUMNS} FROM study_reading.studies WHERE study_id = ANY(%s) AND cluster_id = %s",
            ([*{row[0] for row in rows}], self._cluster_id),
        )
        studies = {study.study_id: study for study in map(study_of, cursor.fetchall())}
        known: dict[tuple[int, int], Distribution | None] = {}
        _learn(cursor, rows, known)
        return [trial_of(row, studies, known) for row in rows if row[0] in studies]

    def _chunks(self, others: cursor, study: ReadableStudy, with_reports: bool) -> Generator[Columns]:
        reports = _REPORTS if with_reports else "NULL"
        studies, known = {study.study_id: study}, dict[tuple[int, int], Distribution | None]()
        most = _TRIALS_WITH_REPORTS if with_reports else MOST_AT_ONCE
        with others.connection.cursor("whole") as stored:
            stored.execute(
                f"SELECT {TRIAL_COLUMNS}, {reports} FROM study_reading.trials t WHERE t.study_id = %s"
                " ORDER BY t.number",
                (study.study_id,),
            )
            while rows := stored.fetchmany(most):
                _learn(others, rows, known)
                told = [row[-1] or [] for row in rows] if with_reports else []
                yield columns(
                    [trial_of(row[:-1], studies, known) for row in rows],
                    [([int(step) for step, _ in pairs], [value for _, value in pairs]) for pairs in told],
                )


@contextmanager
def _reading(connection: connection) -> Iterator[cursor]:
    """Open a transaction that sees one snapshot and changes nothing."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield cursor


def _learn(cursor: cursor, rows: Sequence[Sequence[Any]], known: dict[tuple[int, int], Distribution | None]) -> None:
    """Read the distributions of rows that are not known yet. A study's trials have few different ones."""
    places = {key: place for key, place in unknown_distributions(rows).items() if key not in known}
    if not places:
        return
    cursor.execute(
        "SELECT study_id, hashed, distribution FROM (SELECT w.study_id, w.hashed, p.distribution,"
        " sum(length(p.distribution)) OVER (ORDER BY w.place) AS size"
        " FROM unnest(%s::int[], %s::bigint[], %s::int[], %s::text[]) WITH ORDINALITY"
        " AS w (study_id, hashed, trial_id, name, place) JOIN study_reading.params p USING (trial_id, name)) f"
        " WHERE size <= %s",
        (
            [study_id for study_id, _ in places],
            [hashed for _, hashed in places],
            [trial_id for trial_id, _ in places.values()],
            [name for _, name in places.values()],
            _MOST_DISTRIBUTIONS,
        ),
    )
    known.update(dict.fromkeys(places))
    for study_id, hashed, text in cursor:
        known[study_id, hashed] = distribution_of(text)
