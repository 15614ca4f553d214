"""The clients of serve_load.py, and the server that they ask.

In: a model folder, and for each sentence what Extractor.extract finds in it. Out: what became of the requests, counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from typing import Any

HANG = 120.0
"""Seconds after which an answer that has not come is counted as lost, and a connection as hung."""

Place = tuple[str, int, int]


class Server:
    """`qwen-ner serve` in a process of its own, at a port that it keeps when it is started again."""

    def __init__(self, model: str, *options: str) -> None:
        self.model, self.options, self.port = model, options, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "qwen_ner", "serve", self.model, "--port", str(self.port), *self.options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self.process.stderr or ():
            said.append(line)
            if found := re.search(r"answers at http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return
        raise SystemExit("".join(said))

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode

    @property
    def memory(self) -> float:
        """MiB that it holds."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss / 2**20


class Client:
    """One connection, opened anew where the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, texts: list[str], lines: bool = False) -> tuple[int, list[dict[str, Any]]]:
        """The status and a row a text. Raises OSError or EOFError where the connection ends before."""
        body = json.dumps({"texts": texts}, ensure_ascii=False).encode()
        accept = b"application/x-ndjson" if lines else b"application/json"
        head = b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\nAccept: %b\r\n%b\r\n" % (accept, JSON % len(body))
        status, answer = await self.exchange(head + body)
        if status != 200:
            return status, []
        return status, [json.loads(line) for line in answer.splitlines()] if lines else json.loads(answer)["results"]

    async def exchange(self, data: bytes) -> tuple[int, bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, limit=2**22)
        reader, writer = self.streams
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            if length := re.search(rb"(?i)content-length: (\d+)", head):
                body = await reader.readexactly(int(length[1]))
            else:
                body = await _chunked(reader)
        except (OSError, EOFError):
            self.close()
            raise
        if b"connection: close" in head.lower():
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self.streams:
            self.streams[1].close()
            self.streams = None


JSON = b"Content-Type: application/json\r\nContent-Length: %d\r\n"


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return body


def verdict(text: str, row: dict[str, Any], expected: list[Place]) -> str:
    if "error" in row:
        return "refused"
    if any(text[e["start"] : e["end"]] != e["text"] for e in row["entities"]):
        return "mixed up"
    return "right" if [(e["label"], e["start"], e["end"]) for e in row["entities"]] == expected else "other"


async def batches(server: Server) -> tuple[float, float]:
    """How many batches and windows the server has read so far."""
    _, text = await Client(server.port).exchange(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    values = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    return float(values["qwen_ner_batch_windows_count"]), float(values["qwen_ner_batch_windows_sum"])


async def load(server: Server, expected: dict[str, list[Place]], count: int, repeats: int) -> dict[str, Any]:
    """All sentences `repeats` times, asked for by `count` clients, each of whom waits for its answer."""
    waiting = iter(list(expected) * repeats)
    seconds: list[float] = []
    verdicts: Counter[str] = Counter()

    async def client() -> None:
        connection = Client(server.port)
        for text in waiting:
            started = time.perf_counter()
            status, rows = await asyncio.wait_for(connection.ask([text]), HANG)
            seconds.append(time.perf_counter() - started)
            verdicts[verdict(text, rows[0], expected[text]) if status == 200 else f"status {status}"] += 1
        connection.close()

    before = await batches(server)
    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    took = time.perf_counter() - started
    after = await batches(server)
    ranked = sorted(seconds)
    return {
        "clients": count,
        "requests/s": len(ranked) / took,
        **{f"p{p}": 1000 * ranked[min(len(ranked) - 1, p * len(ranked) // 100)] for p in (50, 95, 99)},
        "windows a batch": (after[1] - before[1]) / (after[0] - before[0]),
        "answers": dict(verdicts),
    }


async def malformed(server: Server, texts: list[str], count: int) -> dict[str, int]:
    """What `count` broken requests come to, 64 at a time, by the first digit of their status."""
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    slots = asyncio.Semaphore(64)

    def broken(n: int) -> bytes:
        body = json.dumps({"texts": chance.sample(texts, 3), "min_score": 0.5}, ensure_ascii=n % 2 == 0).encode()
        whole = bytearray(b"POST /v1/extract HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (JSON % len(body)) + body)
        if n % 4 == 0:
            return chance.randbytes(chance.randrange(1, 2000))
        if n % 4 == 1:
            return bytes(whole[: chance.randrange(len(whole))])
        first = 0 if n % 4 == 2 else len(whole) - len(body)  # anywhere, or in the body alone
        for _ in range(chance.randrange(1, 8)):
            whole[chance.randrange(first, len(whole))] = chance.randrange(256)
        return bytes(whole)

    async def send(data: bytes) -> None:
        async with slots:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            try:
                writer.write(data)
                try:
                    answer = await asyncio.wait_for(reader.read(4096), 1.0)
                except asyncio.TimeoutError:  # it waits for the rest, which never comes
                    writer.write_eof()
                    answer = await asyncio.wait_for(reader.read(4096), HANG)
                outcomes[f"{answer[9:10].decode()}xx" if answer.startswith(b"HTTP/1.1 ") else "closed"] += 1
            except asyncio.TimeoutError:
                outcomes["hung"] += 1
            except OSError:
                outcomes["closed"] += 1
            finally:
                writer.close()

    await asyncio.gather(*(send(broken(n)) for n in range(count)))
    return dict(outcomes)


async def soak(server: Server, expected: dict[str, list[Place]], seconds: float) -> dict[str, Any]:
    """Eight clients that ask in different ways for `seconds`, and the server's memory meanwhile."""
    until = time.perf_counter() + seconds
    outcomes: Counter[str] = Counter()
    memory: list[float] = []
    texts = list(expected)

    async def client(seed: int) -> None:
        chance, connection = random.Random(seed), Client(server.port)
        while time.perf_counter() < until:
            way = chance.choice(("one", "one", "many", "lines", "leave"))
            asked = chance.sample(texts, 1 if way == "one" else min(len(texts), chance.randrange(2, 40)))
            try:
                if way == "leave":
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(connection.ask(asked), chance.random() / 20)
                    connection.close()
                    outcomes["left"] += 1
                    continue
                status, rows = await asyncio.wait_for(connection.ask(asked, way == "lines"), HANG)
            except (OSError, EOFError, asyncio.TimeoutError):
                outcomes["lost"] += len(asked)
                connection.close()
                continue
            if status != 200 or len(rows) != len(asked):
                outcomes[f"status {status}" if status != 200 else "lost"] += len(asked)
                continue
            outcomes.update(verdict(t, row, expected[t]) for t, row in zip(asked, rows, strict=True))

    async def watch() -> None:
        while time.perf_counter() < until:
            memory.append(server.memory)
            await asyncio.sleep(min(1.0, seconds / 20))

    await asyncio.gather(watch(), *(client(seed) for seed in range(8)))
    quarter = max(1, len(memory) // 4)
    second, last = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    return {"seconds": seconds, "MiB in its second quarter": second, "MiB in its last": last, "answers": dict(outcomes)}


async def restart(server: Server, expected: dict[str, list[Place]], count: int = 16) -> dict[str, Any]:
    """Kill the server while `count` clients ask, and start it again; all sentences are asked for until answered."""
    waiting = iter(list(expected) * 4)
    outcomes: Counter[str] = Counter()

    async def client() -> None:
        connection = Client(server.port)
        for text in waiting:
            while True:
                try:
                    status, rows = await asyncio.wait_for(connection.ask([text]), HANG)
                    break
                except (OSError, EOFError):
                    outcomes["asked again"] += 1
                    await asyncio.sleep(0.2)
            outcomes[verdict(text, rows[0], expected[text]) if status == 200 else f"status {status}"] += 1

    clients = [asyncio.create_task(client()) for _ in range(count)]
    while sum(outcomes.values()) < len(expected):
        await asyncio.sleep(0.01)
    server.process.kill()
    server.process.wait()
    started = time.perf_counter()
    await asyncio.to_thread(server.start)
    took = time.perf_counter() - started
    await asyncio.gather(*clients)
    return {"seconds until it answered again": took, "answers": dict(outcomes)}
