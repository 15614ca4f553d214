"""How does the server bear load, and does every answer reach who asked?

    python benchmarks/serve_load.py --model FOLDER --quick
    python benchmarks/serve_load.py --model FOLDER --data cluener --soak 600 --json serve_load.json

FOLDER is what `qwen-ner train` wrote; `tiny` trains nothing and takes the toy as it is made. The server is a process of
its own on loopback, this one its clients: plain sockets, a connection a client, one sentence a request. In turn:

    extract    Extractor.extract on the same sentences, in a process of its own, before the server starts and after
    load       1, 2, 4, … 64 clients: requests/s, latencies in ms, windows a batch
    malformed  random bytes, torn and changed requests: no 5xx, no hang
    soak       clients that ask for one sentence, for many, for many as lines, or leave: memory, lost answers
    restart    kill -9 under load, and a new server at the same port: whoever was not answered asks again

Each answer is checked against what Extractor.extract finds in its own text: `mixed up` are entities whose surface does
not stand in the text at their place, `other` are answers that differ from it otherwise (rounding of larger batches may
turn a near tie), `lost` are requests that a server was there for and nobody answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import claim, finish, machine, toy
from serve_clients import Server, load, malformed, restart, soak

CLIENTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a folder that qwen-ner train wrote")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--limit", type=int, default=200, help="sentences of its dev split")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is asked for, and read by extract")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--malformed", type=int, default=1000, help="requests")
    parser.add_argument("--soak", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--quick", action="store_true", help="few sentences, clients and malformed requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure_extract(options)))
        return
    if min(options.limit, options.repeats, *options.clients, options.malformed, options.soak) <= 0:
        parser.error("all numbers must be above 0: a result is made of every part")
    if options.quick:
        options.limit, options.repeats, options.clients = (
            min(options.limit, 40),
            2,
            [count for count in options.clients if count in (1, 8, 32)],
        )
        options.malformed, options.soak = min(options.malformed, 200), min(options.soak, 5.0)
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "tiny":
            options.model = str(toy(Path(folder) / "tiny"))
        report = measure(options)
    show(report)
    report |= {"machine": machine("uvicorn", "fastapi"), "claims": claims(report)}
    finish(report, options.json)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    before = in_process(options)
    expected = {text: [tuple(place) for place in places] for text, places in before["found"].items()}
    report: dict[str, Any] = {"settings": {k: getattr(options, k) for k in ("model", "data", "limit", "repeats")}}
    server = Server(options.model)
    try:
        report["load"] = []
        for count in options.clients:
            report["load"].append(asyncio.run(load(server, expected, count, options.repeats)))
            print(report["load"][-1], file=sys.stderr, flush=True)
        report["malformed"] = asyncio.run(malformed(server, list(expected), options.malformed))
        report["soak"] = asyncio.run(soak(server, expected, options.soak))
        report["restart"] = asyncio.run(restart(server, expected))
    finally:
        server.end()
    after = before if options.quick else in_process(options)
    report["extract"] = {"sentences/s": [one["sentences"] / one["seconds"] for one in (before, after)]}
    return report


def sentences(options: argparse.Namespace) -> list[str]:
    from qwen_ner.contract import NerConfig
    from qwen_ner.data.datasets import read_dataset

    rows = read_dataset(options.data, "dev", labels=NerConfig.load(options.model).labels)
    return list(dict.fromkeys(row.text for row in rows))[: options.limit]


def measure_extract(options: argparse.Namespace) -> dict[str, Any]:
    """What Extractor.extract finds in each sentence, and how long it takes for all of them, `repeats` times."""
    from qwen_ner.inference.extractor import Extractor

    texts = sentences(options)
    extractor = Extractor.from_pretrained(options.model)
    found = extractor.extract(texts)
    started = time.perf_counter()
    for _ in range(options.repeats):  # not together: equal texts of a batch are read once
        extractor.extract(texts)
    seconds = time.perf_counter() - started
    places = {t: [(e.label, e.start, e.end) for e in one] for t, one in zip(texts, found, strict=True)}
    return {"found": places, "seconds": seconds, "sentences": len(texts) * options.repeats}


def in_process(options: argparse.Namespace) -> dict[str, Any]:
    flags = [f"--{key}={getattr(options, key)}" for key in ("model", "data", "limit", "repeats")]
    done = subprocess.run([sys.executable, __file__, "--worker", *flags], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(report: dict[str, Any]) -> None:
    print(f"{'clients':>8}{'requests/s':>12}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'windows a batch':>17}  answers")
    for row in report["load"]:
        latencies = "".join(f"{row[p]:9.1f}" for p in ("p50", "p95", "p99"))
        print(f"{row['clients']:8}{row['requests/s']:12.1f}{latencies}{row['windows a batch']:17.1f}  {row['answers']}")
    print(f"extract, before and after: {', '.join(f'{r:.1f}' for r in report['extract']['sentences/s'])} sentences/s")
    for part in ("malformed", "soak", "restart"):
        print(f"{part}: {report[part]}")


def claims(report: dict[str, Any]) -> list[dict[str, Any]]:
    answers: Counter[str] = Counter()
    for part in (*report["load"], report["restart"], report["soak"]):
        answers.update(part["answers"])
    read = sum(answers[key] for key in ("right", "other", "mixed up"))
    unanswered = sum(count for key, count in answers.items() if key in ("lost", "refused") or key.startswith("status"))
    soaked = report["soak"]
    made = [
        claim("answers of another text", answers["mixed up"], 0, at_most=True),
        claim("answers lost or refused", unanswered, 0, at_most=True),
        claim("answers that are extract's, share", answers["right"] / read, 0.99),
        claim("malformed requests answered 5xx", report["malformed"].get("5xx", 0), 0, at_most=True),
        claim("malformed requests that hang", report["malformed"].get("hung", 0), 0, at_most=True),
        claim(
            "memory in the soak's last quarter, against its second",
            soaked["MiB in its last"] / soaked["MiB in its second quarter"],
            1.05,
            at_most=True,
        ),
    ]
    rates = {row["clients"]: row["requests/s"] for row in report["load"]}
    if 32 in rates:
        extract = statistics.mean(report["extract"]["sentences/s"])
        made.insert(0, claim("sentences/s at 32 clients, against Extractor.extract", rates[32] / extract, 0.95))
    return made


if __name__ == "__main__":
    main()
