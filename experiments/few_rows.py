"""How good does a model get from 50, 100, … 2,000 annotated rows, and what makes it better there?

    python experiments/few_rows.py --quick
    python experiments/few_rows.py --model PATH --data cluener --score dev
    python experiments/few_rows.py --model PATH --data cluener --systems few-rows --name inline --target inline

The rows of a seed are the first of one shuffle of train, so that those of a size hold those of the smaller ones.

    lookup     the surfaces of the rows, longest match, under their most frequent label
    crf        a linear-chain CRF over characters (crf.py), its penalties chosen on the rows held out
    one-pass   the LoRA recipe, one epoch of them
    few-rows   the LoRA recipe, as many epochs as 2,500 rows are, at most 10

Every choice is made on 600 rows held out of train, the same as in f1_budget.py; dev is read by `--score dev`, by what
was chosen. Other options are keys of the recipe, and give a run of one-pass or few-rows a `--name`; `--swap`,
`--recipe` and `--negatives 0.1`, say, are such levers too. What `num_train_epochs` says goes before the epochs above.

A run is a line of `--out`, with the counts of every row that was read; one that stands there is not made again, and a
model in `--work` is not trained again, so that dev is read with the models that were chosen. Scores with intervals of
95 % over the rows, and differences to the CRF of the same rows, are written beside them as JSON. Several processes may
work at once, such as one a seed: the last one writes what all have made.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages; torch reads it at its first tensor, as it is imported

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # how a report is written
from common import finish, machine, this_run
from f1_budget import HELD_OUT, SPLIT_SEED, packed, write
from lora_of_rows import found, predict_to, reading_dtype, train_on

from qwen_ner.codec import Decoded
from qwen_ner.data.datasets import labels_of, read_dataset
from qwen_ner.data.split import hold_out
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError
from qwen_ner.evaluation.baselines import Lookup
from qwen_ner.evaluation.bootstrap import rates, row_counts
from qwen_ner.files import write_text
from qwen_ner.training.batches.cpu.malloc import set_pages
from qwen_ner.training.doctor.machine import epochs_of
from qwen_ner.training.tiny import make_tiny

RUNS, WORK = Path("experiments/few_rows.jsonl"), Path("outputs/few_rows")
SIZES, SEEDS = (50, 100, 200, 500, 1_000, 2_000), (42, 43, 44)
RIVALS, OURS = ("lookup", "crf"), ("one-pass", "few-rows")

Run = dict[str, Any]
Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a causal LM: a folder or its id on the Hub")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a folder of splits")
    parser.add_argument("--systems", nargs="+", default=[*RIVALS, *OURS], choices=[*RIVALS, *OURS])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="rows to train on")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the choice of rows, and of training")
    parser.add_argument("--score", default="held-out", choices=["held-out", "dev"], help="the rows to read")
    parser.add_argument("--name", default="", help="what is different: joined to the system's name by +")
    parser.add_argument("--swap", type=int, default=0, help="copies of each row with other entities of the same labels")
    parser.add_argument("--recipe", default="lora", help="lora_guidelines tells the descriptions of the labels")
    parser.add_argument("--out", type=Path, help=f"a line a run; added to; default: {RUNS}")
    parser.add_argument("--work", type=Path, default=WORK, help="models and what they find")
    parser.add_argument("--json", type=Path, help="scores and comparisons of all runs; default: beside --out")
    parser.add_argument("--quick", action="store_true", help="three steps of the toy, 40 rows held out, one seed")
    options, rest = parser.parse_known_args()
    set_pages()  # as `qwen-ner train` does
    if options.quick:
        toy = options.work / "toy"
        options.model = str(toy if toy.exists() else make_tiny(toy, dropout=0.0))
        options.sizes, options.seeds = [8, 20], options.seeds[:1]
        options.out = options.out or options.work / RUNS.name
    out = options.out or RUNS
    try:
        experiment = prepared(options, rest)
        for seed in options.seeds:
            for size in options.sizes:
                for system in options.systems:
                    experiment.make(system, size, seed, out)
            tell(out, options.json)  # after each seed: what is there can be read
    except NerError as error:
        raise SystemExit(str(error)) from None


def prepared(options: argparse.Namespace, rest: list[str]) -> Experiment:
    """The experiment that the options describe. Raises `NerError` for what they contradict."""
    own = {"recipe": options.recipe, "swap": options.swap, "overrides": rest}
    changed = rest or options.swap or options.recipe != "lora"
    if changed and not options.name:
        raise NerError("these runs have no name of their own", value=own, place="--name", remedy="name what is changed")
    if (rivals := set(options.systems) & {*RIVALS}) and (changed or options.name):
        remedy = f"say --systems {' '.join(OURS)}"
        raise NerError("the rivals have no such settings", value=sorted(rivals), place="--systems", remedy=remedy)
    if "crf" in options.systems and find_spec("pycrfsuite") is None:
        remedy = "pip install python-crfsuite"
        raise NerError("the CRF needs python-crfsuite", value="crf", place="--systems", remedy=remedy)
    if not torch.cuda.is_available():
        rest = ["--use_cpu", *rest]
    if options.quick:
        rest = ["--bf16", "false", "--max_steps", "3", "--max_new_tokens", "16", *rest]
    train, held = hold_out(read_dataset(options.data, "train"), 40 if options.quick else HELD_OUT, SPLIT_SEED)
    if too_many := [size for size in options.sizes if not 0 < size <= len(train)]:
        remedy = f"choose from 1 to {len(train)}"
        raise NerError("there are not as many rows to train on", value=too_many, place="--sizes", remedy=remedy)
    scored = read_dataset(options.data, "dev") if options.score == "dev" else held
    labels = CLUENER if options.data in ("cluener", "sample") else labels_of(train)
    return Experiment(options, labels, train, held, scored, own, rest)


@dataclass(frozen=True)
class Experiment:
    """What all runs have in common: rows to draw from, to choose by and to score; overrides of the recipe."""

    options: argparse.Namespace
    labels: LabelSet
    train: Sequence[Example]
    held: Sequence[Example]
    scored: Sequence[Example]
    own: dict[str, Any]
    rest: Sequence[str]

    def make(self, system: str, size: int, seed: int, out: Path) -> None:
        """Add a line to `out`, unless it is there."""
        name = f"{system}+{self.options.name}" if self.options.name else system
        own = self.own if system in OURS else {}
        run: Run = {"system": name, "rows": size, "seed": seed, "split": self.options.score, "settings": own}
        key = ("system", "rows", "seed", "split")
        for known in runs_of(out):
            if all(known[part] == run[part] for part in key):
                if known["settings"] != own:
                    what, place = "this name stands for other settings", f"{out}: {name}"
                    raise NerError(what, value=known["settings"], place=place, remedy="choose another --name")
                return
        print(f"{name}: {size} rows, seed {seed}, {self.options.score}", file=sys.stderr, flush=True)
        rows = random.Random(seed).sample(self.train, len(self.train))[:size]
        if system in OURS:
            predicted, more = self.ours(system, name, rows, seed)
        else:
            predicted, more = self.lookup(rows) if system == "lookup" else self.crf(rows, seed)
        counts = row_counts(self.scored, predicted, self.labels, {pair for row in rows for pair in row.surfaces})
        done = this_run()
        write(out, run | more | {
            "f1": round(100 * float(rates(counts.sum(0), self.labels.names)["f1"]), 2), "scored": len(self.scored),
            "labels": list(self.labels.names), "counts": packed(counts),
            "machine": machine("python-crfsuite") | {"threads": torch.get_num_threads()},
            "run": {part: done[part] for part in ("date", "commit")},
        })  # fmt: skip

    def lookup(self, rows: Sequence[Example]) -> tuple[list[Decoded], dict[str, Any]]:
        look, training = timed(lambda: Lookup(rows))
        predicted, reading = timed(lambda: [look(row.text) for row in self.scored])
        return predicted, {"training": training, "reading": reading}

    def crf(self, rows: Sequence[Example], seed: int) -> tuple[list[Decoded], dict[str, Any]]:
        """What the CRF finds, its penalties chosen unless they were; `training` has all CRFs that were tried."""
        from crf import Crf, Finder, best

        def f1(finder: Finder) -> float:
            counts = row_counts(self.held, finder([row.text for row in self.held]), self.labels)
            return float(rates(counts.sum(0), self.labels.names)["f1"])

        chosen = self.options.work / "crf" / f"{len(rows)}-{seed}.json"
        if chosen.is_file():
            made = json.loads(chosen.read_text(encoding="utf-8"))
            finder = Crf(rows).train(**made["penalties"])
        else:
            (finder, penalties), training = timed(lambda: best(rows, f1, self.options.quick))
            made = {"penalties": penalties, "training": training}
            chosen.parent.mkdir(parents=True, exist_ok=True)
            write_text(chosen, [json.dumps(made)])
        predicted, reading = timed(lambda: finder([row.text for row in self.scored]))
        return predicted, {**made, "reading": reading}

    def ours(self, system: str, name: str, rows: Sequence[Example], seed: int) -> tuple[list[Decoded], dict[str, Any]]:
        """What the model of `rows` finds, which is trained unless it was."""
        folder = self.options.work / name / f"{len(rows)}-{seed}"
        trained, read = folder / "trained.json", folder / f"predictions-{self.options.score}.jsonl"
        passes = epochs_of(len(rows)) if system == "few-rows" else 1
        shown = [*rows, *swapped(rows, self.options.swap, seed)]
        asked = {"model": self.options.model, "epochs": passes * len(rows) / len(shown), **self.own}
        if trained.is_file():
            before = json.loads(trained.read_text(encoding="utf-8"))
            if before["asked"] != asked:
                what, remedy = "a model of other settings is there", "choose another --name or --work"
                raise NerError(what, value=before["asked"], place=str(folder), remedy=remedy)
            training: Seconds = before["training"]
        else:
            values = {"model_name_or_path": asked["model"], "num_train_epochs": asked["epochs"], "seed": seed}
            values["resume_from_checkpoint"] = "none"
            _, training = timed(
                lambda: train_on(folder, shown, self.held, self.labels, self.rest, self.options.recipe, **values)
            )
            write_text(trained, [json.dumps({"asked": asked, "training": training}, ensure_ascii=False)])
        dtype = reading_dtype(self.options.quick)
        _, reading = timed(lambda: predict_to(read, folder, self.scored, dtype=dtype))
        return found(read, self.scored), {"training": training, "reading": reading, "epochs": asked["epochs"]}


def timed(make: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What `make` returns, and its seconds: by the clock, and of the processor, over all cores."""
    wall, cpu = time.monotonic(), time.process_time()
    made = make()
    return made, {"wall": round(time.monotonic() - wall, 2), "cpu": round(time.process_time() - cpu, 2)}


def swapped(rows: Sequence[Example], copies: int, seed: int) -> list[Example]:
    """Copies of the rows with entities, each entity replaced by a surface of its label in `rows`, drawn at random.

    Each surface is as likely as any other, however often it occurs. Of entities that overlap none is replaced.
    """
    chance = random.Random(seed)
    surfaces: dict[str, list[str]] = {}
    for label, surface in sorted({pair for row in rows for pair in row.surfaces}):
        surfaces.setdefault(label, []).append(surface)
    made = []
    for copy in range(copies):
        for row in rows:
            ends = [0, *(entity.end for entity in row.entities)]
            if not row.entities or any(e.start < end for e, end in zip(row.entities, ends, strict=False)):
                continue
            text, entities = "", []
            for entity, before in zip(row.entities, ends, strict=False):
                text += row.text[before : entity.start]
                surface = chance.choice(surfaces[entity.label])
                entities.append(Entity(entity.label, surface, len(text), len(text) + len(surface)))
                text += surface
            text += row.text[ends[-1] :]
            made.append(Example(f"{row.id}~{copy}", text, tuple(entities), f"{row.source} with other entities"))
    return made


def runs_of(path: Path) -> list[Run]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def tell(out: Path, target: Path | None) -> None:
    """Write the summary of all runs, and print its table."""
    from few_rows_table import show, summary

    report = summary(runs_of(out))
    print(show(report), flush=True)
    finish(report, target or out.with_suffix(".json"))


if __name__ == "__main__":
    main()
