"""Another installation beside this one, and a database that is not the one that the rows are in."""

from __future__ import annotations

import psycopg2
import pytest
from canary import Street
from database import TestDatabase
from kept_operator import KeptOperator
from neighbours import study_text
from played_namespace import PlayedNamespace
from waiting import until

pytestmark = [pytest.mark.neighbours, pytest.mark.asyncio(loop_scope="session")]

ANOTHER = {"REPORTER_PASSWORD": "another installation's", "STUDY_KEY_SEED": "another installation's seed, long enough"}


def _run(server: str, *statements: str) -> None:
    opened = psycopg2.connect(server)
    opened.autocommit = True
    for statement in statements:
        opened.cursor().execute(statement)
    opened.close()


class _Installation:
    """Another release, with a database of its own on the same server.

    Args:
        namespaces: that it serves.
    """

    def __init__(self, street: Street, name: str, namespaces: str) -> None:
        self._street, self.database = street, TestDatabase(street.database.server, name)
        self._namespaces = namespaces

    async def come(self) -> None:
        _run(self.database.server, f"CREATE DATABASE {self.database.name}")
        folder = self._street.folder / self.database.name
        folder.mkdir(exist_ok=True)
        settings = self._street.operator.settings | ANOTHER | {"WATCH_NAMESPACES": self._namespaces}
        self.operator = KeptOperator(self.database, folder, **settings)
        await self.operator.start()
        await until(self.operator.ready)

    async def go(self) -> None:
        await self.operator.stop()
        _run(self.database.server, f"DROP DATABASE {self.database.name} WITH (FORCE)")


async def test_another_release_that_serves_the_same_namespace(canary_street, record_property):
    another = _Installation(canary_street, "another_release", canary_street.canarys.name)
    waits = await canary_street.undisturbed("a second release for its namespace", another.come, another.go)
    record_property("neighbours", f"a second release for one namespace: {waits}")


async def test_another_release_on_the_same_server(canary_street, record_property):
    place = PlayedNamespace(canary_street.api, "c-another", patient=True)
    await place.open()
    another = _Installation(canary_street, "another_server", place.name)

    async def come() -> None:
        await another.come()
        await place.apply(study_text(place.name, "other", parallelism=1))
        await until(lambda: len(place.lives["other"]) > 20)

    async def go() -> None:
        await place.clear()
        await another.go()

    ours = f"{canary_street.neighbours.name},{canary_street.canarys.name}"
    await canary_street.operator.replace(WATCH_NAMESPACES=ours)
    try:
        waits = await canary_street.undisturbed("a second release on its server", come, go)
        record_property("neighbours", f"a second release on one server: {waits}")
    finally:
        await place.close()
        await canary_street.operator.replace(WATCH_NAMESPACES="")


async def test_an_empty_database(canary_street):
    """A changed port, or a server that is yet to be restored: nothing of the canary is touched until it is back."""
    empty = TestDatabase(canary_street.database.server, "empty")
    _run(empty.server, f"CREATE DATABASE {empty.name}")
    before = await canary_street.progress()
    try:
        await canary_street.operator.replace(DATABASE_URL=empty.url)

        async def is_said() -> bool:
            return (await canary_street.condition("StorageReady")).get("status") == "False"

        await until(is_said)
        assert await canary_street.progress() >= before, "the status still has what the study has come to"
    finally:
        await canary_street.operator.replace(DATABASE_URL=canary_street.database.url)
    await canary_street.served()
    assert await canary_street.failures() == []
    _run(empty.server, f"DROP DATABASE {empty.name} WITH (FORCE)")


async def test_a_restored_database(canary_street):
    """Jobs of after the dump have ended: no trial takes one of them for its own, and none is blamed on the program."""
    server, name = canary_street.database.server, canary_street.database.name
    async with canary_street.operator.away():
        _run(server, f"CREATE DATABASE dump TEMPLATE {name}")
    await canary_street.served()
    async with canary_street.operator.away():
        _run(server, f"DROP DATABASE {name} WITH (FORCE)", f"ALTER DATABASE dump RENAME TO {name}")
    await canary_street.served()
    assert await canary_street.failures() == []
