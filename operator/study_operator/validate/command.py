"""The command `study-operator validate`: files in, findings and an exit code out."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from study_operator.model.study import GROUP, KIND, VERSION
from study_operator.texts import one_line
from study_operator.validate.checks import findings
from study_operator.validate.documents import Document, read
from study_operator.validate.schema import Finding, Schema, study_schema

VALID, REFUSED, UNREADABLE = 0, 1, 2
HELP = """\
checks Studies without a cluster: schema and rules of the API, options of sampler and pruner, the search space, and the
variables that the Job template refers to. A file may have several documents; what is no Study in it is passed over.

exit codes:
  0  every Study can be run, as far as that can be said here; there may be warnings
  1  a Study would be refused
  2  a file cannot be read, or has no Study
"""


def validate(files: Sequence[str]) -> int:
    """Check the Studies of files, and print what is found.

    Args:
        files: paths; "-" is standard input.

    Returns:
        The exit code: see `HELP`.
    """
    schema, code, unchecked = study_schema(), VALID, dict[str, None]()
    for file in files:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
            documents = list(read(text))
        except (OSError, ValueError) as error:
            print(f"{file}: cannot be read: {one_line(str(error))}")
            code = UNREADABLE
            continue
        studies = [document for document in documents if _is_ours(document.value)]
        if not studies:
            katib = any(_is_katib(document.value) for document in documents)
            words = ", but an Experiment of Katib: docs/coming-from-katib.md has it field by field" if katib else ""
            print(f"{file}: has no Study (apiVersion: {GROUP}/{VERSION}, kind: {KIND}){words}")
            code = UNREADABLE
        for document in studies:
            found = list(_study(file, document, schema, unchecked))
            if any(found) and code == VALID:
                code = REFUSED
    if unchecked:
        print("not checked:")
        for words in unchecked:
            print(f"  - {one_line(words)}")
    return code


def _is_ours(value: Any) -> bool:
    return isinstance(value, dict) and (
        value.get("kind") == KIND or str(value.get("apiVersion")).split("/")[0] == GROUP
    )


def _is_katib(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("kind") == "Experiment"
        and str(value.get("apiVersion")).startswith("kubeflow.org/")
    )


def _study(file: str, document: Document, schema: Schema, unchecked: dict[str, None]) -> Iterator[bool]:
    """Print what is found about one Study. Yields for each finding whether the Study would be refused by it."""
    found = list(_findings(document, schema, unchecked))
    for path, message, refused in sorted(found, key=lambda finding: document.line_of(finding.path)):
        words = f"{path}: {message}" if path else message
        print(one_line(f"{file}:{document.line_of(path)}: {'error' if refused else 'warning'}: {words}"))
        yield refused
    metadata = document.value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    errors = sum(finding.refused for finding in found)
    result = f"would be refused, {errors} error{'s' * (errors != 1)}" if errors else "can be run, as far as checked"
    print(one_line(f"{file}:{document.line}: Study {name or 'without a name'} {result}"))


def _findings(document: Document, schema: Schema, unchecked: dict[str, None]) -> Iterator[Finding]:
    value = document.value
    for path in document.twice:
        yield Finding(path, "is given twice, and the last one counts: remove one of them", refused=False)
    if (value.get("apiVersion"), value.get("kind")) != (f"{GROUP}/{VERSION}", KIND):
        yield Finding("apiVersion", f"must be {GROUP}/{VERSION}, with the kind {KIND}")
        return
    found, not_checked = findings(value, schema)
    unchecked.update(dict.fromkeys(not_checked))
    yield from found
