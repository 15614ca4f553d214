"""How good does a model get within a budget, and what makes it better?

    python experiments/f1_budget.py --quick
    python experiments/f1_budget.py --model PATH --data cluener --minutes 30 --settings plain twice rank8+batch5
    python experiments/f1_budget.py --model PATH --data cluener --epochs 3 --settings ours ours+twice --out gpu.jsonl
    python experiments/f1_budget.py --table

A budget is CPU time of the training steps, added up over the cores, at the rate that this machine was measured at for
what the setting computes: a costlier prompt trains on fewer rows. With `--epochs` all see the same rows instead, as is
fair on a GPU that several runs share. Settings are levers of f1_settings.LEVERS, joined by +, each a change of `plain`,
the LoRA recipe as it was before they were measured; `ours` is the recipe as it is, and the rivals (trl, tutorial,
mended) are settings too.

Every choice is made on 600 rows held out of train, the same for all; dev is read by `--dev`, once, by the finalists.
A run is a line of `--out` with the counts of every row, which scores, intervals and paired tests are made of; one that
stands there is not made again, and one that was interrupted goes on from its checkpoint (its `train_seconds` then hold
its last part alone). Scores, intervals and comparisons of all runs are written beside them as JSON, which the pages
"CLUENER" and "Ablations" of the documentation are made of.

Decodings, all of the same trained weights: free; constrained; thresholds (constrained, without the surfaces that score
below their label's threshold, calibrated on one half of the rows and used on the other); vote (of the free answer and
four drawn at temperature 0.7, the surfaces that three of five have).
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))  # the rivals, and how a report is written
from common import finish, machine, this_run

RUNS, WORK = Path("experiments/f1_budget.jsonl"), Path("outputs/f1_budget")
HELD_OUT, SPLIT_SEED = 600, 0
DECODINGS = ("free", "constrained", "thresholds", "vote")
Run = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or the folder of a causal LM")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--settings", nargs="+", default=["plain"], help="levers joined by +, and field=value")
    parser.add_argument("--minutes", type=float, default=30, help="CPU time of the training steps, all cores")
    parser.add_argument("--epochs", type=float, help="a budget in rows instead: how often each is trained on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--decodings", nargs="+", default=["free"], choices=DECODINGS)
    parser.add_argument("--dev", action="store_true", help="score on dev, not on the rows held out: for finalists")
    parser.add_argument("--out", type=Path, help=f"a line a run; added to; default: {RUNS}")
    parser.add_argument("--work", type=Path, help=f"checkpoints and adapters; default: {WORK}")
    parser.add_argument("--rates", action="store_true", help="measure the seconds a row of the settings, and no more")
    parser.add_argument("--table", action="store_true", help="train nothing; tell what stands in --out")
    parser.add_argument("--against", default="ours", help="the setting that the tables tell differences to")
    parser.add_argument("--json", type=Path, help="scores and comparisons of all runs; default: beside --out")
    parser.add_argument("--quick", action="store_true", help="three steps of the toy, 40 rows held out")
    options = parser.parse_args()
    options.held_out = 40 if options.quick else HELD_OUT
    from qwen_ner.training.batches.cpu.malloc import set_pages

    set_pages()  # as `qwen-ner train` does, here for the rivals too
    with tempfile.TemporaryDirectory() as folder:
        if options.quick:
            from qwen_ner.training.tiny import make_tiny

            options.model = str(make_tiny(Path(folder) / "tiny", dropout=0.0))
            options.minutes = 0
            options.work, options.out = options.work or Path(folder), options.out or Path(folder) / RUNS.name
        options.work, options.out = options.work or WORK, options.out or RUNS
        if not options.table:
            for seed in options.seeds:
                for name in options.settings:
                    make(name, seed, options)
        from f1_table import show, summary

        runs = read(options.out)
        if not runs:
            if options.table:
                raise SystemExit(f"{options.out} holds no runs; make some first, without --table")
            return
        report = summary(runs, options.against)
        print(show(report))
        finish(report, options.json or options.out.with_suffix(".json"))


def read(path: Path) -> list[Run]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [run for run in map(json.loads, lines) if "setting" in run]


def write(path: Path, line: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:  # in one piece: several processes may add to it
        file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def splits(options: argparse.Namespace) -> tuple[list[Any], list[Any]]:
    """The rows to train on, and those to score."""
    from qwen_ner.data.datasets import read_dataset
    from qwen_ner.data.split import hold_out

    train, held = hold_out(read_dataset(options.data, "train"), options.held_out, SPLIT_SEED)
    return train, read_dataset(options.data, "dev") if options.dev else held


def make(name: str, seed: int, options: argparse.Namespace) -> None:
    """Train `name` unless it was, and score it in the ways that are missing."""
    import datasets
    from f1_settings import codec_of, config_of, rows_of, setting, train

    from qwen_ner.data.datasets import labels_of
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.loading import load_tokenizer

    split = "dev" if options.dev else "held out"
    budget = (None if options.epochs else options.minutes), options.epochs
    done = {run["decoding"] for run in read(options.out) if same(run, name, seed, split, budget)}
    missing = [decoding for decoding in options.decodings if decoding not in done]
    if not missing:
        return
    # The key of the cache of tokenized rows has labels and prompt in it, not the codecs of f1_settings.
    datasets.config.HF_DATASETS_CACHE = options.work / "cache" / name
    chosen = setting(name)
    examples, gold = splits(options)
    labels = CLUENER if options.data in ("cluener", "sample") else labels_of(examples)
    codec, tokenizer = codec_of(chosen, labels, examples), load_tokenizer(options.model)
    rows = rows_of(chosen, codec, tokenizer, examples, seed)
    if options.rates:
        print(
            f"{name}: {seconds_a_row(chosen, codec, rows, options):.3f} CPU seconds a row", file=sys.stderr, flush=True
        )
        return
    rate = 0.0 if options.quick or options.epochs else seconds_a_row(chosen, codec, rows, options)
    if options.epochs:
        steps = max(1, round(options.epochs * len(rows) / chosen.batch))
    else:
        steps = max(1, round(60 * options.minutes / rate / chosen.batch)) if rate else 3
    # Another rate is another schedule.
    folder = options.work / f"{name}-{options.epochs or options.minutes:g}-{seed}-{steps}"
    print(f"{name} · seed {seed}: {steps} steps of {chosen.batch} rows", file=sys.stderr, flush=True)
    done_in = folder / "done.json"
    if done_in.is_file():
        model, seconds = adapter(chosen, options.model, folder), json.loads(done_in.read_text())
    else:
        start = time.process_time()
        model = train(chosen, Path(options.model), rows, codec, steps, seed, folder)
        seconds = time.process_time() - start
        if chosen.rank is not None and not chosen.variant.startswith("pissa"):  # PiSSA changes the base as well
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            config_of(codec, tokenizer).save(folder)  # so that `qwen-ner evaluate` and `compare` take it
            done_in.write_text(json.dumps(seconds))
    for decoding, read_as in scored(model, tokenizer, codec, gold, missing, chosen).items():
        write(
            options.out,
            {
                "setting": name, "minutes": budget[0], "epochs": budget[1], "seed": seed, "split": split,
                "decoding": decoding, "rows": len(gold), "trained_rows": steps * chosen.batch, "steps": steps,
                "rate": rate, "train_seconds": round(seconds, 1), "labels": list(labels.names), **read_as,
                "fields": asdict(chosen), **machine(), "run": this_run(),
            },
        )  # fmt: skip


def same(run: Run, name: str, seed: int, split: str, budget: tuple[float | None, float | None]) -> bool:
    return (run["setting"], run["seed"], run["split"], budget_of(run)) == (name, seed, split, budget)


def budget_of(run: Run) -> tuple[float | None, float | None]:
    """Minutes and epochs, of which one is None."""
    return run["minutes"], run.get("epochs")


def adapter(chosen: Any, base: str, folder: Path) -> Any:
    from peft import PeftModel

    from qwen_ner.training.model import load_model

    return PeftModel.from_pretrained(load_model(base), folder)


def seconds_a_row(chosen: Any, codec: Any, rows: Any, options: argparse.Namespace) -> float:
    """CPU seconds, over all cores, of training on a row: of the median step of nine, once for each cost."""
    import torch
    from f1_settings import train
    from torch.optim.optimizer import register_optimizer_step_post_hook

    for line in options.out.read_text(encoding="utf-8").splitlines() if options.out.is_file() else []:
        if (known := json.loads(line)).get("cost") == chosen.cost:
            return known["rate"]

    ends: list[float] = []
    clock = register_optimizer_step_post_hook(lambda *_: ends.append(time.process_time()))
    with tempfile.TemporaryDirectory() as folder:
        train(chosen, Path(options.model), rows, codec, 10, 0, Path(folder) / "rate")
    clock.remove()
    rate = float(np.median(np.diff(ends))) / chosen.batch
    write(options.out, {"cost": chosen.cost, "rate": rate, "threads": torch.get_num_threads(), **machine()})
    return rate


def scored(
    model: Any, tokenizer: Any, codec: Any, gold: Sequence[Any], decodings: Sequence[str], chosen: Any
) -> dict[str, Run]:
    """What a run says of each decoding: the CPU seconds of reading a row, the counts of every row, the places of
    surfaces that stand more than once (`f1_repeated.repeated`), and the problems of the answers by kind."""
    import torch
    from accelerate.utils import extract_model_from_parallel
    from f1_repeated import repeated
    from f1_settings import config_of, read_whole_prompts

    from qwen_ner.evaluation.bootstrap import row_counts
    from qwen_ner.inference.backends.packed_linear import pack
    from qwen_ner.inference.extractor import Extractor

    model = extract_model_from_parallel(model, keep_fp32_wrapper=False)  # else it goes on in the bfloat16 of training
    merged = (model.merge_and_unload() if hasattr(model, "merge_and_unload") else model).requires_grad_(False)
    if merged.device.type == "cuda":  # as `Extractor.from_pretrained` has it there
        merged = merged.to(torch.bfloat16)
    extractor = Extractor(pack(merged.eval()), tokenizer, config_of(codec, tokenizer))
    extractor.codec = codec
    if chosen.prefix_lm:
        read_whole_prompts(extractor)
    texts = [example.text for example in gold]
    answers: dict[str, tuple[list[Any], float]] = {}

    def read(decoding: str) -> tuple[list[Any], float]:
        if decoding == "thresholds":  # of what constrained decoding says, which is read once
            predicted, seconds = read("constrained")
            return thresholded(extractor, gold, predicted), seconds
        if decoding not in answers:
            start = time.process_time()
            if decoding == "vote":
                predicted = voted(extractor, texts)
            else:
                predicted = extractor.read(texts, constrained=decoding == "constrained")
            answers[decoding] = predicted, time.process_time() - start
        return answers[decoding]

    found = {decoding: read(decoding) for decoding in decodings}
    return {
        name: {
            "read_seconds": round(seconds / len(gold), 4),
            "counts": packed(row_counts(gold, predicted, codec.labels)),
            "repeated": repeated(gold, predicted),
            "problems": Counter(problem.kind for each in predicted for problem in each.problems),
        }
        for name, (predicted, seconds) in found.items()
    }


def thresholded(extractor: Any, gold: Sequence[Any], predicted: Sequence[Any]) -> list[Any]:
    """`predicted` without what scores below its label's threshold: the best one on the other half of the rows."""
    from qwen_ner.inference.calibration import best_thresholds, gold_counts, judged

    kept: dict[int, Any] = {}
    for part in (0, 1):
        others = slice(1 - part, None, 2)
        number = dict.fromkeys(extractor.codec.labels.names, 0) | gold_counts(gold[others])
        floors = best_thresholds(list(judged(gold[others], predicted[others])), number)
        for n in range(part, len(gold), 2):
            kept[n] = predicted[n].scored_at_least(floors.__getitem__)
    return [kept[n] for n in range(len(gold))]


def voted(extractor: Any, texts: Sequence[str], temperature: float = 0.7, drawn: int = 4) -> list[Any]:
    """The surfaces that most of the free answer and `drawn` others have."""
    from qwen_ner.data.tokenize import prompt_ids
    from qwen_ner.inference.backends.base import Draw
    from qwen_ner.inference.loading import decode_ids
    from qwen_ner.inference.sampling import vote

    answers = [extractor.read(texts, constrained=False)]
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, texts)
    for n in range(drawn):
        draws = [Draw(temperature, 1.0, n * len(texts) + i) for i in range(len(texts))]
        made = extractor.backend.complete(prompts, extractor.config.max_new_tokens, draws=draws)
        written = decode_ids(extractor.tokenizer, [one.ids for one in made])
        answers.append(
            [
                extractor.codec.decode(text, answer, finished=one.finished)
                for text, answer, one in zip(texts, written, made, strict=True)
            ]
        )
    codec = extractor.codec
    return [
        vote(text, each, codec.labels, located=codec.located)
        for text, each in zip(texts, zip(*answers, strict=True), strict=True)
    ]


def packed(counts: np.ndarray) -> str:
    """`row_counts` as text: small numbers, most of them 0."""
    return base64.b64encode(zlib.compress(counts.astype(np.uint8).tobytes(), 9)).decode()


def unpacked(run: Run) -> np.ndarray:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(run["counts"])), dtype=np.uint8)
    return flat.reshape(run["rows"], 2 * len(run["labels"]) + 4, 3).astype(float)


if __name__ == "__main__":
    main()
