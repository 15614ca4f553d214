"""Clients that send or read nothing, against a real server."""

import contextlib
import gc
import json
import select
import socket
import subprocess
import sys
import threading
import time

import pytest

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")

from qwen_ner.serving import connection  # noqa: E402
from qwen_ner.serving.app import create_app  # noqa: E402
from qwen_ner.serving.limits import Limits  # noqa: E402
from qwen_ner.serving.run import DrainingServer, open_socket  # noqa: E402

POST = b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
UNFINISHED = [b"", b"GET /hea", b"GET / HTTP/1.1\r\nHost: localhost\r\n", POST % 9 + b'{"te', b"POST / HTTP/1.1\r\n"]


@pytest.fixture
def server(extractor, monkeypatch):
    """A server in a thread with room for 40 connections and deadlines of 1 s and 2 s."""
    monkeypatch.setattr(connection.Connection, "most", 40)
    monkeypatch.setattr(connection, "YOUNG_SECONDS", 0.05)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connection, "SLOW_SECONDS", 2.0)
    app = create_app(extractor, limits=Limits(max_texts=20_000, max_characters=2_000_000, max_requests=20))
    config = uvicorn.Config(app, log_config=None, lifespan="on", http=connection.Connection, ws="none")
    server = DrainingServer(config, app.state.service, "tiny")
    listener = open_socket("127.0.0.1", 0)
    server.port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server
    server.handle_exit(15, None)
    thread.join(10)
    assert not thread.is_alive()


def connected(server, data=b""):
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(data)
    return client


def closed(client, seconds):
    """Whether the server closes the connection within `seconds`; what it says first is dropped."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and select.select([client], [], [], left)[0]:
        try:
            if not client.recv(65536):
                return True
        except ConnectionError:
            return True
    return False


def drip(client):
    """Send a byte now and then; the seconds, 10 at most, until the server closes the connection."""
    started = time.monotonic()
    while not closed(client, 0.2) and time.monotonic() < started + 10:
        with contextlib.suppress(OSError):
            client.sendall(b"a")
    return time.monotonic() - started


def status(server, path="/healthz", **more):
    return httpx.request("POST" if more else "GET", f"http://127.0.0.1:{server.port}{path}", **more).status_code


@pytest.mark.parametrize("data", UNFINISHED)
def test_clients_that_finish_no_request_keep_no_one_out(server, data):
    silent = [connected(server, data) for _ in range(300)]
    for path in ("/healthz", "/readyz", "/v1/model"):
        assert status(server, path) == 200
    assert status(server, "/v1/extract", json={"texts": ["三星"]}) == 200
    assert len(server.server_state.connections) <= 41
    for client in silent:
        client.close()


def test_a_burst_of_requests_beyond_every_limit_is_told_so(server, hold, monkeypatch):
    """All of them came at once, so none has kept the server waiting."""
    monkeypatch.setattr(connection, "YOUNG_SECONDS", 5.0)
    body = json.dumps({"texts": ["三星"]}).encode()
    clients = [connected(server, POST % len(body) + body)]
    while not hold.asked:  # the model has it, and takes no other
        time.sleep(0.01)
    clients += [connected(server, POST % len(body) + body) for _ in range(50)]
    assert status(server) == 200
    hold.go.set()
    answers = [client.recv(65536)[:12] for client in clients]
    assert set(answers) == {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert answers.count(b"HTTP/1.1 200") == 1 + 20
    for client in clients:
        client.close()


ALLOW = """
import resource, logging
from qwen_ner.serving.connection import allow_files
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (256, int({hard!r})))
assert allow_files(4096) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
@pytest.mark.parametrize(
    ("hard", "files", "told"),
    [
        ("5000", "4096", ""),
        ("512", "512", "Only 512 files may be open here, so 128 requests may wait; raise the hard limit to 4096"),
    ],
)
def test_the_server_raises_the_limit_of_open_files_as_far_as_it_may(hard, files, told):
    import resource

    if (most := resource.getrlimit(resource.RLIMIT_NOFILE)[1]) not in (-1, *range(5000, most + 1)):
        pytest.skip("the system allows fewer here")
    done = subprocess.run([sys.executable, "-c", ALLOW.format(hard=hard)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [files]
    assert told in done.stderr
    assert bool(told) == bool(done.stderr)


@pytest.mark.parametrize("data", [data for data in UNFINISHED if b"json" not in data])
@pytest.mark.parametrize("first", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_head_has_a_deadline_however_it_drips(server, first, data):
    assert drip(connected(server, first + data)) < 5


def test_an_answered_request_is_not_waited_for_any_longer(server):
    """Its body never ends, and is of no use."""
    client = connected(server, b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n")
    assert drip(client) < 5


def test_a_client_that_leaves_a_stream_leaves_nothing_behind(server, hold, caplog):
    body = json.dumps({"texts": ["三星", "北京"]}).encode()
    head = POST.replace(b"Content-Type", b"Accept: application/x-ndjson\r\nContent-Type", 1) % len(body)
    client = connected(server, head + body)
    while not hold.asked:
        time.sleep(0.01)
    client.close()
    time.sleep(0.3)
    hold.go.set()
    assert status(server, "/v1/extract", json={"texts": ["三星"]}) == 200
    gc.collect()
    assert not [record.message for record in caplog.records if "destroyed" in record.message]


def test_a_request_that_waits_for_the_model_has_time(server, hold):
    body = json.dumps({"texts": ["三星"]}).encode()
    client = connected(server, POST % len(body) + body)
    assert not closed(client, 3)
    others = [connected(server) for _ in range(100)]
    hold.go.set()
    client.settimeout(10)
    with client.makefile("rb") as answer:
        assert answer.readline().startswith(b"HTTP/1.1 200")
    for other in others:
        other.close()


def test_a_client_that_does_not_read_its_answer_loses_it(server):
    body = json.dumps({"texts": [""] * 20_000}).encode()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.sendall((POST % len(body) + body) * 12)
    time.sleep(1)
    assert server.server_state.connections
    end = time.monotonic() + 10
    while server.server_state.connections and time.monotonic() < end:
        time.sleep(0.1)
    assert not server.server_state.connections
    client.close()


def test_a_malformed_rest_of_an_answered_request_is_no_crash(server, caplog):
    client = connected(server, b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert client.recv(65536).startswith(b"HTTP/1.1 415")
    client.sendall(b"zz\r\n\r\n")
    assert closed(client, 5)
    assert "Traceback" not in caplog.text
    assert status(server) == 200
