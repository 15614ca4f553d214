"""The story of one training, top to bottom.

In: a recipe. Out: a folder that extraction can use, with a report in it, and the scores on the terminal. What is
decided stands in the recipe; what is done stands in the rooms that are called here.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..contract import NerConfig
from ..data.tokenize import build_dataset, end_of_turn, longest_first, refuse_long
from ..entities import fingerprint
from ..inference.loading import load_tokenizer
from .batches.collate import choose_collator
from .doctor.checks import check_room, quick
from .doctor.costs import parameters
from .doctor.machine import check_disk_of
from .final_report import report
from .finding import heed
from .loop.checkpoints import alone_in, checkpoint_to_resume
from .loop.metrics import EntityMetrics
from .loop.trainer import NerTrainer
from .model import load_model
from .preparation import (
    check_processes,
    check_shared,
    claim_output,
    full_disk_explained,
    read_splits,
    save_recipe,
    use_cores,
)
from .recipe import Recipe
from .tiny import make_tiny
from .tracking.trackers import Tracking, tracking


def train(recipe: Recipe) -> dict[str, Any]:
    """Train, keep the best checkpoint, score it on the final split. Returns the scores, and what is said of it.

    Raises `NerError` for what the user can mend, `KeyboardInterrupt` after SIGINT or SIGTERM (a checkpoint is there).
    """
    check_processes(recipe.training)
    use_cores(recipe.training)
    output = claim_output(recipe)
    check_shared(recipe.training, output)
    with full_disk_explained(output), alone_in(output, recipe.training.process_index), tracking(recipe) as trackers:
        return _train(recipe, output, trackers)


def _train(recipe: Recipe, output: Path, trackers: Tracking) -> dict[str, Any]:
    started = time.monotonic()
    data, args = recipe.data, recipe.training
    splits = read_splits(data)

    base, revision = recipe.model.model_name_or_path, recipe.model.model_revision
    with args.main_process_first(desc="making the tiny model"):
        base = str(make_tiny(output / "tiny")) if base == "tiny" else base
    tokenizer = load_tokenizer(base, revision)
    ends = tuple(dict.fromkeys((end_of_turn(tokenizer), tokenizer.eos_token_id)))
    longest = max(len(example.text) for example in splits.train)
    config = NerConfig(
        splits.labels, data.system_prompt, args.max_new_tokens, ends, fingerprint(splits.train), window=max(4, longest)
    )
    codec = config.codec()
    attention = recipe.model.attn_implementation
    set_seed(args.seed)  # the Trainer does, but an adapter is drawn before there is one
    model = load_model(base, revision=revision, attn_implementation=attention, lora=recipe.model.lora())

    gold = [*splits.validation, *splits.final]
    context = model.config.max_position_embeddings
    with args.main_process_first(desc="tokenizing"):
        rows = build_dataset(splits.train, codec, tokenizer, num_proc=data.dataset_num_proc, desc="Tokenizing train")
        to_score = build_dataset(gold, codec, tokenizer, num_proc=data.dataset_num_proc, desc="Tokenizing evaluation")
    rows = refuse_long(rows, splits.train, min(data.max_length or context, context))
    collator, sources = choose_collator(model, tokenizer.pad_token_id), [example.source for example in gold]
    heed(quick(tokenizer, codec, collator, ends, rows, splits.train, args.max_new_tokens))
    heed([check_room([len(ids) for ids in to_score["prompt_ids"]], context - args.max_new_tokens, sources)])
    disk = check_disk_of(recipe, *parameters(model), len(rows))
    heed([replace(disk, level="warn")] if disk.level == "fail" else [disk])
    validation = to_score.select(range(len(splits.validation)))
    final = to_score.select(range(len(splits.validation), len(gold))) if splits.final else validation

    trainer = NerTrainer(
        model=model,
        args=args,
        ner_config=config,
        processing_class=tokenizer,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=longest_first(validation),
        compute_metrics=EntityMetrics(gold, codec, tokenizer, ends),
    )
    trackers.watch(trainer, splits)
    checkpoint = checkpoint_to_resume(recipe)
    if trainer.is_world_process_zero():
        save_recipe(recipe, output)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(_internal_call=True)  # else it would be pushed here, before it has its scores
    trainer.save_state()
    scores = report(trainer, recipe, splits, longest_first(final), output, started)
    if args.push_to_hub:
        trainer.push_to_hub()
    return scores
