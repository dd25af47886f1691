"""Decide which replica should serve which study, and number the studies' locks in PostgreSQL.

All replicas compute the same result without talking to each other, by rendezvous hashing (Thaler and Ravishankar,
"Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). Each study belongs
to the member with the highest hash of both. When a member joins, only the studies that now belong to it move; when a
member leaves, only the studies that belonged to it move.

The result is no right to serve a study. Two replicas that see different members may want the same study; then the
study's lock decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

from study_operator.model.study import StudyKey


def owner(members: Collection[int], key: StudyKey) -> int | None:
    """Return the member that a study belongs to; None when there are no members."""
    return max(members, key=lambda member: (_hash(f"{member}/{key.namespace}/{key.name}"), member), default=None)


def share(members: Collection[int], member: int, keys: Iterable[StudyKey]) -> set[StudyKey]:
    """Return the studies that belong to one of the members."""
    return {key for key in keys if owner(members, key) == member}


def lock_key(cluster_id: str, key: StudyKey) -> int:
    """Return the number of a study's lock, a signed integer of 64 bits.

    It is made of the name, not of the UID: a Study and its deleted predecessors of the same name have Jobs of the same
    names, so one replica must serve them all.
    """
    return _hash(f"study/{cluster_id}/{key.namespace}/{key.name}") - 2**63


def group_key(cluster_id: str, namespaces: Iterable[str]) -> int:
    """Return the number, of 31 bits, under which the replicas of one cluster that watch the same namespaces meet."""
    return _hash(f"replicas/{cluster_id}/{','.join(sorted(namespaces))}") >> 33


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
