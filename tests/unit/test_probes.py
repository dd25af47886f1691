"""Liveness, readiness and metrics, as the kubelet and Prometheus ask for them; time is a number that the tests set."""

from __future__ import annotations

import contextlib
import gzip
import re
import resource
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from study_operator import httpd, metrics, probes
from study_operator.probes import LOOP_LIMIT_SECONDS, WATCH_LIMIT_SECONDS, Health, serve

DOCS = Path(__file__).resolve().parents[2] / "docs"
OBSERVABILITY = DOCS / "observability.md"


class Process:
    """What an operator's health is judged by."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.health = Health(lambda: self.now)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Process, int]]:
    """A process whose probes are served, and on which port."""
    process = Process()
    server = serve(process.health, 0)
    yield process, server.port
    server.close()


@pytest.fixture
def process(served: tuple[Process, int]) -> Process:
    """The process as it was when it started."""
    process, _ = served
    process.now, process.health.not_ready = 1000.0, "starting"
    process.health._watches.clear()
    process.health.progress()
    return process


@pytest.fixture
def port(served: tuple[Process, int], process: Process) -> int:
    return served[1]


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_is_alive_as_long_as_its_loop_makes_progress(process):
    assert process.health.not_alive() is None
    process.now += LOOP_LIMIT_SECONDS
    assert process.health.not_alive() is None
    process.now += 1
    assert process.health.not_alive() == "the event loop has made no progress for 31 s"
    process.health.progress()
    assert process.health.not_alive() is None


def test_a_process_is_alive_as_long_as_its_watches_make_progress(process):
    process.health.watching("Jobs")
    process.health.watching("Studies")
    process.now += WATCH_LIMIT_SECONDS + 1
    process.health.progress()
    process.health.watching("Studies")
    assert process.health.not_alive() == "the watch of Jobs has made no progress for 301 s"
    process.health.watching("Jobs")
    assert process.health.not_alive() is None


def test_progress_is_a_metric(process):
    metrics.LAST_PROGRESS.set(0)
    process.health.progress()
    assert metrics.LAST_PROGRESS.collect()[0].samples[0].value > 1.7e9


def test_liveness_over_http(process, port):
    assert get(port, "/healthz") == (200, "ok\n")
    process.now += LOOP_LIMIT_SECONDS + 10
    assert get(port, "/healthz") == (503, "the event loop has made no progress for 40 s\n")


def test_readiness_over_http(process, port):
    assert get(port, "/readyz") == (503, "starting\n")
    process.health.not_ready = None
    assert get(port, "/readyz") == (200, "ok\n")
    process.health.not_ready = "the database does not answer: Verbindung verweigert äöü"
    assert get(port, "/readyz") == (503, "the database does not answer: Verbindung verweigert äöü\n")


def test_an_operator_that_is_not_ready_is_alive_all_the_same(process, port):
    process.health.not_ready = "the database does not answer"
    assert get(port, "/healthz")[0] == 200


def is_ours(name: str) -> bool:
    return name.startswith("study_operator_") and not name.endswith("_created")


def test_metrics_over_http(port):
    metrics.RECONCILE.observe(0.02)
    status, text = get(port, "/metrics")
    assert status == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    served = {
        name + ("_total" if family.type == "counter" else ""): family.type
        for name, family in families.items()
        if is_ours(name)
    }
    rows = re.findall(r"^\| `(study_operator_\w+)[^`]*` \| (\w+) \|", OBSERVABILITY.read_text(), re.MULTILINE)
    assert served == dict(rows), "docs/observability.md says what there is"
    assert len(rows) == len(served), "once"
    counts = [s.value for s in families["study_operator_reconcile_seconds"].samples if s.name.endswith("_count")]
    assert counts[0] >= 1


@pytest.mark.parametrize("page", [page.name for page in DOCS.glob("*.md") if "```promql" in page.read_text()])
def test_queries_of_the_pages_name_metrics_and_labels_that_there_are(page):
    rows = re.findall(r"^\| `(study_operator_\w+)(?:\{(.*?)\})?` \|", OBSERVABILITY.read_text(), re.MULTILINE)
    documented = {name: set(labels.split(",")) - {""} for name, labels in rows}
    for name, labels in documented.items():
        known = getattr(metrics.REGISTRY._names_to_collectors[name], "_labelnames", None)
        assert known is None or set(known) == labels, name
    for block in re.findall(r"```promql\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        for query in re.split(r"\n\n", re.sub(r"^#.*$", "", block, flags=re.MULTILINE)):
            named = re.findall(r"(study_operator_\w+)(\{.*?\})?", query)
            assert named, query
            allowed = {"le"}
            for name, selectors in named:
                metric = re.sub("_(bucket|sum|count)$", "", name)
                assert metric in documented, query
                allowed |= documented[metric]
                assert set(re.findall(r"(\w+)\s*(?:=~?|!~|!=)", selectors)) <= documented[metric], query
            for labels in re.findall(r"\b(?:by|without|ignoring|on) ?\((.*?)\)", query):
                assert set(labels.split(", ")) <= allowed, query


def test_metrics_in_the_format_that_is_asked_for(port):
    def ask(**headers: str) -> Message:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            body = answer.read()
            text = gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body
            assert b"study_operator_queue_depth" in text
            return answer.headers

    assert ask()["Content-Type"].startswith("text/plain")
    assert ask()["Content-Encoding"] is None
    open_metrics = ask(Accept="application/openmetrics-text; version=1.0.0")
    assert open_metrics["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert ask(**{"Accept-Encoding": "gzip"})["Content-Encoding"] == "gzip"


def test_one_metric_of_all(port):
    status, text = get(port, "/metrics?name[]=study_operator_queue_depth")
    assert status == 200
    assert {family.name for family in text_string_to_metric_families(text)} == {"study_operator_queue_depth"}


@pytest.mark.parametrize("path", ["/", "/healthz/", "/metrics.json", "/%2e%2e/etc/passwd"])
def test_other_paths_are_told_which_there_are(port, path):
    assert get(port, path) == (404, "there are /metrics, /healthz and /readyz\n")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_probes_answer_on_ipv6_too(port):
    assert get(port, "/healthz", "[::1]") == (200, "ok\n")


def test_a_client_that_says_nothing_keeps_no_other_waiting(port):
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port, "/healthz") == (200, "ok\n")


def test_the_server_ends_when_told():
    before = threading.active_count()
    server = serve(Process().health, 0)
    number = server.port
    assert get(number, "/healthz")[0] == 200
    server.close()
    server.close()
    with pytest.raises(OSError):
        get(number, "/healthz")
    assert threading.active_count() == before


@pytest.fixture
def idle(port: int) -> Iterator[list[socket.socket]]:
    """4,000 connections that say nothing, or the beginning of something."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    connections: list[socket.socket] = []
    for number in range(4000):
        connections.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        if number % 2:
            with contextlib.suppress(OSError):  # closed already, for a later one
                connections[-1].sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
    yield connections
    for connection in connections:
        connection.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_idle_connections_hold_up_no_probe(port, idle):
    threads = threading.active_count()
    took = []
    for _ in range(20):
        begun = time.monotonic()
        assert get(port, "/healthz") == (200, "ok\n")
        took.append(time.monotonic() - begun)
    assert sorted(took)[10] < 1, took
    assert get(port, "/metrics")[0] == 200
    assert threading.active_count() <= threads + 1  # that of /metrics
    closed = 0
    for connection in idle:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            try:
                closed += not connection.recv(1)
            except ConnectionError:
                closed += 1
    assert closed >= len(idle) - httpd.MOST_CONNECTIONS


def test_a_connection_has_only_so_much_time(port, monkeypatch):
    monkeypatch.setattr(httpd, "MOST_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        assert ended(connection)


def ended(connection: socket.socket) -> bool:
    """Whether the server closes a connection without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("flood", [b"x" * 200_000, b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 50_000])
def test_a_request_that_never_ends_is_cut_off(port, flood):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(flood)
        assert ended(connection)
    assert get(port, "/healthz") == (200, "ok\n")


def test_clients_that_do_not_read_keep_no_more_than_some_answers(port, monkeypatch):
    """Each asks for a large answer and reads none of it. The probes answer, and others are told to come again."""
    monkeypatch.setattr(probes, "_metrics", lambda query, headers: httpd.Answer(200, b"x" * 20_000_000))
    with contextlib.ExitStack() as stack:
        for _ in range(httpd.MOST_SLOW):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 60
        while get(port, "/metrics")[0] != 503 and time.monotonic() < deadline:
            pass
        assert get(port, "/metrics") == (503, "too many answers are being sent: ask again\n")
        assert get(port, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405"),
        (b"HEAD / HTTP/1.1\r\n\r\n", b"405"),
        (b"hello\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/2.0\r\n\r\n", b"400"),
        (b"GET \xff\xfe HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.0\r\n\xff\x00: \x80\r\nnonsense\r\n\r\n", b"200"),
    ],
)
def test_odd_requests_are_answered(port, request_, status):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request_)
        assert connection.makefile("rb").read().split()[1] == status


def test_the_longest_looks_are_a_metric_of_a_few_series():
    now = [1000.0]
    longest = metrics.LongestLooks(lambda: now[0])

    def shown() -> dict[str, float]:
        (family,) = longest.collect()
        return {sample.labels["study"]: sample.value for sample in family.samples}

    assert shown() == {}
    for number in range(100):
        longest.ended("team", f"study-{number}", number / 10)
    longest.ended("team", "study-99", 1.0)
    longest.going_on = lambda: {("team", "now"): 9.85}
    assert shown() == {"study-99": 9.9, "now": 9.85, "study-98": 9.8, "study-97": 9.7, "study-96": 9.6}
    longest.going_on = dict
    now[0] += 301
    assert len(shown()) == 5, "those of the last five minutes, whenever they are asked for"
    now[0] += 301
    assert shown() == {}
