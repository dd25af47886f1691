#!/usr/bin/env python3
"""What the project depends on: known vulnerabilities, and licences. Run by `make lint` in its virtual environment.

hack/dependencies.py audit      pip-audit over requirements/constraints.txt
hack/dependencies.py licenses   requirements/licenses.md is up to date, and every licence in it is allowed
hack/dependencies.py licenses --write
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
CONSTRAINTS = REPOSITORY / "requirements/constraints.txt"
LICENSES = REPOSITORY / "requirements/licenses.md"
DISTRIBUTIONS = (REPOSITORY / "pyproject.toml", REPOSITORY / "trial-image/pyproject.toml")

# Licences under which a library may be used by, and shipped in images with, a program under Apache-2.0. LGPL and MPL
# libraries are used unchanged, as packages of their own.
ALLOWED = {
    *("Apache-2.0", "Apache Software License", "0BSD", "BSD License", "BSD-2-Clause", "BSD-3-Clause"),
    *("3-Clause BSD License", "MIT", "MIT License", "PSF-2.0", "Python Software Foundation License"),
    *("Zlib", "CC0-1.0", "MIT-0", "MIT-CMU", "MPL-2.0", "Mozilla Public License 2.0 (MPL 2.0)", "Unlicense", "ISC"),
    "GNU Library or Lesser General Public License (LGPL)",
}
_HEADER = """\
# Licences of the Python packages

Written by `hack/dependencies.py licenses --write`, as the packages declare them. `make lint` fails when this list is
out of date or has a licence that is not among those in that script. Versions are in [constraints.txt](constraints.txt).
"""


def pinned() -> dict[str, str]:
    """Version by name of every pinned package, as in constraints.txt."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", CONSTRAINTS.read_text(), re.MULTILINE)
    return dict(found)


def shipped(names: set[str]) -> set[str]:
    """Return those of some packages (canonical names) that the operator's or the trial's image has: the dependencies
    of both distributions, and what those need in turn."""
    todo: list[str] = []
    for file in DISTRIBUTIONS:
        todo += tomllib.loads(file.read_text())["project"]["dependencies"]
    found: set[str] = set()
    while todo:
        needed = Requirement(todo.pop())
        name = canonicalize_name(needed.name)
        if name in found or name not in names or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        todo += metadata.requires(name) or ()
    return found


def allowed(declared: str) -> bool:
    """Whether every part of a licence, or one to choose, is allowed: "A AND B", "A OR B", "A; B"."""
    return any(set(re.split(r" AND |; ", choice)) <= ALLOWED for choice in declared.split(" OR "))


def licenses(write: bool) -> list[str]:
    """Compares or writes the list. Returns what is wrong, in sentences."""
    names = {canonicalize_name(name): name for name in pinned()}
    missing = [name for name in names.values() if not _installed(name)]
    if missing:
        return [f"not installed here: {', '.join(missing)}; run `make lint`, which installs all"]
    command = [sys.executable, "-m", "piplicenses", "--from=mixed", "--with-system", "--format=json"]
    command += ["--packages", *names.values()]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    declared = {canonicalize_name(row["Name"]): row["License"] for row in listed}
    images = shipped(set(names))
    lines = [_HEADER]
    for title, group in (("In the images", images), ("For development and tests only", set(names) - images)):
        lines += [f"## {title}\n", "| package | licence |", "|---|---|"]
        lines += [f"| {names[name]} | {declared.get(name, 'unknown')} |" for name in sorted(group)] + [""]
    text = "\n".join(lines)
    troubles = [
        f"{names[name]}: nobody has allowed the licence {declared.get(name, 'unknown')!r}; see ALLOWED in this script"
        for name in sorted(names)
        if not allowed(declared.get(name, "unknown"))
    ]
    if write:
        LICENSES.write_text(text)
    elif not LICENSES.exists() or LICENSES.read_text() != text:
        troubles.append("requirements/licenses.md is out of date; run hack/dependencies.py licenses --write")
    return troubles


def audit() -> list[str]:
    """Asks for known vulnerabilities. Returns them in sentences; says on stderr when nobody could be asked."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    done = subprocess.run([*command, "--format=json", "--progress-spinner=off"], capture_output=True, text=True)
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"warning: no vulnerabilities were looked for, pip-audit failed: {said[:300]}", file=sys.stderr)
        return []
    unknown = [package["name"] for package in found if "skip_reason" in package]
    if unknown:
        print(
            f"warning: of {len(found)} packages {len(unknown)} could not be looked up in the vulnerability database"
            f" ({', '.join(unknown[:5])}{' ...' if unknown[5:] else ''}); run this where it can be reached",
            file=sys.stderr,
        )
    return [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or '-'}"
        for package in found
        for flaw in package.get("vulns", ())
    ]


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("audit", "licenses"))
    parser.add_argument("--write", action="store_true", help="write requirements/licenses.md anew")
    arguments = parser.parse_args()
    troubles = audit() if arguments.what == "audit" else licenses(arguments.write)
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
