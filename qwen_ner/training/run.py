"""The story of one training, top to bottom.

In: a recipe. Out: a folder that extraction can use, `metrics.json` in it, and the scores on the terminal. What is
decided stands in the recipe; what is done stands in the rooms that are called here.
"""

from __future__ import annotations

import os
import time
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..contract import NerConfig, write_json
from ..data.tokenize import build_dataset, end_of_turn, longest_first, refuse_long
from ..entities import fingerprint
from ..evaluation.scoring import score, table
from ..inference.extractor import Extractor, load_tokenizer
from .callbacks import ProgressLines, StopOnSignal
from .collate import PaddedCollator
from .preflight import (
    FINAL_SPLIT,
    check_answers,
    check_processes,
    check_prompts,
    checkpoint_to_resume,
    claim_output,
    read_splits,
    save_recipe,
)
from .recipe import Recipe
from .tiny import make_tiny
from .trainer import EntityMetrics, NerTrainer, load_model

TOY = """
This was a toy model on made-up data: it shows the way, not how good a Qwen is. For the real thing, on one or four GPUs:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lora.yaml
  accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/full_ft.yaml"""


def train(recipe: Recipe) -> dict[str, Any]:
    """Train, keep the best checkpoint, score it on the final split. Returns what `metrics.json` holds.

    Raises `NerError` for what the user can mend, `KeyboardInterrupt` after SIGINT or SIGTERM (with a checkpoint
    written).
    """
    started = time.time()
    data, args = recipe.data, recipe.training
    os.environ.setdefault("WANDB_PROJECT", "qwen-ner")
    check_processes(args)
    output = claim_output(recipe)
    splits = read_splits(data)

    base, revision = recipe.model.model_name_or_path, recipe.model.model_revision
    with args.main_process_first(desc="making the tiny model"):
        base = str(make_tiny(output / "tiny")) if base == "tiny" else base
    tokenizer = load_tokenizer(base, revision)
    ends = tuple(dict.fromkeys((end_of_turn(tokenizer), tokenizer.eos_token_id)))
    config = NerConfig(splits.labels, data.system_prompt, args.max_new_tokens, ends, fingerprint(splits.train))
    codec = config.codec()
    model = load_model(
        base,
        revision=revision,
        attn_implementation=recipe.model.attn_implementation,
        lora=recipe.model.lora(),
    )

    gold = [*splits.validation, *splits.final]
    context = model.config.max_position_embeddings
    with args.main_process_first(desc="tokenizing"):
        rows = build_dataset(splits.train, codec, tokenizer, num_proc=data.dataset_num_proc, desc="Tokenizing train")
        to_score = build_dataset(gold, codec, tokenizer, num_proc=data.dataset_num_proc, desc="Tokenizing evaluation")
    rows = refuse_long(rows, splits.train, min(data.max_length or context, context))
    check_answers(rows, args.max_new_tokens)
    check_prompts(to_score, gold, context - args.max_new_tokens)
    validation = to_score.select(range(len(splits.validation)))
    final = to_score.select(range(len(splits.validation), len(gold))) if splits.final else validation

    stop = StopOnSignal()
    metrics = EntityMetrics(gold, codec, tokenizer, ends)
    trainer = NerTrainer(
        model=model,
        args=args,
        ner_config=config,
        processing_class=tokenizer,
        data_collator=PaddedCollator(tokenizer.pad_token_id),
        train_dataset=rows,
        eval_dataset=longest_first(validation),
        compute_metrics=metrics,
        callbacks=[stop],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressLines)
    if args.early_stopping_patience is not None:
        trainer.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    checkpoint = checkpoint_to_resume(recipe)
    if trainer.is_world_process_zero():
        save_recipe(recipe, output)
    trained = trainer.train(resume_from_checkpoint=checkpoint)
    if stop.received:
        raise KeyboardInterrupt(f"stopped at step {trainer.state.global_step}; the same command goes on from there")
    trainer.save_model()
    trainer.save_state()

    split = FINAL_SPLIT if splits.final else "validation"
    prediction = trainer.predict(longest_first(final), metric_key_prefix=split)
    scores = score(*metrics.decoded(prediction), splits.labels, train=splits.seen)
    result = {
        "model": recipe.model.model_name_or_path,
        "dataset": data.dataset,
        "data_fingerprint": config.data_fingerprint,
        "train_rows": len(rows),
        "steps": trainer.state.global_step,
        "train_loss": trained.training_loss,
        "validation": {
            "rows": len(validation),
            "best": trainer.state.best_metric,
            "step": trainer.state.best_global_step,
        },
        split: scores.to_dict(),
        "seconds": round(time.time() - started, 1),
    }
    if trainer.is_world_process_zero():
        write_json(output / "metrics.json", result)
        print(table(scores, title=f"{recipe.model.model_name_or_path} on {data.dataset} {split}"))
        extractor = Extractor(trainer.accelerator.unwrap_model(trainer.model), tokenizer, config)
        for text, entities in zip(data.examples, extractor.extract(data.examples), strict=True):
            print(
                f"\n{text}\n  "
                + (" · ".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities) or "no entity")
            )
        if "tiny" in (recipe.model.model_name_or_path, data.dataset) or data.dataset == "sample":
            print(TOY)
    return result
