"""What do ten and a hundred times the data cost?

    python benchmarks/growth.py --quick
    python benchmarks/growth.py --model FOLDER --json growth.json

Each task is the command as a user types it, on `rows`, ten times and a hundred times as many made-up sentences, each in
a process of its own. Seconds are without the imports. MiB is the most memory that the process held of its own (RssAnon
of Linux), imports and model included: pages of files, which the system takes back as it likes, are not in it.

    convert    JSONL to BIO
    tokenize   rows to token ids by `datasets.map`
    train      30 steps of one batch size, on the toy
    predict    sentences to lines, constrained
    evaluate   the same, scored, without its report
    report     a file of predictions, scored, with its report

FOLDER is what `qwen-ner train` wrote, for predict and evaluate; `tiny` takes the toy as it is made.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import claim, finish, machine, toy

ROWS = {"convert": 2000, "tokenize": 2000, "train": 1000, "predict": 600, "evaluate": 600, "report": 1000}
"""Sentences at 1 ×: as many as a command holds at a time, so that the slowest takes about four minutes at 100 ×."""

TIMES = (1, 10, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a folder that qwen-ner train wrote")
    parser.add_argument("--tasks", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="1 × and 10 × of a tenth of the rows")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, metavar=("TASK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker[0], Path(options.worker[1]), options.model)))
        return
    times = TIMES[:2] if options.quick else TIMES
    table: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = str(toy(Path(folder) / "tiny")) if options.model == "tiny" else options.model
        for task in options.tasks:
            table[task] = []
            for factor in times:
                rows = ROWS[task] * factor // (10 if options.quick else 1)
                place = Path(folder) / f"{task}-{rows}"
                write(place, rows)
                table[task].append({"rows": rows, **in_process(task, place, model)})
                print(f"{task} {rows}: {table[task][-1]}", file=sys.stderr, flush=True)
    show(table)
    finish({"machine": machine("datasets"), "table": table, "claims": claims(table)}, options.json)


def write(folder: Path, rows: int) -> None:
    """train.jsonl of so many sentences, all different, a dev.jsonl of some, and predictions with faults in them."""
    from qwen_ner.data.datasets import read_dataset, write_jsonl

    folder.mkdir()
    made = [row for split in ("train", "dev", "test") for row in read_dataset("sample", split) if row.entities]

    def nth(i: int) -> Any:
        row = made[i % len(made)]
        return replace(row, id=str(i), text=f"{row.text}；第{i}条")

    write_jsonl(folder / "train.jsonl", (nth(i) for i in range(rows)))
    write_jsonl(folder / "dev.jsonl", (nth(rows + i) for i in range(20)))
    with (folder / "texts.txt").open("w", encoding="utf-8") as texts, (folder / "predicted.jsonl").open("w") as out:
        for i in range(rows):
            row = nth(i)
            texts.write(row.text + "\n")
            kept = row.entities[1:] if i % 3 == 0 else row.entities
            entities = [{"label": e.label, "start": e.start, "end": e.end} for e in kept]
            out.write(json.dumps({"id": row.id, "text": row.text, "entities": entities}) + "\n")


def in_process(task: str, folder: Path, model: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--model", model, "--worker", task, str(folder)]
    most = 0
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "HF_HOME": str(folder / "hf")})
        while process.poll() is None:
            most = max(most, own_memory(process.pid))
            time.sleep(0.01)
        out.seek(0), err.seek(0)
        if process.returncode:
            return {"error": (err.read().strip().splitlines() or [f"exit {process.returncode}"])[-1]}
        return {"seconds": json.loads(out.read().splitlines()[-1]), "MiB": most / 2**10}


def own_memory(pid: int) -> int:
    """KiB of a process's memory that are not pages of files; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) if found else 0


def measure(task: str, folder: Path, model: str) -> float:
    """The seconds of a task."""
    import transformers
    from transformers import Trainer  # noqa: F401  the slow imports, before the clock runs

    from qwen_ner import cli

    transformers.utils.logging.set_verbosity_error()
    rows, split = folder / "train.jsonl", ("--data", folder, "--split", "train")
    commands: dict[str, tuple[str | Path, ...]] = {
        "convert": ("convert", rows, folder / "train.bio"),
        "train": ("train", recipe(folder)),
        "predict": ("predict", model, folder / "texts.txt", "--output", folder / "out.jsonl"),
        "evaluate": ("evaluate", model, *split, "--decoding", "constrained"),
        "report": ("evaluate", folder / "predicted.jsonl", *split, "--report", folder / "report"),
    }
    started = time.perf_counter()
    if task == "tokenize":
        tokenize(rows)
    else:
        cli.main([str(part) for part in commands[task]])
    return time.perf_counter() - started


def tokenize(path: Path) -> None:
    from qwen_ner.codec import Codec
    from qwen_ner.data.arrow_store import StoredExamples
    from qwen_ner.data.datasets import iter_dataset, labels_of
    from qwen_ner.data.tokenize import build_dataset
    from qwen_ner.training.tiny import tiny_tokenizer

    examples = StoredExamples.of(iter_dataset(str(path), "train"))
    build_dataset(examples, Codec(labels_of(examples)), tiny_tokenizer())


def recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: tiny\ndataset: {folder}\nvalidation_rows: 8\nmax_steps: 30\nuse_cpu: true\n"
        "max_new_tokens: 16\n"
        f"per_device_train_batch_size: 16\neval_strategy: 'no'\nload_best_model_at_end: false\nsave_strategy: 'no'\n"
        f"output_dir: {folder / 'trained'}\n",
        encoding="utf-8",
    )
    return path


def show(table: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{'':10}{'rows':>10}{'seconds':>10}{'rows/s':>10}{'MiB':>8}")
    for task, runs in table.items():
        for run in runs:
            if "error" in run:
                print(f"{task:10}{run['rows']:>10,}  {run['error']}")
                continue
            rate = run["rows"] / run["seconds"]
            print(f"{task:10}{run['rows']:>10,}{run['seconds']:>10.1f}{rate:>10.0f}{run['MiB']:>8.0f}")


def claims(table: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """From the last but one size to the last, ten times the rows: time grows with them, and memory by what?"""
    made = []
    for task, runs in table.items():
        if len(runs) < 2 or any("error" in run for run in runs[-2:]):
            continue
        before, after = runs[-2:]
        kib = 1024 * (after["MiB"] - before["MiB"]) / (after["rows"] - before["rows"])
        made.append(claim(f"{task}: seconds at ten times the rows", after["seconds"] / before["seconds"], 11.0, True))
        made.append(claim(f"{task}: KiB more for each row more", kib, 0.1, True))
    return made


if __name__ == "__main__":
    main()
