"""The story of one training, top to bottom.

In: a recipe. Out: a folder that extraction can use, with a report in it, and the scores on the terminal. The recipe
makes the decisions; plan.py builds the parts.
"""

from __future__ import annotations

import time
from typing import Any

from ..data.trained_texts import save_trained_texts
from .doctor.examination import TRAINING_CHECKS
from .final_report import report
from .finding import raise_or_warn
from .loop.checkpoints import alone_in, checkpoint_to_resume
from .loop.manifest import origin_of
from .loop.metrics import EntityMetrics
from .loop.trainer import NerTrainer
from .plan import TrainingPlan
from .preparation import check_processes, check_shared, claim_output, explain_full_disk, save_recipe, use_cores
from .recipe import Recipe
from .tracking.trackers import tracking


def train(recipe: Recipe, *, advise: bool = True) -> dict[str, Any]:
    """Train, keep the best checkpoint, score it on the final split. Returns the scores and a summary of the training.

    `advise` is for a training by itself: say below the scores what to do next.

    Raises `NerError` for what the user can mend, `KeyboardInterrupt` after SIGINT or SIGTERM, once a checkpoint is
    written.
    """
    started, args = time.monotonic(), recipe.training
    check_processes(args)
    use_cores(args)
    output = claim_output(recipe)
    check_shared(args, output)
    with explain_full_disk(args, output), alone_in(output, args.process_index), tracking(recipe) as watch:
        plan = TrainingPlan(recipe, output)
        raise_or_warn(check(plan) for check in TRAINING_CHECKS)
        origin = origin_of(plan)
        trainer = NerTrainer(
            model=plan.model,
            args=args,
            ner_config=plan.config,
            origin=origin,
            row_name=lambda row: plan.examples[row].source or plan.examples[row].id,
            processing_class=plan.tokenizer,
            data_collator=plan.collator,
            train_dataset=plan.fitting_rows,
            eval_dataset=plan.validation_rows,
            compute_metrics=EntityMetrics(
                plan.gold, plan.codec, plan.tokenizer, plan.end_token_ids, windows=plan.gold_windows
            ),
        )
        watch(trainer, plan.splits)
        checkpoint = checkpoint_to_resume(recipe, origin)
        if trainer.is_world_process_zero():
            save_recipe(recipe, output)
            save_trained_texts(output, plan.splits.train)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(_internal_call=True)  # an ordinary save would push here, before the scores are known
        trainer.save_state()
        scores = report(trainer, plan, output, started, advise=advise)
        if args.push_to_hub:
            trainer.push_to_hub()
        return scores
