"""Tables and files: what a command prints, on a terminal and into a pipe."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from study_client.texts import csv_cell, one_line
from study_client.yaml_text import to_yaml

_COLOURS = {
    **dict.fromkeys(("Succeeded", "Complete", "ok"), "green"),
    **dict.fromkeys(("Running",), "cyan"),
    **dict.fromkeys(("Failed", "Refused", "missing"), "red"),
    **dict.fromkeys(("Waiting", "Pending", "Pruned", "Infeasible", "Suspended"), "yellow"),
}


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: with colours where standard output is a terminal and `rich` is installed, else plain."""
    lines = [[one_line(cell) for cell in row] for row in rows]
    if not (sys.stdout.isatty() and _print_rich(head, lines)):
        print(table_text(head, lines))


def table_text(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as kubectl writes one: columns with three blanks between them."""
    lines = [list(head), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _print_rich(head: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Print a table with rich. Return whether it is installed."""
    try:
        console, table = importlib.import_module("rich.console"), importlib.import_module("rich.table")
        text = importlib.import_module("rich.text")
    except ImportError:
        return False
    shown = table.Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for name in head:
        shown.add_column(name, overflow="fold")
    for row in rows:
        # As Text: what tenants write is no markup.
        shown.add_row(*(text.Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.Console().print(shown)
    return True


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a CSV file (RFC 4180) that no spreadsheet takes for formulas."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([csv_cell(cell) for cell in head])
    writer.writerows([csv_cell(cell) for cell in row] for row in rows)
    return written.getvalue()


def json_text(value: Any) -> str:
    """Return a value as JSON in several lines. Characters beyond ASCII are escaped, so that none speaks to a
    terminal."""
    return json.dumps(value, indent=2)


def print_as(form: str, value: Any) -> None:
    """Print a value as json or yaml."""
    print(to_yaml(value) if form == "yaml" else json_text(value) + "\n", end="")


def print_names(resource: str, objects: Iterable[Mapping[str, Any]]) -> None:
    """Print names of objects as `kubectl get -o name` does."""
    for one in objects:
        print(one_line(f"{resource}/{one['metadata']['name']}"))
