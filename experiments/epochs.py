"""How many epochs pay? One training with a constant learning rate, and what it gives where it is ended.

    python experiments/epochs.py --quick
    python experiments/epochs.py --model PATH --data cluener

The trunk trains on the rows of f1_budget.py, shuffled anew in each epoch. A branch leaves it behind an epoch and brings
the learning rate down to 0 in a line, over a tenth of the steps so far: `2` behind the second epoch, `3+smoothed`
behind the third one with a lever of f1_settings.LEVERS. Each is scored on the 600 rows held out of train, decoded
freely. So 1, 2 and 3 epochs cost 3.6 in all, not 6.6 ("Scaling Laws and Compute-Optimal Training Beyond Fixed Training
Durations", arXiv 2405.18392).

All of it can be killed and started again: it goes on from the last checkpoint, one each 50 steps. A branch is a line of
`--out` with the counts of every row; one that stands there is not made again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from f1_budget import HELD_OUT, Run, read, scored, splits, unpacked, write

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import finish, machine, this_run

RUNS, WORK = Path("experiments/epochs.jsonl"), Path("outputs/epochs")
TRUNK = "ours+dropout+learning_rate=2e-4+warmup=50+sampling='random'+scheduler='constant_with_warmup'"
DECAY = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or the folder of a causal LM")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--branches", nargs="+", default=["1", "2", "3", "3+smoothed"], help="epochs, and levers by +")
    parser.add_argument("--trunk", default=TRUNK, help="the setting of the trunk, as in f1_budget.py")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dev", action="store_true", help="score on dev, not on the rows held out: for the finalist")
    parser.add_argument("--out", type=Path, help=f"a line a branch; added to; default: {RUNS}")
    parser.add_argument("--work", type=Path, help=f"checkpoints; default: {WORK}")
    parser.add_argument("--json", type=Path, help="scores of all branches; default: beside --out")
    parser.add_argument("--quick", action="store_true", help="epochs of 40 rows on the toy, 40 rows held out")
    options = parser.parse_args()
    options.held_out = 40 if options.quick else HELD_OUT
    from qwen_ner.training.batches.cpu.malloc import set_pages

    set_pages()  # as `qwen-ner train` does
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            from qwen_ner.training.tiny import make_tiny

            options.model = str(make_tiny(Path(folder) / "tiny", dropout=0.0))
            options.work, options.out = options.work or Path(folder), options.out or Path(folder) / RUNS.name
        options.work, options.out = options.work or WORK, options.out or RUNS
        make(options)
        report = summary(read(options.out))
        print(show(report))
        finish(report, options.json or options.out.with_suffix(".json"))


def epoch_of(branch: str) -> int:
    """The epoch behind which a branch leaves the trunk."""
    number = branch.partition("+")[0]
    if not number.isdecimal() or not int(number):
        raise SystemExit(f"--branches {branch}: begin with the number of an epoch, from 1, as in 3+smoothed")
    return int(number)


def make(options: argparse.Namespace) -> None:
    """Train and score the branches that are missing, the trunk as far as they need it."""
    import datasets
    from f1_settings import codec_of, rows_of, setting

    from qwen_ner.data.datasets import labels_of
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.loading import load_tokenizer

    split = "dev" if options.dev else "held out"
    key = options.trunk, options.seed, split
    asked = {name: setting("+".join([options.trunk, *name.split("+")[1:]])) for name in options.branches}
    done = {
        run["branch"] for run in read(options.out) if (run["setting"], run["seed"], run.get("split", "held out")) == key
    }
    if not (missing := sorted((name for name in asked if name not in done), key=epoch_of)):
        return
    datasets.config.HF_DATASETS_CACHE = options.work / "cache"
    trunk = setting(options.trunk)
    examples, gold = splits(options)
    labels = CLUENER if options.data in ("cluener", "sample") else labels_of(examples)
    codec, tokenizer = codec_of(trunk, labels, examples), load_tokenizer(options.model)
    rows = rows_of(trunk, codec, tokenizer, examples, options.seed)
    if options.quick:
        rows = rows.select(range(40))
    for name in missing:
        steps = -(-len(rows) // trunk.batch)
        start = time.process_time()
        model, ended = grow(name, trunk, asked[name], steps, rows, codec, options)
        seconds = time.process_time() - start
        read_as = scored(model, tokenizer, codec, gold, ["free"], trunk)["free"]
        write(
            options.out,
            {
                "setting": options.trunk, "branch": name, "seed": options.seed, "split": split, "rows": len(gold),
                "epochs": epoch_of(name), "steps": ended, "trained_rows": ended * trunk.batch,
                "train_seconds": round(seconds, 1), "labels": list(labels.names), **read_as,
                "fields": asdict(asked[name]), **machine(), "run": this_run(),
            },
        )  # fmt: skip


def grow(
    name: str, trunk: Any, branch: Any, steps: int, rows: Any, codec: Any, options: argparse.Namespace
) -> tuple[Any, int]:
    """The model at the end of a branch, and its number of steps; an epoch of the trunk has `steps`."""
    from f1_settings import train

    from qwen_ner.training.loop.checkpoints import checkpoint_of

    base, work = Path(options.model), options.work / f"{folder_name(options.trunk)}-{options.seed}"
    epochs = epoch_of(name)
    for epoch in range(1, epochs + 1):  # each is kept, for branches that are asked for later
        if not (left := work / f"epoch-{epoch}").is_dir():
            print(f"trunk: epoch {epoch}", file=sys.stderr, flush=True)
            train(trunk, base, rows, codec, epoch * steps, options.seed, work / "trunk")
            copy(checkpoint_of(work / "trunk", epoch * steps), left)
    folder, end = work / f"branch-{name}", epochs * steps
    if not any(folder.glob("checkpoint-*")):
        copy(work / f"epoch-{epochs}", checkpoint_of(folder, end))
    decay = max(1, round(DECAY * end))
    print(f"branch {name}: {decay} steps", file=sys.stderr, flush=True)
    ending = replace(branch, scheduler="warmup_stable_decay", decay=decay)
    return train(ending, base, rows, codec, end + decay, options.seed, folder), end + decay


def folder_name(trunk: str) -> str:
    """The name of a setting as that of a folder.

    >>> folder_name("ours+sampling='random'")
    'ours+sampling=random'
    """
    return "".join(c for c in trunk if c.isalnum() or c in "+=-_.")


def copy(checkpoint: Path, target: Path) -> None:
    """Copy it whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(checkpoint, part)
    os.replace(part, target)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The report: `table`, a line a branch with its rates and intervals in points, and `against`, the difference of f1
    to the branch of one epoch less without levers, or to the same one without them."""
    from f1_table import VIEWS, difference, over_seeds

    counts: dict[tuple[str, str, str], dict[int, Any]] = {}
    for run in runs:
        key = run["setting"], run["branch"], run.get("split", "held out")
        counts.setdefault(key, {})[run["seed"]] = unpacked(run)
    table = []
    for (trunk, branch, split), by_seed in sorted(counts.items()):
        labels = next(run["labels"] for run in runs if run["setting"] == trunk)
        mean = over_seeds([*by_seed.values()], labels)
        plain = str(epoch_of(branch))
        other = counts.get((trunk, plain if branch != plain else str(epoch_of(branch) - 1), split), {})
        table.append(
            {"trunk": trunk, "branch": branch, "split": split, "seeds": sorted(by_seed)}
            | {view: mean[view] for view in VIEWS}
            | {"against": difference(other, by_seed, labels)}
        )
    return {"machine": {part: runs[0][part] for part in machine()}, "table": table, "claims": []}


def show(report: dict[str, Any]) -> str:
    """The report's table for a terminal."""
    made = [f"{'f1':>6}  {'95 %':13}{'more':>7}{'p':>8}{'span':>7}  split, branch, trunk"]
    for line in report["table"]:
        f1, to = line["f1"], line["against"]
        more = f"{to['value']:+7.2f}{to['p'] or float('nan'):8.2g}" if to else " " * 15
        made.append(
            f"{f1['value']:6.2f}  {f1['low']:.1f} – {f1['high']:.1f}  {more}{line['span_f1']['value']:7.2f}  "
            f"{line['split']}, {line['branch']}, {line['trunk']}"
        )
    return "\n".join(made)


if __name__ == "__main__":
    main()
