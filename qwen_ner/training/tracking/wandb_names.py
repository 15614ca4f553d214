"""What a wandb run is called, what its summary and its warnings say: plain functions, without wandb.

In: arguments, a log, an error. Out: text and numbers. Knows nothing of the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments


def without_token(arguments: Sequence[str]) -> list[str]:
    """A command line that is safe to show.

    >>> without_token(["train", "x.yaml", "--hub_token", "hf_x", "--hub-token=hf_y", "--seed", "1"])
    ['train', 'x.yaml', '--hub_token', '***', '--hub-token=***', '--seed', '1']
    """
    masked = [re.sub(r"^(--hub[_-]token=).*", r"\1***", argument, flags=re.S) for argument in arguments]
    return ["***" if n and arguments[n - 1] in ("--hub_token", "--hub-token") else a for n, a in enumerate(masked)]


def best_of(history: Sequence[Mapping[str, Any]], metric: str | None, greater: bool = True) -> dict[str, float]:
    """step, f1, span_f1 and macro_f1 of the evaluation whose weights the Trainer keeps, from its `log_history`.

    Of equals that with the lowest loss, and of these the first: see `EqualScores`. Never the one before the first step
    if there is another.

    >>> scores = {"eval_span_f1": 0.5, "eval_macro_f1": 0.5}
    >>> f1_and_loss = enumerate([(0.9, 3.0), (0.6, 2.0), (0.6, 1.0), (0.6, 1.0)])
    >>> best_of([{"eval_f1": f1, "eval_loss": loss, "step": n, **scores} for n, (f1, loss) in f1_and_loss], "f1")
    {'step': 2, 'f1': 0.6, 'span_f1': 0.5, 'macro_f1': 0.5}
    """
    scored = [entry for entry in history if "eval_span_f1" in entry]
    trained = [entry for entry in scored if entry["step"]] or scored
    if not trained:
        return {}
    key = f"eval_{(metric or 'f1').removeprefix('eval_')}"
    best = min(trained, key=lambda entry: (-entry[key] if greater else entry[key], entry.get("eval_loss", 0.0)))
    return {"step": best["step"], **{name: best[f"eval_{name}"] for name in ("f1", "span_f1", "macro_f1")}}


def project(args: TrainingArguments) -> str:
    """WANDB_PROJECT, or the recipe's `project`."""
    return os.environ.get("WANDB_PROJECT") or args.project


def run_name(args: TrainingArguments, env: Mapping[str, str]) -> str | None:
    """The recipe's `run_name`, or the output folder's name. None if wandb has one: trials of a sweep, WANDB_NAME."""
    if env.get("WANDB_SWEEP_ID"):
        return None
    return args.run_name or (None if env.get("WANDB_NAME") else Path(args.output_dir).resolve().name)


def one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
