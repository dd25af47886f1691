"""The Studies of the pages: the blocks of YAML that readers copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """The blocks of YAML of a page, each with the number of its first line."""
    text = page.read_text()
    return [(text.count("\n", 0, found.start(1)) + 1, found[1]) for found in _BLOCK.finditer(text)]


def studies() -> dict[str, dict[str, Any]]:
    """Every Study of the pages, by page and line.

    On docs/coming-from-katib.md, a block that begins with spec: shows what differs from the page's Study: its fields
    take the place of that one's.
    """
    found: dict[str, dict[str, Any]] = {}
    for page in PAGES:
        whole: dict[str, Any] | None = None
        for line, text in blocks(page):
            if re.search(r"^kind: Study$", text, re.MULTILINE):
                whole = yaml.safe_load(text)
            elif page.name != "coming-from-katib.md" or not text.startswith("spec:\n"):
                continue
            assert whole is not None, f"{page.name}:{line}: the page has no Study before this"
            shown = yaml.safe_load(text)
            found[f"{page.name}:{line}"] = {**whole, "spec": {**whole["spec"], **shown["spec"]}}
    return found
