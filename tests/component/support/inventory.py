"""Every place of the operator's code that writes to Kubernetes or PostgreSQL, found by reading the code.

The crash-point matrix records where the writes that it strikes come from. What is listed here and never recorded there
is a write that nothing tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import study_operator

PACKAGE = Path(study_operator.__file__).resolve().parent
CLIENT = ("kube/client.py", "kube/api_server.py")
_WRITING_METHODS = {"POST", "PATCH", "PUT", "DELETE"}
_WRITING_SQL = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM|FOR UPDATE|FOR SHARE|pg_notify|TRUNCATE)\b")
# Not made by a look at a study, but around it, when replicas share the studies out among them.
AROUND_LOOKS = {
    "storage/studies.py:Studies.take_over",
    "storage/studies.py:Studies.release",
    # The guard's; and that of a namespace's login, which these studies do not have: test_logins.py.
    "storage/logins.py:Logins.drop_unused",
    "storage/logins.py:Logins.login_of",
    # The guard's, too, for people who read: test_reading_rights.py, test_wishes.py. Nothing answers other wishes yet.
    "storage/reader_login.py:heal_reader",
    "storage/wishes.py:Wishes.answer",
    "storage/wishes.py:Wishes.forget",
    "storage/wishes.py:Wishes.grant_purges",
}


@dataclass
class Function:
    """One function: names that it calls, whether it says itself that something is written, and whether it opens a
    transaction."""

    site: str
    calls: set[str] = field(default_factory=set)
    strings: list[str] = field(default_factory=list)
    transaction: bool = False

    @property
    def name(self) -> str:
        return re.split(r"[.:]", self.site)[-1]


def calls_that_write() -> set[str]:
    """The functions outside CLIENT that call a method of `Cluster` which writes, as `file:function`."""
    functions = [f for file in CLIENT for f in _functions(PACKAGE / file)]
    writing = {f.name for f in functions if _WRITING_METHODS & set(f.strings)}
    while more := {f.name for f in functions if f.name not in writing and f.calls & writing}:
        writing |= more
    public = {name for name in writing if not name.startswith("_")}
    return {f.site for f in _all() if not f.site.startswith((*CLIENT, "storage/", "model/")) and f.calls & public}


def transactions_that_write() -> set[str]:
    """The functions of the storage that open a transaction and write or lock in it, themselves or by what they call."""
    functions = [f for f in _all() if f.site.startswith("storage/")]
    writing = {f.name for f in functions if any(_WRITING_SQL.search(text) for text in f.strings)}
    while more := {f.name for f in functions if f.name not in writing and not f.transaction and f.calls & writing}:
        writing |= more
    # A helper writes in its caller's transaction; what opens one of its own is a site itself.
    helpers = {f.name for f in functions if f.name in writing and not f.transaction}
    return {
        f.site
        for f in functions
        if f.transaction and (f.calls & helpers or any(_WRITING_SQL.search(text) for text in f.strings))
    }


def requests_past_the_client() -> set[str]:
    """Functions outside CLIENT that send a request which is no GET themselves: the matrix could not see it."""
    return {
        f.site
        for f in _all()
        if not f.site.startswith(CLIENT) and f.calls & {"call_api", "_call", "_send"}
        if _WRITING_METHODS & set(f.strings)
    }


def _all() -> Iterator[Function]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from _functions(path)


def _functions(path: Path) -> Iterator[Function]:
    def visit(node: ast.AST, where: str) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                yield from visit(child, f"{where}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found = Function(f"{path.relative_to(PACKAGE)}:{where}{child.name}")
                for inner in ast.walk(child):
                    match inner:
                        # Also what is only named: it may be handed to a storage thread.
                        case ast.Attribute(attr="transaction"):
                            found.transaction = True
                        case ast.Attribute(
                            attr="write", value=ast.Name(id="database") | ast.Attribute(attr="_database")
                        ):
                            found.transaction = True
                            found.strings.append("INSERT INTO")  # what it writes, a function in the database says
                        case ast.Attribute(attr=name) | ast.Name(id=name):
                            found.calls.add(name)
                        case ast.Constant(value=str(text)):
                            found.strings.append(text)
                        case _:
                            pass
                if ast.get_docstring(child):
                    found.strings.remove(child.body[0].value.value)  # type: ignore[attr-defined]
                yield found
            else:
                yield from visit(child, where)

    yield from visit(ast.parse(path.read_text()), "")
