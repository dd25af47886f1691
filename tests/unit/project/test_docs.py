"""What a program can check of the documents: lines, links, and that what they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
PAGES = [name for name in _LISTED if name != "requirements/licenses.md"]  # that one is generated
WIDTH = 100


def prose(page: str) -> list[tuple[int, str]]:
    """Lines of prose with their numbers: no code, no tables."""
    found, fenced = [], False
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ")):
            found.append((number, line))
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_prose_is_wrapped(page):
    # What cannot be broken, such as a link, may be longer.
    long = [f"{page}:{number}" for number, line in prose(page) if len(line) > WIDTH and " " in line.strip("-*# ")[:60]]
    assert not long


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    here = ROOT / page
    links = re.findall(r"\]\(([^)\s]+)\)", here.read_text())
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (here.parent / path).resolve() if path else here
        assert target.exists(), f"{page}: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page}: {link}"


def test_the_files_to_open_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (table,) = re.findall(r"## Which file to open\n(.*?)\n## ", text, re.DOTALL)
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| to change")]
    assert len(rows) >= 20
    for row in rows:
        paths = re.findall(r"`((?:op|crds|helm|docs|tests|trial-image|client)/[\w./-]+)`", row)
        assert paths, row
        for path in paths:
            assert (ROOT / re.sub(r"^op/", "operator/study_operator/", path)).exists(), path


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_modules_that_pages_name_exist(page):
    rooms = "controller|reconcile|podlogs|kube|storage|optimizer|manifests|model"
    for name in re.findall(rf"`((?:{rooms})/\w+\.(?:py|sql))`", (ROOT / page).read_text()):
        assert (ROOT / "operator/study_operator" / name).exists(), f"{page}: {name}"


def test_every_reason_of_a_condition_is_on_the_page_of_the_study():
    page = (ROOT / "docs/study.md").read_text()
    known: set[str] = set()
    for path in (ROOT / "operator/study_operator").rglob("*.py"):
        source = path.read_text()
        known |= set(re.findall(r'(?:Refused|Unreadable)\(\s*"([A-Z]\w+)"', source))
        known |= set(re.findall(r'Condition\(\s*"\w+", (?:True|False|None), "([A-Z]\w+)"', source))
    assert len(known) > 35
    assert [reason for reason in sorted(known) if f"`{reason}`" not in page] == []
    _, table = (ROOT / "README.md").read_text().split("\n## When it does not do what you want\n")
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
    named = {reason for row in rows[2:] for reason in re.findall(r"`(\w+)`", row[2])}
    assert len(named) > 20
    assert [reason for reason in sorted(named) if f"`{reason}`" not in page] == []
