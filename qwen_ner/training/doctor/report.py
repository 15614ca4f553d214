"""`qwen-ner doctor RECIPE`: what can be known of a training before it is paid for.

In: a recipe, an accelerate config if there is one. Out: a line for each check, and one row as it would be trained.
Loads no weights, writes nothing beside the cache of tokenized rows, and asks the network for no more than tokenizer,
config and data that the recipe names.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ...entities import NerError
from ..batches.collate import PaddedCollator
from ..finding import Finding
from ..launch import Launch
from ..plan import Case, Unavailable, case_of
from ..preparation import check_processes
from ..recipe import Recipe, load_recipe
from .examination import examine
from .token_view import token_table


def as_trained(case: Case, width: int) -> list[str]:
    """The first row with an entity, as a table of tokens, ids and mask."""
    at = next((i for i, example in enumerate(case.splits.train) if example.entities), 0)
    batch = PaddedCollator(case.tokenizer.pad_token_id)([case.rows[at]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    supervised = sum(label == token for token, label in zip(ids, labels, strict=True))
    head = (
        f"{case.splits.train[at].source} as trained: {len(ids)} tokens, ● the {supervised} that the loss is computed on"
    )
    return [head, "", *token_table(ids, labels, case.tokenizer, width)]


def doctor(path: Path, overrides: Sequence[str] = (), accelerate_config: Path | None = None) -> int:
    """Print a line a check and the example; returns how many failed. Of several processes only the first speaks."""
    started, levels = time.time(), []

    def say(finding: Finding) -> None:
        levels.append(finding.level)
        print(finding, flush=True)

    recipe, refused = _readable(path, overrides)
    try:
        check_processes(recipe.training)
        launch = Launch.of_file(accelerate_config) if accelerate_config else Launch.of_environment(os.environ)
    except NerError as error:
        refused = [*refused, Finding("fail", "processes", str(error))]
        launch = Launch.of_environment({})
    if int(os.environ.get("RANK", "0")):
        return 0
    with case_of(recipe, launch) as case:
        for finding in chain(refused, examine(case)):
            say(finding)
        try:
            print("\n" + "\n".join(as_trained(case, shutil.get_terminal_size((120, 24)).columns)) + "\n")
        except (Unavailable, NerError):
            print("\nNo example to show: see above.\n")
    counted = " · ".join(f"{levels.count(level)} {level}" for level in ("ok", "warn", "fail"))
    print(f"{counted} in {time.time() - started:.1f} s")
    return levels.count("fail")


def _readable(path: Path, overrides: Sequence[str]) -> tuple[Recipe, list[Finding]]:
    """The recipe; where this machine lacks what it asks for (bf16), as it would be on the CPU, with a line on that."""
    try:
        return load_recipe(path, overrides), []
    except NerError as error:
        try:
            recipe = load_recipe(path, [*overrides, "--use_cpu", "true"])
        except NerError:
            raise error from None
        del recipe.values["use_cpu"]
        found = str(error).partition("\n")[2].strip(" .")
        return recipe, [
            Finding("fail", "recipe", found, "run the doctor where it will be trained; the rest is checked here")
        ]
