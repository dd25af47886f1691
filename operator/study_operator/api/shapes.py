"""Writes trials and lists in the form that a client has asked for: whole, as rows of a Table, or their metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from study_operator.api import accepting, numbers, tables
from study_operator.api.accepting import Form
from study_operator.api.refusals import not_acceptable
from study_operator.api.resources import GROUP_VERSION, TRIALS
from study_operator.api.trial_objects import Identity, trial_object
from study_operator.model.readable import ReadableTrial


@dataclass(frozen=True)
class Shape:
    """The form of an answer.

    Attributes:
        form: which.
        version: of meta.k8s.io, for all forms but the object itself.
        include: of a Table, what each row has of its object.
    """

    form: Form
    version: str = "v1"
    include: str = "Metadata"

    @classmethod
    def of_list(cls, accept: str, include: str) -> Shape:
        """Return the form of a list. Args: the Accept header; see `include`. Raises Refusal if no form is had."""
        return cls._wanted(accept, include, Form.METADATA_LIST)

    @classmethod
    def of_one(cls, accept: str, include: str) -> Shape:
        """Return the form of one object, or of a watch. Args and Raises as `of_list`."""
        return cls._wanted(accept, include, Form.METADATA)

    @classmethod
    def _wanted(cls, accept: str, include: str, metadata: Form) -> Shape:
        found = accepting.form(accept, (Form.TABLE, metadata))
        if found is None:
            raise not_acceptable()
        return cls(found[0], found[1] or "v1", include)

    @property
    def is_table(self) -> bool:
        """Whether it is a Table."""
        return self.form is Form.TABLE

    def trial(self, trial: ReadableTrial, version: int) -> Any:
        """Return a trial: of a Table its row.

        Args:
            version: the resource version.
        """
        whole = trial_object(trial, version)
        if not self.is_table:
            return whole if self.form is Form.OBJECT else tables.partial(self.version, whole)
        cells = tables.trial_cells(trial, whole["metadata"]["name"], tables.now())
        return tables.row((cells, tables.row_object(self.include, self.version, whole)))

    def bare(self, trial: Identity, version: int) -> Any:
        """Return a trial whose rows are gone, likewise."""
        whole = trial.bare(version)
        if not self.is_table:
            return whole if self.form is Form.OBJECT else tables.partial(self.version, whole)
        cells = tables.bare_cells(trial.name, trial.study, str(trial.state or "<unknown>"))
        return tables.row((cells, tables.row_object(self.include, self.version, whole)))

    def alone(self, version: int, shown: Any) -> Any:
        """Return what `trial` or `bare` has returned as it stands alone: a row in a Table.

        Args:
            version: the resource version.
        """
        if not self.is_table:
            return shown
        head = tables.head(self.version, tables.TRIAL_COLUMNS, {"resourceVersion": str(version)})
        return head | {"rows": [shown]}

    def bookmark(self, version: int, ends_initial: bool) -> Any:
        """Return the object of a bookmark.

        Args:
            version: the resource version that the client has reached.
            ends_initial: whether it ends the objects that there were at the beginning.
        """
        metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        if ends_initial:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        if self.form is Form.OBJECT:
            return {"kind": TRIALS.kind, "apiVersion": GROUP_VERSION, "metadata": metadata}
        whole = tables.partial(self.version, {"metadata": metadata})
        return self.alone(version, tables.row(([], whole))) if self.is_table else whole

    def opening(self, meta: Mapping[str, Any]) -> bytes:
        """Return the JSON of a list up to its first element.

        Args:
            meta: the list's metadata.
        """
        if self.is_table:
            head, field = tables.head(self.version, tables.TRIAL_COLUMNS, meta), "rows"
        elif self.form is Form.OBJECT:
            head, field = {"kind": TRIALS.list_kind, "apiVersion": GROUP_VERSION, "metadata": meta}, "items"
        else:
            kind, version = Form.METADATA_LIST.value, f"meta.k8s.io/{self.version}"
            head, field = {"kind": kind, "apiVersion": version, "metadata": meta}, "items"
        return numbers.encode(head).removesuffix(b"}") + f',"{field}":['.encode()


CLOSING = b"]}\n"
