"""Which database this is, and what it knows of a Study. Asked before anything of the study is touched."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NamedTuple

from study_operator.model.mark import Place, Stored
from study_operator.storage.database import Database, StorageError, one_row


class Found(NamedTuple):
    """What a database says of itself, and of one Study.

    Attributes:
        place: which database it is.
        incarnation: a short text that a restore changes.
        restored_at: when it was last found to have been restored, aware; None for never.
        stored: the Study's rows; None if it has none.
    """

    place: Place
    incarnation: str
    restored_at: datetime | None
    stored: Stored | None


class Whereabouts:
    """What one database knows of the Studies of one cluster. The method blocks, so call it from the pool's threads.

    Args:
        database: the database.
        cluster_id: the UID of the cluster's namespace kube-system.
    """

    def __init__(self, database: Database, cluster_id: str) -> None:
        self._database, self._cluster_id = database, cluster_id

    def find(self, uid: str) -> Found:
        """Return where this is, and the rows of the Study with this UID, if there are any.

        Raises:
            StorageUnavailable: the database does not answer.
            StorageError: the database refuses the query, or has never been migrated.
        """
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT h.server, h.database, h.id, h.incarnation, h.restored_at, a.study_id, a.token, s.study_name"
                " FROM study_operator.here() h"
                " LEFT JOIN study_operator.access a ON a.cluster_id = %s AND a.uid = %s"
                " LEFT JOIN studies s ON s.study_id = a.study_id",
                (self._cluster_id, uid),
            )
            server, database, identity, incarnation, restored_at, study_id, token, name = one_row(cursor)
        if identity is None:
            raise StorageError("the database has lost its identity: run `study-operator migrate`")
        stored = None if study_id is None else Stored(study_id, token, name)
        short = hashlib.sha256(incarnation.encode()).hexdigest()[:12]
        return Found(Place(self._cluster_id, server, database, identity), short, restored_at, stored)
