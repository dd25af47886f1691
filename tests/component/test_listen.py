"""Listening for reports through a proxy that accepts connections and drops them."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest
from database import TestDatabase, settings_for
from waiting import until

from study_operator.storage import listen as module
from study_operator.storage.database import Database
from study_operator.storage.listen import listen


class Dropping:
    """Passes everything on between clients and the database, and drops a connection when it has begun to listen.

    Args:
        answered: whether the client still gets the database's answer to LISTEN.

    Attributes:
        dropped: how many connections were dropped.
        drops: whether further ones will be.
    """

    def __init__(self, answered: bool) -> None:
        self._answered = answered
        self.dropped = 0
        self.drops = True
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[str]:
        """Serves; gives the database's url that leads here."""
        parts = urlsplit(url)
        self._to = parts.hostname, parts.port
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            yield urlunsplit(parts._replace(netloc=re.sub(r":\d+$", f":{port}", parts.netloc)))
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        database_reader, database_writer = await asyncio.open_connection(*self._to)

        async def answers() -> None:
            while data := await database_reader.read(65536):
                writer.write(data)
                if self.drops and b"LISTEN\0" in data:  # CommandComplete
                    await writer.drain()
                    return

        async def questions() -> None:
            while data := await reader.read(65536):
                if self.drops and not self._answered and b"LISTEN " in data:
                    return
                database_writer.write(data)

        ways = [asyncio.create_task(answers()), asyncio.create_task(questions())]
        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self.dropped += self.drops
            writer.close()
            database_writer.close()


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "after the answer"])
async def test_a_server_that_accepts_and_drops_is_asked_ever_less_often(database: TestDatabase, monkeypatch, answered):
    monkeypatch.setattr(module, "_LONGEST_DELAY_SECONDS", 1.0)
    proxy, connected = Dropping(answered), asyncio.Event()
    async with proxy.serving(database.url) as url:
        with ThreadPoolExecutor(1) as executor:
            through = Database(settings_for(database, DATABASE_URL=url).dsn)
            listening = asyncio.create_task(listen(through, executor, lambda _: None, lambda _: None, connected.set))
            await until(lambda: proxy.dropped >= 2)
            before = proxy.dropped
            await asyncio.sleep(2.0)
            assert proxy.dropped - before <= 5
            assert not listening.done()
            proxy.drops = False
            connected.clear()
            await asyncio.wait_for(connected.wait(), 10.0)
            listening.cancel()
            await asyncio.wait([listening])
