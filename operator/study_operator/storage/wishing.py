"""Note what people wish, as the reader's login, and read what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import psycopg2

from study_operator.model.wish import Act, Wish, WishRefused
from study_operator.storage.readable_rows import WISH_COLUMNS, wish_of
from study_operator.storage.reader_pool import ReaderPool, call

_MISSING, _REFUSED = "SO012", ("SO006", "SO012", "SO013")


class Wishing:
    """The wishes of one cluster. The methods block, and raise `StorageUnavailable` and `StorageError` as the pool does.

    Who may have a wish is for the caller to find out before.

    Args:
        pool: the reader's connections.
        cluster_id: the UID of the cluster's namespace kube-system.
    """

    def __init__(self, pool: ReaderPool, cluster_id: str) -> None:
        self._pool, self._cluster_id = pool, cluster_id

    def note(
        self,
        study_id: int,
        act: Act,
        wished_by: str,
        number: int | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> int:
        """Note a wish, and wake the operator. One that is noted already, and has no answer yet, is not noted again.

        Args:
            study_id: the study's, in the database.
            act: what is wished.
            wished_by: the user's name, as Kubernetes knows it.
            number: the trial's, if the act is one of a trial.
            content: what the act needs to know, as JSON of at most 64 KiB.

        Returns:
            The wish's number.

        Raises:
            WishRefused: it does not fit the study, or the namespace has a thousand wishes without an answer.
        """
        arguments = (self._cluster_id, study_id, number, str(act), json.dumps(content or {}), wished_by)
        with self._pool.lend() as connection:
            try:
                return int(call(connection, "SELECT study_reading.wish(%s, %s, %s, %s, %s::jsonb, %s)", arguments))
            except psycopg2.Error as error:
                if error.pgcode not in _REFUSED:
                    raise
                raise WishRefused(error.diag.message_primary or "", error.pgcode == _MISSING) from None

    def find(self, wish_id: int) -> Wish | None:
        """Return a wish with its answer, if it has one; None if there is no such wish, or not any more."""
        with self._pool.lend() as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {WISH_COLUMNS} FROM study_reading.wishes WHERE wish_id = %s AND cluster_id = %s",
                (wish_id, self._cluster_id),
            )
            row = cursor.fetchone()
            return None if row is None else wish_of(row)
