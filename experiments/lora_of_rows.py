"""A model of given rows, and what it finds: what the experiments on few rows have in common.

In: rows, texts and overrides of a recipe. Out: a folder with `model`, the rows it was trained on (`train.jsonl`), and
files of predictions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache

from qwen_ner.codec import Decoded
from qwen_ner.data.datasets import TextRow
from qwen_ner.data.formats.jsonl import as_row
from qwen_ner.data.formats.predictions import iter_predictions
from qwen_ner.entities import Example, LabelSet
from qwen_ner.files import write_text
from qwen_ner.inference.backends.torch import has_bf16
from qwen_ner.inference.batch_predict import result_lines
from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train

SMALL = 20
"""Rows that a training scores for its report; nothing is chosen by them."""


def reading_dtype(quick: bool) -> str:
    """bfloat16 on a CPU that has it, where it takes half the time; else the default."""
    return "bfloat16" if not torch.cuda.is_available() and has_bf16("cpu") and not quick else "auto"


def train_on(
    folder: Path, rows: Sequence[Example], others: Sequence[Example], labels: LabelSet, rest: Sequence[str],
    recipe: str = "lora", **values: Any,
) -> None:  # fmt: skip
    """Train `folder`/model on `rows`, without evaluation; the report is of the first of `others`.

    `values` are keys of the recipe, and `rest` further overrides, which have the last word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("dev", others[:SMALL]), ("train", rows)):  # train.jsonl last: it says that the rows are chosen
        write_text(folder / f"{name}.jsonl", (json.dumps(as_row(row), ensure_ascii=False) + "\n" for row in part))
    values = {
        "dataset": folder, "output_dir": folder / "model",
        "labels": {label.name: label.description for label in labels},
        "learning_rate": 4e-4, "per_device_train_batch_size": 10, "lora_dropout": 0.05,
        "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "eval_on_start": False,
        "early_stopping_patience": None,
    } | values  # fmt: skip
    train(load_recipe(recipe, [*(f"--{key}={value}" for key, value in values.items()), *rest]))
    clear_device_cache(garbage_collection=True)  # the trainer is a reference cycle, and holds the model


def predict_to(target: Path, folder: Path, examples: Sequence[Example], **options: str) -> None:
    """Write to `target` what `folder`/model finds in `examples`; `options` are those of loading it."""
    texts = [TextRow(row.id, row.text, row.source) for row in examples]
    lines = result_lines(Extractor.from_pretrained(folder / "model", **options), texts, False, {"progress": True})
    write_text(target, [json.dumps(line, ensure_ascii=False) + "\n" for line in lines])
    clear_device_cache(garbage_collection=True)


def found(target: Path, examples: Sequence[Example]) -> list[Decoded]:
    """What `predict_to` wrote."""
    return list(iter_predictions(target, examples))
