"""What becomes of clients that do not read, and of the server's certificates while it serves."""

from __future__ import annotations

import asyncio
import socket
import ssl
from datetime import UTC, datetime

import aiohttp
import pytest
from aiohttp import web
from authority import Authority

from study_operator.api import replies
from study_operator.api.front_proxy import common_name
from study_operator.api.listener import Listener
from study_operator.api.refusals import database_away
from study_operator.api.serving_certificate import make


@pytest.fixture
async def port_of():
    """A function that serves a handler without TLS, and returns the port."""
    runners = []

    async def serve(handler) -> int:
        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner.addresses[0][1]

    yield serve
    for runner in runners:
        await runner.cleanup()


async def test_a_client_that_does_not_read_is_cut_off(port_of, monkeypatch):
    monkeypatch.setattr(replies, "UNREAD_SECONDS", 0.2)
    came_of_it = asyncio.get_running_loop().create_future()

    async def handler(request: web.Request) -> web.StreamResponse:
        sink = await replies.Lines.opened(request)
        try:
            while True:
                await sink.send([b"x" * 100_000])
        except ConnectionError as error:
            came_of_it.set_result(str(error))
            raise

    port = await port_of(handler)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "has read nothing" in await asyncio.wait_for(came_of_it, 30)


async def test_half_of_a_list_does_not_look_like_a_list(port_of):
    """The database goes away in the middle: the connection is cut, and the answer has no end."""

    async def pieces():
        yield b'{"items":['
        yield b"1,"
        raise database_away("gone")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await replies.stream(request, pieces())

    port = await port_of(handler)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{port}/") as answer:
                await answer.read()


async def test_a_whole_answer_is_compressed_if_it_is_long(port_of):
    async def pieces():
        for _ in range(10):
            yield b"x" * 100_000

    async def handler(request: web.Request) -> web.StreamResponse:
        return await replies.stream(request, pieces())

    port = await port_of(handler)
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == b"x" * 1_000_000


async def test_another_authority_of_clients_counts_at_once(tmp_path):
    """Also for connections that are open: they end after their next answer."""
    former, new = Authority(tmp_path, "former"), Authority(tmp_path, "new")
    certificate = make("trials", "system", datetime.now(UTC))

    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.Response(text=str(common_name(request.transport.get_extra_info("peercert"))))

    app = web.Application()
    app.router.add_get("/", who)
    listener = Listener(app, 0)
    sessions = []

    def session(authority: Authority) -> aiohttp.ClientSession:
        tls = ssl.create_default_context(cadata=certificate.authority)
        tls.load_cert_chain(*authority.sign("DNS:client"))
        timeout = aiohttp.ClientTimeout(total=20)
        sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls), timeout=timeout))
        return sessions[-1]

    async def asked(client: aiohttp.ClientSession) -> str:
        url = f"https://127.0.0.1:{listener.port}/"
        async with client.get(url, server_hostname="trials.system.svc") as answer:
            return await answer.text()

    try:
        await listener.serve(certificate.chain, certificate.key, former.pem)
        first = session(former)
        assert await asked(first) == "server", "the name that this authority of the tests gives to all"
        await listener.serve(certificate.chain, certificate.key, new.pem)
        assert await asked(session(new)) == "server"
        with pytest.raises(aiohttp.ClientError):
            await asked(first)
    finally:
        for one in sessions:
            await one.close()
        await listener.close()
