"""Which replica is to serve which study, and under which numbers PostgreSQL knows their locks.

The replicas work it out alike without talking, by rendezvous hashing (Thaler and Ravishankar, "Using name-based
mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998). Each study belongs to the member with
the highest hash of both: to one that comes, only what is its own then moves; from one that goes, only what was.

This is a wish, not a right: two replicas that see different members may want the same study, and its lock decides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import TypeVar

K = TypeVar("K", bound=tuple[str, str])  # namespace and name of a study


def owner(members: Collection[int], study: tuple[str, str]) -> int | None:
    """The member that a study belongs to; None when there are no members."""
    return max(members, key=lambda member: (_hash(f"{member}/{study[0]}/{study[1]}"), member), default=None)


def share(members: Collection[int], member: int, studies: Iterable[K]) -> set[K]:
    """Those of some studies that belong to one of the members."""
    return {study for study in studies if owner(members, study) == member}


def lock_key(cluster_id: str, study: tuple[str, str]) -> int:
    """The number of a study's lock, a signed integer of 64 bits.

    By name, not by UID: a Study, its deleted predecessors of that name and their Jobs, which share names too, are one
    replica's affair.
    """
    return _hash(f"study/{cluster_id}/{study[0]}/{study[1]}") - 2**63


def group_key(cluster_id: str, namespaces: Iterable[str]) -> int:
    """The number, of 31 bits, under which replicas find each other: those of one cluster that watch the same
    namespaces."""
    return _hash(f"replicas/{cluster_id}/{','.join(sorted(namespaces))}") >> 33


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
