"""Does `qwen-ner select` choose rows that teach more than random ones?

    python experiments/active.py --quick
    python experiments/active.py --model PATH --data cluener --json active.json
    python experiments/active.py --model PATH --data cluener --json active.json --use_cpu --pool 1500

For each seed: 200 random rows of train, and a model of them; three times 100 rows, chosen by the last model from a pool
of 3,000 others, and a model of all so far; against a model of the same 200 rows and 300 random ones. Each model is
few-rows of few_rows.py, from the base model on, and the random rows of a seed are the same as there; other options,
such as --use_cpu, are given to the recipe. All are read once on dev, with constrained decoding. A model that is trained
and read is not made again: give the same --work to go on, and --save_strategy steps --save_steps 20 to resume within a
training. Seeds that stand in --json are kept, so that each may be made on another machine.

The intervals are of 95 %, over the rows; those of the differences are paired. They do not say how much another draw of
rows changes: see the seeds for that. A text counts as one row, however long it is: `characters` are those that an
annotator reads.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages; torch reads it at its first tensor, as it is imported

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # how a report is written
from common import claim, finish, machine
from f1_budget import HELD_OUT, SPLIT_SEED
from lora_of_rows import found, predict_to, reading_dtype, train_on

from qwen_ner.data.datasets import TextRow, labels_of, read_dataset
from qwen_ner.data.split import hold_out
from qwen_ner.entities import CLUENER, Example, LabelSet
from qwen_ner.evaluation.bootstrap import differences, intervals, rates, row_counts
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.select import select
from qwen_ner.training.batches.cpu.malloc import set_pages
from qwen_ner.training.doctor.machine import epochs_of
from qwen_ner.training.tiny import make_tiny


@dataclass(frozen=True)
class Experiment:
    """What all models have in common. `rest` are overrides of the recipe."""

    work: Path
    model: str
    labels: LabelSet
    train: list[Example]
    dev: list[Example]
    start: int
    add: int
    rounds: int
    pool: int
    dtype: str
    rest: Sequence[str]

    def of_seed(self, seed: int) -> dict[str, Path]:
        """The folders of the models of a seed by name, each trained and read on dev."""
        rows = random.Random(seed).sample(self.train, len(self.train))
        rows, pool = rows[: self.start], rows[self.start :][: self.pool]
        folder, total = self.work / str(seed), self.start + self.add * self.rounds
        made = {f"start {self.start}": self.made(folder / "start", rows, seed)}
        made[f"random {total}"] = self.made(folder / "random", [*rows, *pool[: total - self.start]], seed)
        last = folder / "start"
        for n in range(1, self.rounds + 1):
            part = folder / f"chosen-{n}"
            before = part / "train.jsonl"
            rows = read_dataset(str(before), "train") if before.exists() else self.chosen(last, rows, pool)
            made[f"chosen {self.start + self.add * n}"] = last = self.made(part, rows, seed)
        return made

    def chosen(self, folder: Path, rows: list[Example], pool: Sequence[Example]) -> list[Example]:
        """`rows`, and those of `pool` that the model of `folder` would learn most from."""
        extractor = Extractor.from_pretrained(folder / "model", dtype=self.dtype)
        texts = (TextRow(str(n), example.text, example.source) for n, example in enumerate(pool))
        found = select(extractor, texts, self.add, exclude=[row.text for row in rows])
        return [*rows, *(pool[int(one.id)] for one in found.chosen)]

    def made(self, folder: Path, rows: Sequence[Example], seed: int) -> Path:
        """`folder`, with a model of `rows` and what it finds in dev."""
        done = folder / "predictions.jsonl"
        if not done.exists():
            print(f"{folder}: {len(rows)} rows", file=sys.stderr, flush=True)
            values = {"model_name_or_path": self.model, "seed": seed, "num_train_epochs": epochs_of(len(rows))}
            train_on(folder, rows, self.dev, self.labels, self.rest, **values)
            predict_to(done, folder, self.dev, dtype=self.dtype)
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a causal LM: a folder or its id on the Hub")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a folder of splits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--start", type=int, default=200, help="rows of the first model")
    parser.add_argument("--add", type=int, default=100, help="rows that are chosen at a time")
    parser.add_argument("--rounds", type=int, default=3, help="how often some are chosen")
    parser.add_argument("--pool", type=int, default=3_000, help="rows to choose from")
    parser.add_argument("--work", type=Path, default=Path("outputs/active"), help="models and what they find in dev")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="the toy, three steps of 8 to 20 rows, one seed")
    options, rest = parser.parse_known_args()
    set_pages()  # as `qwen-ner train` does
    dev = read_dataset(options.data, "dev")
    if options.quick:
        toy, options.seeds = options.work / "toy", options.seeds[:1]
        options.model = str(toy if toy.exists() else make_tiny(toy, dropout=0.0))
        options.start, options.add, options.pool, dev = 8, 4, 60, dev[:30]
        rest = ["--max_steps", "3", "--use_cpu", "--bf16", "false", "--max_new_tokens", "16", *rest]
    rows, _ = hold_out(read_dataset(options.data, "train"), 40 if options.quick else HELD_OUT, SPLIT_SEED)
    labels = CLUENER if options.data in ("cluener", "sample") else labels_of(rows)
    numbers, dtype = (options.start, options.add, options.rounds, options.pool), reading_dtype(options.quick)
    experiment = Experiment(options.work, options.model, labels, rows, dev, *numbers, dtype, rest)
    protocol = {key: getattr(options, key) for key in ("start", "add", "rounds", "pool")}
    before = json.loads(options.json.read_text("utf-8")) if options.json and options.json.exists() else {}
    if before and before["protocol"] != protocol:
        raise SystemExit(f"{options.json} was made with {before['protocol']}, not {protocol}; name another --json")
    kept = {key: [one for one in before.get(key, []) if one["seed"] not in options.seeds] for key in ("table", "gains")}
    table, gains = kept["table"], kept["gains"]
    for seed in options.seeds:
        counts = {}
        for name, folder in experiment.of_seed(seed).items():
            counts[name] = row_counts(dev, found(folder / "predictions.jsonl", dev), labels)
            line = entry(read_dataset(str(folder / "train.jsonl"), "train"), counts[name], labels)
            table.append({"rows": name, "seed": seed, "folder": str(folder.relative_to(options.work)), **line})
        gains.append({"seed": seed, **gain(counts, labels)})
        made = {"protocol": protocol, **report(table, gains)}
        finish(made, options.json)  # after each seed: what is there can be read


def entry(rows: Sequence[Example], counts: np.ndarray, labels: LabelSet) -> dict[str, Any]:
    """What a line of the table says of the rows of a model, and of its `counts` on dev."""
    return {
        "f1": float(rates(counts.sum(0), labels.names)["f1"]),
        "interval": str(intervals(counts, labels.names)["f1"]), "characters": sum(len(row.text) for row in rows),
        "entities": sum(len(row.entities) for row in rows),
    }  # fmt: skip


def gain(counts: Mapping[str, np.ndarray], labels: LabelSet) -> dict[str, float]:
    """What the last chosen rows of a seed gain over as many random ones; `counts` are those of dev's rows by name."""
    chance, chosen = ([*counts.values()][1], [*counts.values()][-1])
    (f1,) = (each for each in differences([chance], [chosen], labels.names) if each.name == "f1")
    return {"f1": f1.b - f1.a, "low": f1.interval.low, "high": f1.interval.high}


def report(table: Sequence[dict[str, Any]], gains: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print the table by rows, and what chosen rows gain in each seed."""
    names = [*dict.fromkeys(line["rows"] for line in table)]
    for name in names:
        lines = [line for line in table if line["rows"] == name]
        each = ", ".join(f"{line['seed']}: {100 * line['f1']:.2f} ({line['interval']})" for line in lines)
        sizes = (f"{mean(line[what] for line in lines):,.0f} {what}" for what in ("characters", "entities"))
        print(f"{name:<12} f1 {100 * mean(line['f1'] for line in lines):.2f}   {', '.join(sizes)}   {each}")
    points = 100 * mean(one["f1"] for one in gains)
    shown = "{}: {:+.2f} ({:.1f} – {:.1f})"
    each = ", ".join(shown.format(one["seed"], *(100 * one[key] for key in ("f1", "low", "high"))) for one in gains)
    print(f"{names[-1]} - {names[1]}: {points:+.2f} points of f1   {each}")
    claims = [claim("points of f1 that chosen rows gain over random ones, mean of the seeds", points, 0)]
    return {"machine": machine(), "table": list(table), "gains": list(gains), "claims": claims}


if __name__ == "__main__":
    main()
