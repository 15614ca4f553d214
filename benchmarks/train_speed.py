"""How fast is one training step, and against whom?

    python benchmarks/train_speed.py --model tiny --quick
    python benchmarks/train_speed.py --model PATH --data cluener --json train_speed.json

Every rival trains the same model on the same rows in the same order, batch after batch, with the same adapter,
precision and optimizer, each in a process of its own, so that its peak memory is its own, the rivals
taking turns for `--repeats` rounds:

    static     a plain loop as tutorials have it: prompt padded to 50 tokens at least, answer to 140, all logits
    dynamic    the stock Trainer with DataCollatorForSeq2Seq, which pads to the longest row of the batch
    trl-*      TRL's SFTTrainer on prompt and completion: padded, padding-free, packed (bfd); loss_type "nll", the only
               one of its two that is this objective
    ours       NerTrainer with the collator that a recipe would get
    *-guide    trl and ours with a guideline prompt of about `--guideline` tokens

TRL counts at its best: of its settings, those that were over a quarter slower than its fastest sit out the rounds
after the first. Before the rounds, `exact` compares loss and every gradient of a shared batch with the rows one by one.

LLaMA-Factory is no rival here: its newest package (0.9.5) demands transformers ≤ 5.6, accelerate ≤ 1.11 and peft ≤
0.18.1, so it cannot be installed beside the others.

A row's seconds are the median step's, divided by its rows. `useful` counts the tokens of all rows without padding.
`peak` is the share of the machine's own matrix product rate that the step reaches: FLOPs counted as

    per computed token    2·P forward + 2·P backward to the inputs (+ 2·P to the weights, where they are trained)
    per attended pair     4·h·d forward + 8·h·d backward, of the pairs that may be seen
    per kept logit        2·V·H forward and as many backward

with P weights in linear layers, h·d the width of attention, V the vocabulary and H the hidden size, over the rate of
torch.mm at the shapes of the layers, measured in the same process just before.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
TRL = ("trl-padded", "trl-padding-free", "trl-packed")
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
    options = parser.parse_args()
    if options.worker:
        work = exactness if options.worker == "exact" else worker
        print(json.dumps(work(options.worker, options)))
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
            "machine": machine(),
            "settings": settings(options),
            "table": results,
            "exact": exact,
            "claims": claims(results, exact),
        }
        show(results)
        print("against the rows one by one: " + ", ".join(f"{what} {value:.2g}" for what, value in exact.items()))
        if options.sweep:
            report["sweep"] = sweep(options)
    for claim in report["claims"]:
        print(f"{'holds' if claim['holds'] else 'MISSED'}  {claim['name']}: {claim['value']} (bound {claim['bound']})")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rounds(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Each rival's medians over all rounds."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in options.rivals}
    rivals = options.rivals
    for turn in range(options.repeats):
        for name in rivals:
            print(f"round {turn + 1}/{options.repeats}: {name}", file=sys.stderr, flush=True)
            seen[name].append(in_process(name, options))
            print(f"    {json.dumps(seen[name][-1])}", file=sys.stderr, flush=True)
        results = {name: merged(runs) for name, runs in seen.items()}
        rivals = [name for name in options.rivals if not far_behind(name, results)]
    return results


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
        return {"error": f"exit {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
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
    }


def worker(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train `options.steps` + 1 steps as rival `name` and say how long each took."""
    import torch

    from qwen_ner.training.trainer import load_model

    torch.manual_seed(0)
    rival = name.removesuffix("-guide")
    rows = read_rows(options, guideline=options.guideline if name.endswith("-guide") else 0)
    model = load_model(options.model, lora=None if options.full else LORA)
    rate = matrix_rate(model)
    log: list[tuple[float, float, int]] = []  # (seconds, loss, examples) of each step
    train = {"static": train_static, "dynamic": train_dynamic, "ours": train_ours}.get(rival, train_trl)
    computed = train(rival, model, rows, options, log)
    timed = log[1:]
    examples = options.batch
    flops = count_flops(model, computed, options.full)
    return {
        "row_seconds": [seconds / count for seconds, _, count in timed],
        "useful": statistics.mean(
            len(r["prompt_ids"]) + len(r["answer_ids"]) for r in rows[: examples * (options.steps + 1)]
        ),
        "first_loss": log[0][1],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if not torch.cuda.is_available()
        else torch.cuda.max_memory_allocated() / 2**30,
        "peak": flops / statistics.median(seconds for seconds, _, _ in timed) / rate,
    }


def exactness(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Loss and gradients of a shared batch in float32, without dropout, against its rows one by one.

    Differences are relative: the loss's to the loss, the gradients' greatest to the greatest gradient. `gradient` is
    against the rows in float32, which round too; `gradient to float64` is against the rows in float64, and
    `rows' gradient to float64` says how far the rows in float32 are from that. Adapters are moved off their start
    first, where half of them is zero and has no gradient to compare.
    """
    import torch

    from qwen_ner.training.collate import PaddedCollator, PrefixSharedCollator, choose_collator
    from qwen_ner.training.trainer import load_model

    torch.manual_seed(0)
    model = load_model(options.model, lora=None if options.full else LORA).eval()
    for weight_name, weight in model.named_parameters():
        if "lora_B" in weight_name:
            torch.nn.init.normal_(weight, std=0.01)
    rows = read_rows(options, guideline=0)[: options.batch]
    tokens = sum(len(row["answer_ids"]) for row in rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)

    def passed(batches: list[dict[str, torch.Tensor]]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        total = 0.0
        for batch in batches:
            loss = model(**{key: tensor.to(device) for key, tensor in batch.items()}, num_items_in_batch=tokens).loss
            loss.backward()
            total += loss.item()
        return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    shared = choose_collator(model, 0)
    assert isinstance(shared, PrefixSharedCollator), "this model cannot share prefixes"
    one_by_one = [PaddedCollator(0)([row]) for row in rows]
    loss, ours = passed([shared(rows)])
    rows_loss, theirs = passed(one_by_one)
    model.double()
    _, exact = passed(one_by_one)
    assert ours.keys() == theirs.keys() == exact.keys()

    def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
        greatest = max(float(gradient.abs().max()) for gradient in expected.values())
        return max(float((found[name] - expected[name]).abs().max()) for name in expected) / greatest

    return {
        "loss": abs(loss - rows_loss) / rows_loss,
        "gradient": apart(ours, theirs),
        "gradient to float64": apart(ours, exact),
        "rows' gradient to float64": apart(theirs, exact),
        "tensors": len(exact),
    }


def read_rows(options: argparse.Namespace, guideline: int) -> list[dict[str, Any]]:
    """Tokenized training rows, enough for all steps; with a system prompt of `guideline` tokens if that is not 0."""
    from qwen_ner.codec import SYSTEM_PROMPT, Codec
    from qwen_ner.data.formats import read_dataset
    from qwen_ner.data.tokenize import build_dataset
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.extractor import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    prompt = SYSTEM_PROMPT
    if guideline:
        text = SYSTEM_PROMPT + "".join(f"{label.name}是{label.description}。" for label in CLUENER) * 40
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:guideline]
        prompt = tokenizer.decode(ids)
    examples = read_dataset(options.data, "train", labels=CLUENER)[: 2 * options.batch * (options.steps + 2)]
    return build_dataset(examples, Codec(CLUENER, prompt), tokenizer).to_list()


def matrix_rate(model: Any) -> float:
    """FLOP/s of torch.mm at the shapes of the model's linear layers with 1,024 tokens: medians, weighted."""
    import torch

    weights = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora" not in name
    ]
    shapes = {tuple(weight.shape) for weight in weights if weight.shape[0] < 50_000}
    device, flops, seconds = weights[0].device, 0.0, 0.0
    for out, into in shapes:
        left, right = torch.randn(1024, into, device=device), torch.randn(into, out, device=device)
        times = []
        for _ in range(8):
            start = time.perf_counter()
            torch.mm(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        count = sum(tuple(weight.shape) == (out, into) for weight in weights)
        flops += count * 2 * 1024 * into * out
        seconds += count * statistics.median(times)
    return flops / seconds


def count_flops(model: Any, computed: dict[str, float], full: bool) -> float:
    """FLOPs of one step, by the formula above, from the (tokens, pairs, logits) that it computed."""
    config = model.config
    linear = model.num_parameters(exclude_embeddings=True)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = head * config.num_attention_heads * config.num_hidden_layers
    return (
        computed["tokens"] * linear * (6 if full else 4)
        + computed["pairs"] * width * 12
        + computed["logits"] * config.hidden_size * config.vocab_size * 4
    )


def train_static(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    """The tutorial's loop but for one fault: it cuts prompts at 50 tokens, which removes their end; not here."""
    import torch

    width = max(191, max(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in rows))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    for step in range(options.steps + 1):
        part = rows[step * options.batch : (step + 1) * options.batch]
        ids, mask, labels = [], [], []
        for row in part:
            whole = row["prompt_ids"] + row["answer_ids"]
            pad = width - len(whole)
            ids.append(whole + [0] * pad)
            mask.append([1] * len(whole) + [0] * pad)
            labels.append([-100] * len(row["prompt_ids"]) + row["answer_ids"] + [-100] * pad)
        start = time.perf_counter()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bf16):
            loss = model(**{name: torch.tensor(value, device=device) for name, value in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        log.append((time.perf_counter() - start, loss.item(), len(part)))
        if enough(log, options):
            break
    return padded_work(options.batch, width)


def enough(log: list[Any], options: argparse.Namespace) -> bool:
    return sum(seconds for seconds, *_ in log[1:]) >= options.seconds


def padded_work(rows: int, width: int, logits: int | None = None) -> dict[str, float]:
    return {"tokens": rows * width, "pairs": rows * width * (width + 1) / 2, "logits": logits or rows * width}


def timed(trainer_class: type, log: list[Any], work: dict[str, float], kept_only: bool) -> type:
    """`trainer_class` that logs the seconds of each step with its loss, and the work of the last."""

    class Timed(trainer_class):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            labelled = int((inputs["labels"] != -100).sum())
            work.update(padded_work(*ids.shape, labelled if kept_only else None))
            if "own" in inputs:  # each example attends by itself, behind the prefix
                prefix = mask.shape[-1] - inputs["own"].shape[1]
                work["pairs"] = float(mask.sum()) * len(inputs["own"]) + prefix * (prefix + 1) / 2
            loss = super().training_step(model, inputs, *args, **kwargs)
            self._started = start
            self._loss = loss.item()
            # An example is a run of labels: a packed sequence does not hold exactly a batch of them.
            labelled_here = inputs["labels"] != -100
            self._examples = int((labelled_here[:, 1:] & ~labelled_here[:, :-1]).sum())
            return loss

    return Timed


def trainer_options(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": options.steps + 1,
        "per_device_train_batch_size": options.batch,
        "learning_rate": 1e-4,
        "train_sampling_strategy": "sequential",
        "gradient_checkpointing": False,
        "bf16": options.bf16,
        "save_strategy": "no",
        "report_to": "none",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }


def clock(log: list[Any], options: argparse.Namespace) -> Any:
    """A callback that closes each step's time behind the optimizer."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        trainer: Any = None

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            log.append((time.perf_counter() - self.trainer._started, self.trainer._loss, self.trainer._examples))
            control.should_training_stop |= enough(log, options)

    return Clock()


def run_trainer(trainer: Any, stop: Any) -> None:
    stop.trainer = trainer
    trainer.add_callback(stop)
    trainer.train()


def train_dynamic(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from qwen_ner.inference.extractor import load_tokenizer

    work: dict[str, float] = {}
    whole = [
        {
            "input_ids": row["prompt_ids"] + row["answer_ids"],
            "attention_mask": [1] * (len(row["prompt_ids"]) + len(row["answer_ids"])),
            "labels": [-100] * len(row["prompt_ids"]) + row["answer_ids"],
        }
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = timed(Trainer, log, work, kept_only=False)(
            model=model,
            args=TrainingArguments(**trainer_options(options, folder)),
            train_dataset=Dataset.from_list(whole),
            data_collator=DataCollatorForSeq2Seq(load_tokenizer(options.model)),
        )
        run_trainer(trainer, clock(log, options))
    return work


def train_trl(rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]) -> dict[str, float]:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from qwen_ner.inference.extractor import load_tokenizer

    work: dict[str, float] = {}
    whole = [
        {
            "input_ids": row["prompt_ids"] + row["answer_ids"],
            "completion_mask": [0] * len(row["prompt_ids"]) + [1] * len(row["answer_ids"]),
        }
        for row in rows
    ]
    special: dict[str, Any] = {"max_length": None}
    if rival == "trl-padding-free":
        special["padding_free"] = True
    if rival == "trl-packed":
        mean = statistics.mean(len(row["input_ids"]) for row in whole)
        # One packed sequence a step, as long as the rows of the others' batch.
        special = {"packing": True, "max_length": round(mean * options.batch), "per_device_train_batch_size": 1}
    with tempfile.TemporaryDirectory() as folder:
        trainer = timed(SFTTrainer, log, work, kept_only=True)(
            model=model,
            args=SFTConfig(
                **{
                    **trainer_options(options, folder),
                    "remove_unused_columns": True,
                    "completion_only_loss": True,
                    **special,
                }
            ),
            train_dataset=Dataset.from_list(whole),
            processing_class=load_tokenizer(options.model),
        )
        run_trainer(trainer, clock(log, options))
    return work


def train_ours(
    rival: str, model: Any, rows: list[Any], options: argparse.Namespace, log: list[Any]
) -> dict[str, float]:
    from datasets import Dataset

    from qwen_ner.contract import NerConfig
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.extractor import load_tokenizer
    from qwen_ner.training.collate import choose_collator
    from qwen_ner.training.recipe import NerTrainingArguments
    from qwen_ner.training.trainer import NerTrainer

    work: dict[str, float] = {}
    tokenizer = load_tokenizer(options.model)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"eval_strategy": "no", "load_best_model_at_end": False}
        trainer = timed(NerTrainer, log, work, kept_only=True)(
            model=model,
            args=NerTrainingArguments(**{**trainer_options(options, folder), **chosen}),
            ner_config=NerConfig(CLUENER, "", 128, (tokenizer.eos_token_id,)),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
            data_collator=choose_collator(model, tokenizer.pad_token_id),
        )
        run_trainer(trainer, clock(log, options))
    return work


def claims(results: dict[str, Any], exact: dict[str, float]) -> list[dict[str, Any]]:
    """The figures that the README states for the 0.5B; on another model they are printed all the same."""
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


def claim(name: str, value: float, bound: float, at_most: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "value": float(f"{value:.3g}"),
        "bound": bound,
        "holds": value <= bound if at_most else value >= bound,
    }


def show(results: dict[str, Any]) -> None:
    reference = results.get("ours", {}).get("rows/s")
    print(f"{'':24}{'rows/s':>9}{'ours is':>9}{'useful tok/s':>14}{'of peak':>9}{'GiB':>7}{'first loss':>12}")
    for name, values in results.items():
        if "error" in values:
            print(f"{name:24}{values['error']:>9}")
            continue
        against = results.get("ours-guide", {}).get("rows/s") if name.endswith("-guide") else reference
        ratio = f"{against / values['rows/s']:.2f}×" if against else ""
        print(
            f"{name:24}{values['rows/s']:9.2f}{ratio:>9}{values['useful tokens/s']:14.0f}"
            f"{values['of matrix peak']:9.0%}{values['peak GiB']:7.2f}{values['first loss']:12.6f}"
        )


def sweep(options: argparse.Namespace) -> dict[str, list[tuple[int, str, float]]]:
    """rows/s over batch size and prompt length, for dynamic padding and ours; drawn beside the JSON."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points: dict[str, list[tuple[int, str, float]]] = {"batch": [], "prefix": []}
    for size in (1, 2, 4, 8, 16, 32, 64):
        for name in ("dynamic", "ours"):
            points["batch"].append((size, name, merged([in_process(name, options, batch=size)]).get("rows/s", 0.0)))
    for length in (32, 64, 128, 256, 512):
        for name in ("dynamic", "ours"):
            run = in_process(f"{name}-guide", options, guideline=length)
            points["prefix"].append((length, name, merged([run]).get("rows/s", 0.0)))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (what, values) in zip(axes, points.items(), strict=True):
        for name in ("dynamic", "ours"):
            drawn = [(x, y) for x, who, y in values if who == name]
            axis.plot(
                *zip(*drawn, strict=True),
                marker="o",
                label="dynamic padding" if name == "dynamic" else "prefix sharing",
            )
        axis.set(
            xscale="log",
            xlabel="rows a batch" if what == "batch" else "tokens of system prompt",
            ylabel="rows/s",
            ylim=(0, None),
        )
        axis.set_xticks([x for x, who, _ in values if who == "ours"], [str(x) for x, who, _ in values if who == "ours"])
        axis.minorticks_off()
        axis.legend()
    target = (options.json or Path("train_speed.json")).with_suffix(".png")
    figure.savefig(target, dpi=120)
    print(f"drawn: {target}")
    return points


def machine() -> dict[str, Any]:
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    names = ("torch", "transformers", "accelerate", "peft", "trl", "datasets")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    keys = ("model", "data", "batch", "steps", "seconds", "repeats", "guideline", "full", "bf16")
    return {key: str(getattr(options, key)) if key == "model" else getattr(options, key) for key in keys}


if __name__ == "__main__":
    main()
