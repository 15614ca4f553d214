"""`qwen-ner doctor RECIPE`: what can be known about a training before it is paid for.

In: a recipe, and an accelerate config if there is one. Out: a line for each check, and one row as it would be trained.
Loads no weights, writes only to the cache of tokenized rows, and downloads no more than the tokenizer, config and data
that the recipe names.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import get_args

from transformers import PreTrainedTokenizerBase

from ...columns import printable
from ...columns import width as columns_of
from ...entities import NerError
from ...inference.constraints.vocabulary import token_bytes
from ..batches.collate import PaddedCollator
from ..finding import FaultsError, Finding, Level
from ..launch import Launch
from ..plan import TrainingPlan
from ..preparation import check_processes
from ..recipe import CLOSING, LAUNCHER_LINE, Recipe, load_recipe, recipe_path
from .examination import examine

VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u3000": "␣␣"}


def doctor(path: Path, overrides: Sequence[str] = (), accelerate_config: Path | None = None) -> int:
    """Print a line per check, and the example. Returns how many checks failed. Only the first process prints."""
    started, levels, path = time.time(), [], recipe_path(path)
    recipe, refused = _load_for_here(path, overrides)
    if LAUNCHER_LINE not in path.read_text(encoding="utf-8"):
        found = f"start it with qwen-ner train {path}, or accelerate launch -m qwen_ner train {path}"
        more = f"accelerate launch {path} needs this line above the keys, and {CLOSING} below:\n{LAUNCHER_LINE}"
        refused.append(Finding("ok", found, more, name="recipe"))
    try:
        check_processes(recipe.training)
        launch = Launch.of_file(accelerate_config) if accelerate_config else Launch.of_environment(os.environ)
    except NerError as error:
        refused.append(Finding("fail", str(error), name="processes"))
        launch = Launch.of_environment({})
    if int(os.environ.get("RANK", "0")):
        return 0
    with tempfile.TemporaryDirectory(prefix="qwen_ner_doctor_") as folder:
        plan = TrainingPlan(recipe, Path(folder), launch=launch, outline=True)
        for finding in chain(refused, examine(plan)):
            levels.append(finding.level)
            print(printable(str(finding)), flush=True)
        try:
            print("\n" + "\n".join(example_as_trained(plan, shutil.get_terminal_size((120, 24)).columns)) + "\n")
        except NerError:
            print("\nNo example to show: see above.\n")
    counted = " · ".join(f"{n} {level}" for level in get_args(Level) if (n := levels.count(level)) or level != "skip")
    print(f"{counted} in {time.time() - started:.1f} s")
    return levels.count("fail")


def example_as_trained(plan: TrainingPlan, width: int) -> list[str]:
    """The first row with an entity, as a table of tokens, ids and mask."""
    at = next((i for i, example in enumerate(plan.examples) if example.entities), 0)
    batch = PaddedCollator(plan.tokenizer.pad_token_id)([plan.rows[at]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    supervised = sum(label == token for token, label in zip(ids, labels, strict=True))
    head = f"{plan.examples[at].source} as trained: {len(ids)} tokens, ● the {supervised} that are in the loss"
    return [head, "", *token_table(ids, labels, plan.tokenizer, width)]


def token_table(ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, width: int) -> list[str]:
    """Blocks of three lines, each within `width` columns: the tokens, their ids, and ● under those in the loss.

    `labels[i]` equals `ids[i]` if token i is supervised. Spaces and line ends are made visible; a token that is part of
    a character shows its bytes.
    """
    cells = [
        (_visible(tokenizer, token), str(token), "●" if label == token else "·")
        for token, label in zip(ids, labels, strict=True)
    ]
    blocks: list[list[str]] = []
    for column in cells:
        size = max(map(columns_of, column))
        if not blocks or columns_of(blocks[-1][0]) + 1 + size > width:
            blocks.append(["token", "id   ", "loss "])
        padded = (f" {text}{' ' * (size - columns_of(text))}" for text in column)
        blocks[-1] = [before + text for before, text in zip(blocks[-1], padded, strict=True)]
    return [line.rstrip() for block in blocks for line in (*block, "")][:-1]


def _visible(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        spelled = tokenizer.convert_ids_to_tokens(token)
        spelling = token_bytes(spelled)
        return spelled if spelling is None else "".join(f"\\x{byte:02x}" for byte in spelling)
    return printable("".join(VISIBLE.get(c, c) for c in text))


def _load_for_here(path: Path, overrides: Sequence[str]) -> tuple[Recipe, list[Finding]]:
    """The recipe. If this machine lacks what it asks for (bf16), it is read as for the CPU, with a finding about it."""
    try:
        return load_recipe(path, overrides), []
    except FaultsError as error:
        try:
            recipe = load_recipe(path, [*overrides, "--use_cpu", "true"])
        except NerError:
            raise error from None
        del recipe.values["use_cpu"]
        found = "\n".join(map(str, error.faults)).strip(" .")
        remedy = "run the doctor on the machine that will train; the other checks are made here"
        return recipe, [Finding("fail", found, remedy, name="recipe")]
