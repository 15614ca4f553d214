"""How fast is one training step, and against whom?

    python benchmarks/train_speed.py --model tiny --quick
    python benchmarks/train_speed.py --model PATH --data cluener --json train_speed.json

Every rival trains the same model on the same rows in the same order, batch after batch, with the same adapter,
precision and optimizer, each in a process of its own, so that its peak memory is its own, the rivals
taking turns for `--repeats` rounds:

    static     a plain loop as tutorials have it: prompt padded to 50 tokens at least, answer to 140, all logits
    dynamic    the stock Trainer with DataCollatorForSeq2Seq, which pads to the longest row of the batch
    trl-*      TRL's SFTTrainer on prompt and completion: padded, padding-free, packed (bfd); loss_type "nll", the only
               one of its two that is this objective; on a GPU also padding-free with Liger's kernels, if installed
    ours       NerTrainer with the collator that a recipe would get; beside an adapter its loss is over the tokens that
               the rows have, and lower than the others' for that
    *-guide    trl and ours with a guideline prompt of about `--guideline` tokens

A rival that the system kills for its memory is tried again with half the batch. TRL counts at its best: of its
settings, those that were over a quarter slower than its fastest sit out the rounds after the first. Before the rounds,
`exact` compares loss and every gradient of a shared batch with the rows one by one.

A row's seconds are the median step's, divided by its rows. `useful` counts the tokens of all rows without padding.
`peak` is the share of the machine's own matrix product rate that the step reaches: FLOPs counted as

    per computed token    2·P forward + 2·P backward to the inputs (+ 2·P to the weights, where they are trained)
    per attended pair     4·h·d forward + 8·h·d backward, of the pairs that may be seen
    per kept logit        2·V·H forward and as many backward

with P weights in linear layers, h·d the width of attention, V the vocabulary (or what is left of it) and H the hidden
size, over the rate of torch.mm at the shapes of the layers, measured in the same process just before and just after;
the higher counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from common import Points, claim, finish, machine, sweep

OUT_OF_MEMORY = "killed for its memory"
LIGER = ("trl-padding-free-liger",) if torch.cuda.is_available() and find_spec("liger_kernel") else ()
TRL = ("trl-padded", "trl-padding-free", "trl-packed", *LIGER)
PLAIN = ("static", "dynamic", *TRL, "ours")
GUIDED = ("trl-padded-guide", "trl-padding-free-guide", "trl-packed-guide", "ours-guide")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or the folder of a causal LM")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--batch", type=int, default=15, help="rows a step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a round; the first one before is not timed")
    parser.add_argument(
        "--seconds", type=float, default=60, help="no further step once a round's timed ones took as long"
    )
    parser.add_argument("--repeats", type=int, default=2, help="rounds in which the rivals take turns")
    parser.add_argument("--guideline", type=int, default=300, help="tokens of the guideline prompt")
    parser.add_argument("--full", action="store_true", help="train all weights instead of LoRA")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--rivals", nargs="+", default=[*PLAIN, *GUIDED])
    parser.add_argument("--sweep", action="store_true", help="also sweep batch 1…64 and prefix 32…512, and draw both")
    parser.add_argument("--quick", action="store_true", help="one short round of the plain rivals, 4 rows a batch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.set_defaults(learning_rate=1e-4, scheduler="linear", warmup_steps=0)
    options = parser.parse_args()
    if options.worker:
        from train_measure import exactness, worker

        print(json.dumps((exactness if options.worker == "exact" else worker)(options.worker, options)))
        return
    if options.quick:
        options.batch, options.seconds, options.repeats, options.rivals = min(options.batch, 4), 5, 1, list(PLAIN)
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "tiny":
            from qwen_ner.training.tiny import make_tiny

            options.model = str(make_tiny(Path(folder) / "tiny", dropout=0.0))
        exact = in_process("exact", options)
        results = rounds(options)
        report = {
            "machine": machine("trl", "datasets"),
            "settings": settings(options),
            "table": results,
            "exact": exact,
            "claims": claims(results, exact),
        }
        show(results)
        print("against the rows one by one: " + (exact.get("error") or differences(exact)))
        if options.sweep:
            report["sweep"] = run_sweep(options)
    finish(report, options.json)


def rounds(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each rival's medians over all rounds."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rivals}
    rivals = options.rivals
    for turn in range(options.repeats):
        for name in rivals:
            print(f"round {turn + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            seen[name].append(at_a_batch_that_fits(name, options))
            print(f"    {json.dumps(seen[name][-1])}", file=sys.stderr, flush=True)
        results = {name: merge_runs(runs) for name, runs in seen.items()}
        rivals = [name for name in options.rivals if not far_behind(name, results)]
    return results


def at_a_batch_that_fits(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run of `name`; where the system kills it for its memory, again with half the batch."""
    batch = options.batch
    while (run := in_process(name, options, batch=batch)).get("error") == OUT_OF_MEMORY and batch > 1:
        batch //= 2
    return {**run, "batch": batch}


def far_behind(name: str, results: dict[str, Any]) -> bool:
    """Whether `name` is a setting of TRL's over a quarter slower than the fastest of them."""
    group = next((names for names in (TRL, GUIDED[:-1]) if name in names), ())
    best = fastest(group, results)
    return best is not None and results[name].get("rows/s", 0.0) * 1.25 < results[best]["rows/s"]


def fastest(names: Iterable[str], results: dict[str, Any]) -> str | None:
    ran = [name for name in names if "rows/s" in results.get(name, {})]
    return max(ran, key=lambda name: results[name]["rows/s"], default=None)


def in_process(name: str, options: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    values = {**vars(options), **changed}
    flags = [flag for key in ("full", "bf16") if values[key] for flag in (f"--{key}",)]
    for key in ("model", "data", "batch", "steps", "seconds", "guideline"):
        flags += [f"--{key}", str(values[key])]
    done = subprocess.run([sys.executable, __file__, "--worker", name, *flags], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"error": OUT_OF_MEMORY if done.returncode == -9 else f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def merge_runs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    good = [run for run in runs if "error" not in run]
    if not good:
        return runs[0]
    seconds = [second for run in good for second in run["row_seconds"]]
    peak = statistics.median(run["peak"] for run in good)
    return {
        "rows/s": 1 / statistics.median(seconds),
        "useful tokens/s": good[0]["useful"] / statistics.median(seconds),
        "of matrix peak": peak,
        "peak GiB": statistics.median(run["memory"] for run in good),
        "first loss": good[0]["first_loss"],
        "steps": len(seconds),
        "batch": good[0].get("batch"),
    }


def claims(results: dict[str, Any], exact: dict[str, float]) -> list[dict[str, Any]]:
    """The figures that are asked of the 0.5B; on another model they are printed all the same."""
    best, guided = fastest(TRL, results), fastest(GUIDED[:-1], results)
    ratios = [
        ("rows/s against static padding", "ours", "static", 6.0),
        ("rows/s against dynamic padding", "ours", "dynamic", 2.8),
        (f"rows/s against TRL at its best ({best})", "ours", best, 2.5),
        (f"rows/s with the guideline prompt, against TRL at its best ({guided})", "ours-guide", guided, 5.0),
    ]
    made = [
        claim(name, results[ours]["rows/s"] / results[theirs]["rows/s"], bound)
        for name, ours, theirs, bound in ratios
        if theirs and all("rows/s" in results.get(key, {}) for key in (ours, theirs))
    ]
    if "rows/s" in results.get("ours", {}):
        made.append(claim("share of the machine's matrix product rate", results["ours"]["of matrix peak"], 0.75))
        if "rows/s" in results.get("dynamic", {}):
            share = results["ours"]["peak GiB"] / results["dynamic"]["peak GiB"]
            made.append(claim("peak memory against dynamic padding", share, 0.6, at_most=True))
    return made + [
        claim(f"rows one by one: relative difference of {what}", exact[what], 1e-5, at_most=True)
        for what in ("loss", "gradient", "gradient to float64")
        if what in exact
    ]


def show(results: dict[str, Any]) -> None:
    reference = results.get("ours", {}).get("rows/s")
    print(
        f"{'':24}{'rows/s':>9}{'ours is':>9}{'useful tok/s':>14}{'of peak':>9}{'GiB':>7}{'batch':>7}{'first loss':>12}"
    )
    for name, values in results.items():
        if "error" in values:
            print(f"{name:24}{values['error']:>9}")
            continue
        against = results.get("ours-guide", {}).get("rows/s") if name.endswith("-guide") else reference
        ratio = f"{against / values['rows/s']:.2f}×" if against else ""
        print(
            f"{name:24}{values['rows/s']:9.2f}{ratio:>9}{values['useful tokens/s']:14.0f}"
            f"{values['of matrix peak']:9.0%}{values['peak GiB']:7.2f}{values['batch']:7}{values['first loss']:12.6f}"
        )


def differences(exact: dict[str, float]) -> str:
    return ", ".join(f"{what} {value:.2g}" for what, value in exact.items())


def run_sweep(options: argparse.Namespace) -> Points:
    """rows/s over batch size and prompt length, for dynamic padding and ours; drawn beside the JSON."""

    def rate(what: str, x: int, name: str) -> float | None:
        run = (
            in_process(f"{name}-guide", options, guideline=x)
            if what == "prefix"
            else in_process(name, options, batch=x)
        )
        return None if "error" in run else merge_runs([run])["rows/s"]

    names = {"dynamic": "dynamic padding", "ours": "prefix sharing"}
    target = (options.json or Path("train_speed.json")).with_suffix(".png")
    return sweep(rate, names, "rows/s", target, options.quick)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    keys = ("model", "data", "batch", "steps", "seconds", "repeats", "guideline", "full", "bf16")
    return {key: str(getattr(options, key)) if key == "model" else getattr(options, key) for key in keys}


if __name__ == "__main__":
    main()
