"""`qwen-ner serve` as users start it: a process with a socket and signals."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.entities import NerError
from qwen_ner.files import install_line

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")

from qwen_ner.inference.hub_download import local_folder  # noqa: E402
from qwen_ner.serving import run  # noqa: E402
from qwen_ner.serving.limits import Limits  # noqa: E402
from qwen_ner.serving.run import TOKEN_VARIABLE, DrainingServer, open_socket, read_scores, read_token, serve  # noqa: E402

TEXTS = [gold.text for gold in EIGHT]


class Server:
    """`qwen-ner serve` in its own process."""

    def __init__(self, folder, *options):
        command = [sys.executable, "-m", "qwen_ner", "serve", folder, "--port", "0", *options]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1",
        }
        self.process = warm_python.start(command, stderr=subprocess.PIPE, env=environment)
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"answers at (http://127\.0\.0\.1:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                return
        raise AssertionError("".join(self.said))

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def server(asked_folder):
    server = Server(asked_folder, "--max-characters", "5000")
    yield server
    server.end()


@pytest.fixture(scope="module")
def expected(asked_folder):
    from qwen_ner.inference.extractor import Extractor

    extractor = Extractor.from_pretrained(asked_folder)
    return lambda texts: [[(e.label, e.start, e.end) for e in found] for found in extractor.extract(texts)]


def places(row):
    return [(e["label"], e["start"], e["end"]) for e in row["entities"]]


LOAD = """
import os, sys, time
from pathlib import Path
import torch, tqdm
from qwen_ner.inference.sampling import GREEDY
from qwen_ner.serving.run import load

tqdm.tqdm.monitor_interval = 0  # a thread of its own

def threads():
    time.sleep(0.5)  # those that end are gone
    return len(os.listdir("/proc/self/task"))

before = threads()
extractor = load(Path(sys.argv[1]), "torch", "auto", GREEDY)
loaded = threads()
torch.ones(10**6).exp()
print(loaded - before, threads() - loaded)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_loading_leaves_no_threads_beside_those_that_serve(asked_folder, tmp_path):
    (tmp_path / "load.py").write_text(LOAD)
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(tmp_path / "load.py"), str(asked_folder)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


@pytest.mark.slow
def test_streamed_lines_come_in_order(server, expected):
    texts = [f"{i}号{TEXTS[i % 8]}" * (1 + i) for i in range(24)]
    lines = []
    request = {"json": {"texts": texts, "progress": True}, "headers": {"accept": "application/x-ndjson"}}
    with httpx.stream("POST", f"{server.url}/v1/extract", timeout=30, **request) as answer:
        for line in answer.iter_lines():
            lines.append(json.loads(line))
    found = [line for line in lines if "index" in line]
    assert [line["index"] for line in found] == list(range(24))
    assert [places(line) for line in found] == expected(texts)


def rough(port, data):
    """The response to raw `data`; None if there is none and the connection stays open."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.3) as connection:
        try:
            connection.sendall(data)
            return connection.recv(65536)
        except TimeoutError:  # it waits for the rest
            connection.settimeout(10)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            return b""
        try:
            return connection.recv(65536)
        except TimeoutError:
            return None
        except OSError:
            return b""


@pytest.mark.slow
def test_broken_clients_neither_crash_nor_block_the_server(server, expected):
    """Random bytes, corrupt requests, unfinished heads and bodies; other clients are still answered."""
    chance = random.Random(5)
    body = json.dumps({"texts": TEXTS}).encode()
    head = (
        b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    whole = head % len(body) + body
    holders = []
    for data in (head % len(body), whole[:-3], b"GET / HTTP/1.1\r\nHost:", b""):
        connection = socket.create_connection(("127.0.0.1", server.port))
        connection.sendall(data)
        holders.append(connection)
    answered = 0
    for n in range(120):
        torn = bytearray(whole)
        for _ in range(1 + n % 5):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        data = bytes(torn) if n % 3 else chance.randbytes(300)
        answer = rough(server.port, data)
        assert answer is not None, data
        assert not answer.startswith(b"HTTP/1.1 5"), data
        answered += answer.startswith(b"HTTP/1.1 ")
    assert answered > 60
    answer = httpx.post(f"{server.url}/v1/extract", json={"texts": TEXTS}, timeout=10)
    assert [places(row) for row in answer.json()["results"]] == expected(TEXTS)
    for connection in holders:
        connection.close()


@pytest.mark.slow
def test_sigterm_under_load_answers_what_was_accepted(asked_folder, expected):
    server = Server(asked_folder, "--batch-tokens", "200")
    texts = [f"{i:04d}号{TEXTS[i % 8]}" for i in range(2000)]
    waiting, outcomes, told = iter(texts), [], None

    async def client(http):
        for text in waiting:
            sent = time.monotonic()
            try:
                answer = await http.post("/v1/extract", json={"texts": [text]})
            except httpx.HTTPError as error:
                outcomes.append((sent, text, error))
                return
            outcomes.append((sent, text, answer))
            if answer.status_code != 200:
                return

    async def main():
        nonlocal told
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(base_url=server.url, timeout=30, limits=limits) as http:
            clients = [asyncio.create_task(client(http)) for _ in range(16)]
            while len(outcomes) < 100:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            await asyncio.gather(*clients)

    asyncio.run(main())
    rest = server.process.communicate(timeout=20)[1]
    assert server.process.returncode == 0, rest
    assert "Stopping; requests in progress:" in rest
    before = [(text, answer) for sent, text, answer in outcomes if sent < told]
    assert not [error for _, error in before if isinstance(error, Exception)]
    answered = [(text, answer) for _, text, answer in outcomes if getattr(answer, "status_code", 0) == 200]
    refused = [answer for *_, answer in outcomes if getattr(answer, "status_code", 200) == 503]
    late = [1 for sent, _, answer in outcomes if sent < told and getattr(answer, "elapsed", None)]
    assert len(answered) >= 100
    assert late
    assert all(answer.headers["connection"] == "close" for answer in refused)
    assert [places(answer.json()["results"][0]) for _, answer in answered] == expected([text for text, _ in answered])


@pytest.mark.slow
def test_a_second_signal_stops_at_once(asked_folder):
    """The first signal waits for what was accepted, here a lot; the second does not."""
    server = Server(asked_folder, "--batch-tokens", "200", "--max-texts", "20000", "--max-characters", "900000")
    texts = [f"{i:05d}号{TEXTS[i % 8]}" for i in range(20_000)]
    outcome = []

    def ask():
        try:
            outcome.append(httpx.post(f"{server.url}/v1/extract", json={"texts": texts}, timeout=120).status_code)
        except httpx.HTTPError as error:
            outcome.append(error)

    client = threading.Thread(target=ask)
    client.start()
    while "qwen_ner_queue_requests 1" not in httpx.get(f"{server.url}/metrics").text:
        time.sleep(0.05)
    server.process.send_signal(signal.SIGTERM)
    assert "Stopping; requests in progress: 1\n" in server.process.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(timeout=1)
    server.process.send_signal(signal.SIGTERM)
    rest = server.process.communicate(timeout=15)[1]
    client.join(timeout=15)
    assert isinstance(outcome[0], httpx.HTTPError), "no answer rather than a false one"
    assert server.process.returncode == -signal.SIGTERM
    assert rest == "Stopped; requests without an answer: 1\n"


def test_a_missing_package_is_named_with_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "qwen_ner.serving.run")
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "outputs/quickstart"])
    assert "uvicorn" in str(caught.value)
    assert caught.value.__context__.remedy == install_line("serve")


@pytest.mark.parametrize(
    ("options", "place", "value"),
    [
        (["--max-texts", "0"], "--max-texts", "0"),
        (["--samples", "3"], "samples", "3"),
        (["--temperature", "-1"], "temperature", "-1.0"),
        (["--deadline", "nan"], "--deadline", "nan"),
        (["--token-file", "no_token"], "no_token", "None"),
        (["--port", "0"], "nowhere", "None"),
        (["--host", "no.such.host.invalid", "--port", "9"], "no.such.host.invalid:9", "None"),
        (["--port", "70000"], "--port", "70000"),
        (["--allowed-host", "http://ner.example"], "--allowed-host", "http://ner.example"),
        (["--allowed-host", "ner.example:80"], "--allowed-host", "ner.example:80"),
        (["--allowed-host", ""], "--allowed-host", ""),
        (["--allowed-host", "*"], "--allowed-host", "*"),
        (["--allowed-host", "例.example"], "--allowed-host", "例.example"),
    ],
)
def test_invalid_options_are_refused_before_the_model_is_loaded(options, place, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "nowhere", *options])
    refusal = caught.value.__context__
    assert (refusal.place, str(refusal.value)) == (place, value)


def test_the_model_is_loaded_in_the_dtype_of_the_command(asked_folder, monkeypatch):
    ran = []
    monkeypatch.setattr(
        DrainingServer, "run", lambda self, sockets: ran.append(self.service.batcher.extractor.model.dtype)
    )
    cli.main(["serve", str(asked_folder), "--port", "0", "--dtype", "float16"])
    assert ran == [torch.float16]


def test_the_limits_of_the_command_are_those_of_a_server():
    given = vars(cli.build_parser(["serve"]).parse_args(["serve", "x"]))
    assert Limits(**{name: given[name] for name in Limits.__dataclass_fields__}) == Limits()


@pytest.mark.parametrize(
    ("host", "names", "hosts"),
    [("127.0.0.1", [], {"127.0.0.1"}), ("localhost", [], {"localhost"}), ("0.0.0.0", [], None),
     ("127.0.0.1", ["Ner.Example", "::2", "[::3]"], {"127.0.0.1", "ner.example", "::2", "::3"}),
     ("0.0.0.0", ["ner.example"], {"0.0.0.0", "ner.example"})],
)  # fmt: skip
def test_a_local_server_answers_local_names_a_public_one_any_unless_named(
    asked_folder, monkeypatch, host, names, hosts
):
    ran = []
    monkeypatch.setattr(DrainingServer, "run", lambda self, sockets: ran.append(self.service.hosts))
    serve(str(asked_folder), host=host, port=0, allowed_hosts=names)
    assert ran == [hosts]


@pytest.mark.slow
def test_the_started_server_refuses_other_hosts_and_targets(server):
    for target, host, status in (
        ("/healthz", "localhost", 200),
        ("/v1/model", "evil.example", 421),
        ("http://evil.example/v1/model", "localhost", 400),
        ("*", "localhost", 400),
    ):
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: localhost\r\n\r\n"
        assert rough(server.port, head.encode()).startswith(b"HTTP/1.1 %d " % status)
    assert rough(server.port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_an_address_in_use_is_refused():
    with open_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NerError, match="in use") as caught:
            open_socket("127.0.0.1", port)
        assert caught.value.place == f"127.0.0.1:{port}"
        assert caught.value.remedy == "choose another --host or --port"


def test_an_address_that_another_server_took_meanwhile_is_named(asked_folder, monkeypatch, caplog):
    """Two servers that start together both get the address; the first to have its model listens there."""
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bind = run.open_socket

    def opened(host, port):
        listener = bind(host, port)
        other.bind(listener.getsockname())
        other.listen()
        return listener

    monkeypatch.setattr(run, "open_socket", opened)
    with other, pytest.raises(NerError, match="in use") as caught:
        run.serve(str(asked_folder), port=0)
    assert caught.value.place.startswith("127.0.0.1:")
    assert "Traceback" not in caplog.text
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_clients_that_would_take_every_file_of_a_process_keep_no_probe_out(asked_folder, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))"
    start = f"from qwen_ner.cli import main; main(['serve', {str(asked_folder)!r}, '--port', '0'])"
    log, silent = tmp_path / "log", []
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-c", f"{limit}; {start}"], stderr=file, cwd=ROOT)
    try:
        while not (found := re.search(r"127\.0\.0\.1:(\d+)", log.read_text())):
            assert process.poll() is None
            time.sleep(0.1)
        silent += [socket.create_connection(("127.0.0.1", int(found[1]))) for _ in range(700)]
        for path in ("healthz", "readyz"):
            assert httpx.get(f"http://127.0.0.1:{found[1]}/{path}", timeout=8).status_code == 200
    finally:
        process.kill()
        process.wait()
        for client in silent:
            client.close()
    assert "Only 400 files" in log.read_text()


def test_a_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "token-of-environment")
    assert read_token(None) == "token-of-environment"
    file = tmp_path / "token"
    file.write_text("the-token-of-a-file\n")
    assert read_token(file) == "the-token-of-a-file"
    for bad in ("", "\n", "fifteen-letters", "two words of a token", "中文" * 8):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(NerError, match="ASCII") as caught:
            read_token(file)
        assert (caught.value.place, caught.value.value) == (str(file), None), "the token itself is not printed"
        assert "openssl rand" in caught.value.remedy


@pytest.mark.parametrize(
    ("host", "token", "warned"),
    [("0.0.0.0", None, True), ("0.0.0.0", "0123456789abcdef", False), ("127.0.0.1", None, False)],
)
def test_a_public_server_without_a_token_gets_a_warning(asked_folder, monkeypatch, caplog, host, token, warned):
    monkeypatch.setattr(DrainingServer, "run", lambda self, sockets: None)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    if token:
        monkeypatch.setenv(TOKEN_VARIABLE, token)
    serve(str(asked_folder), host=host, port=0)
    assert ("Anyone who can reach 0.0.0.0 can use this server" in caplog.text) == warned


def test_the_scores_are_those_of_metrics_json_without_paths(tmp_path, hub):
    assert read_scores(tmp_path) is None
    metrics = {"f1": 0.51234, "span_f1": 0.5, "macro_f1": 0.4, "f1_address": 0.1}
    contract = {"model": "/home/me/out", "data": "/home/me/data", "split": "dev", "rows": 7, "decoding": "free"}
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": metrics, "contract": contract}))
    hub.create("tester/ner", files={"metrics.json": (tmp_path / "metrics.json").read_bytes(), "ner_config.json": b"{}"})
    (tmp_path / "metrics.json").write_text(
        json.dumps({"metrics": metrics | {"f1": float("nan")}, "contract": contract})
    )
    assert read_scores(tmp_path) is None, "NaN is no JSON"
    assert read_scores(local_folder("tester/ner")) == {"f1": 0.5123, "span_f1": 0.5, "macro_f1": 0.4, "data": "data", "split": "dev", "rows": 7, "decoding": "free"}  # fmt: skip
