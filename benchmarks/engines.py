"""How fast do other engines read the same sentences?

    python benchmarks/engines.py --model FOLDER --quick
    python benchmarks/engines.py --model FOLDER --data cluener --server float32=URL bfloat16=URL --json engines.json

FOLDER is what `qwen-ner export FOLDER OUT --merge` wrote; `tiny` trains nothing and takes the toy as it is made. Every
engine reads the same sentences of the dev split, others in each round, with the grammar, in a process of its own:

    ours      Extractor.extract, once in each of `--dtypes`
    server    the same by the server at an address of `--server`, which its owner started in the dtype that is named
              before it: vLLM with our logits processor, as docs/en/guides/vllm.md says
    serve     `qwen-ner serve` in front of that server, asked by 32 clients for a sentence each
    predict   `qwen-ner predict` on a file of the first `--sizes` sentences, in the first of `--dtypes`
    ray       the same sentences in eight files, by `--engine ray` and two replicas on this machine

The rates of predict and ray are the difference of the two sizes over the difference of their times, without the
`start`. `same` is the share of sentences with the entities of ours in that dtype (of ray, with those of predict), and
`scores` the largest difference of the scores of these entities.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import claim, finish, installed, machine, toy
from serve_clients import Server, load
from serve_load import sentences

CLIENTS = 32
FILES = 8
"""Ray reads a file in a task of its own: a single one would feed its replicas in turn."""

Found = list[list[tuple[str, int, int, float | None]]]
"""Label, start, end and score of the entities of each sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a folder with merged weights")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--limit", type=int, default=96, help="sentences that ours and the servers read")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--server", nargs="+", default=[], metavar="DTYPE=URL", help="of --dtypes; http://host:port/v1")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[64, 512], help="two, for predict and ray; none leaves these out"
    )
    parser.add_argument("--quick", action="store_true", help="one round, few sentences")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(read(options)))
        return
    servers = dict(pair.split("=", 1) for pair in options.server if "=" in pair)
    if len(servers) < len(options.server) or not servers.keys() <= {*options.dtypes}:
        parser.error("--server: give DTYPE=URL, each DTYPE once, and one of --dtypes")
    if len({*options.sizes}) not in (0, 2):
        parser.error("--sizes: give two different numbers, or none")
    if options.sizes and not installed("ray"):
        parser.error("--sizes: Ray is not installed; install qwen_ner[ray], or give no sizes")
    version = server_version(next(iter(servers.values()))) if servers else None
    if options.quick:
        options.limit, options.repeats, options.sizes = min(options.limit, 16), 1, options.sizes and [8, 16]
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "tiny":
            options.model = str(toy(Path(folder) / "tiny"))
        on_ray = against_ray(options, Path(folder)) if options.sizes else {}
        table = against_servers(options, servers) | on_ray
    show(table)
    keys = ("model", "data", "limit", "repeats", "sizes")
    report = {
        "machine": machine("ray") | {"vllm": version},
        "settings": {key: getattr(options, key) for key in keys},
        "table": table,
        "claims": claims(table),
    }
    finish(report, options.json)


def read(options: argparse.Namespace) -> dict[str, Any]:
    """Read the sentences in a dtype, or by a server: the seconds, and the entities of each."""
    from qwen_ner.inference.extractor import Extractor

    (texts, first), how = chosen(options, options.turn), "backend" if "://" in options.worker else "dtype"
    extractor = Extractor.from_pretrained(options.model, **{how: options.worker})
    extractor.extract(first)
    started = time.perf_counter()
    found = extractor.extract(texts)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "found": [[(e.label, e.start, e.end, e.score) for e in one] for one in found]}


def chosen(options: argparse.Namespace, turn: int) -> tuple[list[str], list[str]]:
    """The sentences of a round, and those to begin with, as the first call of anything is slow.

    Each round has others as long as there are some: a server keeps what it has computed of prompts that it knows.
    """
    every = sentences(argparse.Namespace(**vars(options) | {"limit": None}))
    numbers = range(turn * options.limit, turn * options.limit + min(options.limit, len(every)))
    return [every[number % len(every)] for number in numbers], every[-CLIENTS:]


def in_process(worker: str, options: argparse.Namespace, turn: int) -> dict[str, Any]:
    flags = [f"--turn={turn}", *(f"--{key}={getattr(options, key)}" for key in ("model", "data", "limit"))]
    return dict(json.loads(run([__file__, "--worker", worker, *flags]).splitlines()[-1]))


def run(arguments: Sequence[str]) -> str:
    """What Python prints. Its own last words, if it fails, are those of this program."""
    print(" ".join(map(str, arguments)), file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit("\n".join(done.stderr.strip().splitlines()[-5:]))
    return done.stdout


def against_servers(options: argparse.Namespace, servers: Mapping[str, str]) -> dict[str, Any]:
    """The rows of ours, of servers and of `serve` in front of them."""
    ways = {f"ours {dtype}": dtype for dtype in options.dtypes}
    ways |= {f"server {dtype}": url for dtype, url in servers.items()}
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for turn in range(options.repeats):
        for way, worker in ways.items():
            runs[way].append(in_process(worker, options, turn))
    table: dict[str, Any] = {}
    for way, made in runs.items():
        found, ours = made[-1]["found"], runs[f"ours {way.split()[-1]}"][-1]["found"]
        rate = statistics.median(len(one["found"]) / one["seconds"] for one in made)
        table[way] = {"sentences/s": rate, "same": None, "scores": None}
        table[way] |= agreement(ours, found) if found is not ours else {}
    for dtype, url in servers.items():
        table[f"serve {dtype}"] = behind(options, url, in_process(dtype, options, options.repeats)["found"])
    return table


def agreement(ours: Found, theirs: Found) -> dict[str, float | None]:
    """The share of sentences with the same entities, and how far the scores of these differ at most."""
    pairs = list(zip(ours, theirs, strict=True))
    same = [(one, other) for one, other in pairs if [e[:3] for e in one] == [e[:3] for e in other]]
    scores = [(e[3], o[3]) for one, other in same for e, o in zip(one, other, strict=True)]
    apart = [abs(e - o) for e, o in scores if e is not None and o is not None]
    return {"same": len(same) / len(pairs), "scores": max(apart, default=None)}


def behind(options: argparse.Namespace, url: str, ours: Found) -> dict[str, Any]:
    """The row of `serve` with the server at `url`."""
    texts, _ = chosen(options, options.repeats)
    expected = {text: [(e[0], e[1], e[2]) for e in one] for text, one in zip(texts, ours, strict=True)}
    server = Server(options.model, "--engine", url)
    try:
        asked = asyncio.run(load(server, expected, CLIENTS, 1))
    finally:
        server.end()
    answers: Counter[str] = Counter(asked["answers"])
    return {
        "sentences/s": asked["requests/s"],
        "same": answers["right"] / answers.total(),
        "scores": None,
        **{key: asked[key] for key in ("p50", "p95", "answers")},
    }


def against_ray(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The rows of `predict` and of Ray. Raises `SystemExit` if there are fewer sentences than `options.sizes` asks."""
    limited = argparse.Namespace(**{**vars(options), "limit": max(options.sizes)})
    texts = sentences(limited)
    if len(texts) < max(options.sizes):
        raise SystemExit(f"--sizes: {options.data} has {len(texts)} different sentences; give smaller sizes")
    seconds: dict[str, list[dict[int, float]]] = {"predict": [], "ray": []}
    found: dict[str, Found] = {}
    for turn in range(options.repeats):
        for made in seconds.values():
            made.append({})
        for size in options.sizes:
            file, parts = write(texts[:size], folder / f"{turn}-{size}")
            commands = {"predict": [str(file)], "ray": [str(parts), "--engine", "ray", "--replicas", "2"]}
            for way, words in commands.items():
                out = folder / f"{way}-{turn}-{size}"
                started = time.perf_counter()
                more = ["--dtype", options.dtypes[0], "--output", str(out)]
                run(["-m", "qwen_ner", "predict", options.model, *words, *more])
                seconds[way][-1][size] = time.perf_counter() - started
                found[way] = entities(out, texts[:size])
    table: dict[str, Any] = {}
    for way, made in seconds.items():
        rate, start = map(statistics.median, zip(*map(beyond_start, made), strict=True))
        table[f"{way} {options.dtypes[0]}"] = {"sentences/s": rate, "same": None, "scores": None, "start": start}
    table[f"ray {options.dtypes[0]}"] |= agreement(found["predict"], found["ray"])
    return table


def write(texts: Sequence[str], folder: Path) -> tuple[Path, Path]:
    """A file of all texts, and a folder of `FILES` that hold a part of them each."""
    parts = folder / "parts"
    parts.mkdir(parents=True)
    for number in range(FILES):
        own = texts[number * len(texts) // FILES : (number + 1) * len(texts) // FILES]
        (parts / f"{number}.txt").write_text("".join(f"{text}\n" for text in own), encoding="utf-8")
    (folder / "all.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return folder / "all.txt", parts


def entities(out: Path, texts: Sequence[str]) -> Found:
    """What stands in the file `out`, or in the files of the folder, of each of `texts`."""
    files = sorted(out.iterdir()) if out.is_dir() else [out]
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    by_text = {
        line["text"]: [(e["label"], e["start"], e["end"], e.get("score")) for e in line["entities"]] for line in lines
    }
    return [by_text[text] for text in texts]


def beyond_start(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Sentences a second of what the larger size took longer, and the seconds of the start that this leaves."""
    (few, short), (many, long) = sorted(seconds.items())
    rate = (many - few) / (long - short)
    return rate, short - few / rate


def server_version(url: str) -> str | None:
    """What vLLM at `url` says of itself. Raises `SystemExit` if nothing answers there."""
    import httpx

    try:
        answer = httpx.get(url.partition("#")[0].rstrip("/").removesuffix("/v1") + "/version")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SystemExit(f"--server: nothing answers at {url} ({error})") from None
    return answer.json().get("version") if answer.is_success else None


def show(table: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{'':18}{'sentences/s':>12}{'same':>7}{'scores':>10}{'p50 ms':>9}{'p95 ms':>9}{'start s':>9}")
    for way, row in table.items():
        same = "" if row["same"] is None else f"{row['same']:.1%}"
        scores = "" if row["scores"] is None else f"{row['scores']:.1e}"
        latency = "".join(f"{row[p]:9.0f}" if p in row else " " * 9 for p in ("p50", "p95"))
        latency += f"{row['start']:9.1f}" if "start" in row else ""
        print(f"{way:18}{row['sentences/s']:12.2f}{same:>7}{scores:>10}{latency}")


def claims(table: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures that are asked of the 0.5B on CPUs; elsewhere they are printed all the same."""
    made = []
    for way, row in table.items():
        engine, _, dtype = way.partition(" ")
        if engine == "server":
            ours = table[f"ours {dtype}"]["sentences/s"]
            made.append(claim(f"sentences/s of ours against the server, {dtype}", ours / row["sentences/s"], 1.3))
        if engine == "server" and dtype == "float32":  # in 16 bits near ties move
            made.append(claim("sentences with the entities of ours, server float32", row["same"], 0.99))
            made.append(claim("difference of scores, server float32", row["scores"] or 0.0, 1e-3, at_most=True))
        if engine == "serve":
            wrong = sum(count for what, count in row["answers"].items() if what not in ("right", "other"))
            made.append(claim(f"answers lost, refused or of another text, {way}", wrong, 0, at_most=True))
        if engine == "ray":
            alone = table[f"predict {dtype}"]["sentences/s"]
            made.append(claim("sentences/s of two replicas on Ray against predict", row["sentences/s"] / alone, 0.9))
            made.append(claim("sentences with the entities of predict, Ray", row["same"], 0.99))
    return made


if __name__ == "__main__":
    main()
