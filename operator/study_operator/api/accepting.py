"""Reads Accept headers: in which form a client wants an answer, among those that the trials API has.

Clients name a media type with parameters, as `application/json;as=Table;g=meta.k8s.io;v=v1`, several in the order in
which they would like them.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

_MOST = 2048  # characters of a header that are read; kubectl's has some 150


class Form(StrEnum):
    """In which form objects and lists can be answered."""

    OBJECT = "the object itself"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"
    METADATA_LIST = "PartialObjectMetadataList"


class Wanted(NamedTuple):
    """One media type of a header.

    Attributes:
        media: type and subtype, as application/json, or with `*`.
        kind: the parameter `as`; empty if there is none.
        group: the parameter `g`.
        version: the parameter `v`.
    """

    media: str
    kind: str = ""
    group: str = ""
    version: str = ""


def wanted(header: str) -> list[Wanted]:
    """Return what an Accept header names, the most wanted first. An empty header wants anything."""
    found: list[tuple[float, Wanted]] = []
    for part in header[:_MOST].split(",") if header.strip() else ["*/*"]:
        media, *parameters = (piece.strip() for piece in part.split(";"))
        given = dict(piece.partition("=")[::2] for piece in parameters)
        try:
            quality = float(given.get("q", "1"))
        except ValueError:
            quality = 0.0
        if quality > 0:
            found.append((-quality, Wanted(media.lower(), given.get("as", ""), given.get("g", ""), given.get("v", ""))))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]  # sorted keeps the order among equals


def is_json(media: str) -> bool:
    """Return whether a media type is JSON, or stands for it."""
    return media in ("application/json", "application/*", "*/*")


def form(header: str, forms: Collection[Form]) -> tuple[Form, str] | None:
    """Return the form of an answer and the version of meta.k8s.io in which it is wanted; None if no form is had.

    Args:
        header: the Accept header.
        forms: those that the answer can have; the object itself is always among them.
    """
    for one in wanted(header):
        if not is_json(one.media):
            continue
        if not one.kind:
            return Form.OBJECT, ""
        if one.group == "meta.k8s.io" and one.version in ("v1", "v1beta1") and one.kind in forms:
            return Form(one.kind), one.version
    return None
