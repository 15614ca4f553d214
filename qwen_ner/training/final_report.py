"""The end of a training: the final scores, the report, and what is printed.

In: a trainer with its best checkpoint loaded, and its plan. Out: files in the output folder. Does not know how the
model was trained.
"""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments

from ..columns import printable
from ..data.datasets import NAMED, is_local
from ..data.formats.errors import count
from ..entities import Example
from ..evaluation.report import write_report
from ..evaluation.result import EvaluationResult
from ..evaluation.scoring import Counts
from ..inference.calibration import Judged, fit_calibration, gold_counts, judged, summary
from ..inference.extractor import Extractor
from .doctor.examination import warn_of_leaks
from .finding import Finding, raise_or_warn, warn
from .launch import command_for
from .loop.trainer import NerTrainer
from .plan import TrainingPlan
from .preparation import HELD_OUT, Splits

TOY = """
This was a toy model on {data}: it shows how things work, not how good a Qwen is. For the real thing, {how}"""

BY_SHIPPED_RECIPES = f"""on one or four GPUs:
  qwen-ner train lora --per_device_train_batch_size 60 --train_sampling_strategy random
  {command_for(4).replace("…", "full_ft")}"""

BY_INIT = """have a recipe written for a Qwen
(the learning rate of this one is for the toy), and train by it on a GPU:
  qwen-ner init {data} --output qwen.yaml
  qwen-ner train qwen.yaml --output_dir {output}"""


def report(
    trainer: NerTrainer, plan: TrainingPlan, output: Path, started: float, *, advise: bool = True
) -> dict[str, Any]:
    """Score the final split, write the report, print the table and the examples.

    Every rank takes part in scoring; the first writes and prints. `started` is the time.monotonic() from which
    `seconds` count. With `advise` it says what to do next. Returns the scores and, under "training", a summary of the
    training.
    """
    splits, recipe, state = plan.splits, plan.recipe, trainer.state
    split, dataset = splits.scored_name, recipe.data.dataset
    predicted = trainer.predict(plan.final_rows, metric_key_prefix=split)
    evaluated = trainer.compute_metrics.evaluated(predicted, str(output), dataset, split, splits.seen)
    chose = trainer.args.load_best_model_at_end and state.best_global_step is not None
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]  # the Trainer's mean starts at a resume
    training = {
        "model": recipe.model.model_name_or_path,
        "dataset": dataset,
        "local_data": is_local(dataset),
        "data_fingerprint": plan.config.data_fingerprint,
        "train_rows": len(plan.fitting_rows),
        "steps": state.global_step,
        "skipped_steps": trainer.gradients.skipped,
        "validation": {
            "split": splits.validation_name,
            "rows": len(splits.validation),
            "best": state.best_metric if chose else None,
            "step": state.best_global_step if chose else None,
        },
        "train_loss": sum(losses) / len(losses) if losses else None,
    }
    extractor = Extractor(trainer.whole.get(), plan.tokenizer, plan.config)  # a collective: of every rank
    trainer.whole.free()
    if trainer.is_world_process_zero():
        extractor, on_validation, gold = calibrate(extractor, splits.validation)
        extractor.config.save(output)
        right = sum(one.correct for one in on_validation)
        f1 = Counts(right, len(on_validation) - right, gold.total() - right).f1
        training["validation"]["constrained_f1"] = f1  # what `predict` will do: the table is of free decoding
        fitted = "was" if extractor.calibration.thresholds else "could not be"
        rate = f"{'span_f1' if extractor.codec.located else 'f1'} {100 * f1:.2f}"
        of = f"the validation rows under constrained decoding ({rate}), on which it {fitted} fitted"
        training["seconds"] = round(time.monotonic() - started, 1)
        evaluated = replace(evaluated, confidence=summary(on_validation) | {"of": of})
        write_report(evaluated, output, training=training, history=state.log_history)
        print(evaluated.table())
        if advise and not splits.final:
            print(_basis(dataset, splits, chose=chose))
        for text, entities in zip(recipe.data.examples, extractor.extract(recipe.data.examples), strict=True):
            found = " · ".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)
            print(printable(f"\n{text}\n  {found or 'no entity'}"))
        print(printable(f"\ntrained on {dataset}: {count(len(plan.fitting_rows), 'row')}"))
        print(f"report: {output / 'report.html'}")
        if advise and recipe.model.model_name_or_path == "tiny":
            print(printable(_toy(dataset, output)), flush=True)
        leaks = warn_of_leaks("final" if splits.final else "validation")
        raise_or_warn([leaks(plan), *nothing_right(evaluated, trainer.args, state)])
    return {**evaluated.scores.to_dict(), "training": training}


def _basis(dataset: str, splits: Splits, *, chose: bool) -> str:
    """On what the final score rests where the data set has no final split."""
    kind = ", which also chose the checkpoint, so it is a little too good" if chose else ""
    held = count(len(splits.validation), f"{splits.validation_name} row")
    held += ", held out of train" if splits.validation_name == HELD_OUT else ""
    found = f"{dataset} has no {splits.final_name} split to score: the score is of {held}{kind}"
    return f"{found}; for a final test give the data set a {splits.final_name} split"


def nothing_right(evaluated: EvaluationResult, args: TrainingArguments, state: TrainerState) -> list[Finding]:
    """A warning with the numbers of the training where there are entities to find and f1 is 0, else none."""
    counts, split = evaluated.scores.micro, evaluated.contract.split
    if counts.tp or not counts.support:
        return []
    of_form = ("not_json", "truncated", "miscopied")
    unread = sum(any(p.kind in of_form for p in decoded.problems) for decoded in evaluated.predicted)
    found = (
        f"f1 is 0: none of {count(counts.support, 'surface')} of {split} was found (wrong ones: {counts.fp:,}); "
        f"{unread:,} of {count(len(evaluated.gold), 'answer')} not JSON, truncated or miscopied"
    )
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    of_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    remedy = (
        f"most likely it was trained too little: raise {length} (now {getattr(args, length):g}, which gave "
        f"{count(state.global_step, 'step')}), take fewer rows per step than {of_step} (per_device_train_batch_size), "
        f"or raise learning_rate ({args.learning_rate:g}); if validation went well, check how {split} is annotated"
    )
    return [warn(found, remedy)]


def _toy(dataset: str, output: Path) -> str:
    """What was trained was the toy, and how to train a Qwen on these data."""
    data = shlex.quote(dataset)
    how = BY_SHIPPED_RECIPES if dataset in NAMED else BY_INIT.format(data=data, output=shlex.quote(f"{output}-lora"))
    return TOY.format(data="made-up data" if dataset == "sample" else dataset, how=how)


def calibrate(extractor: Extractor, held_out: Sequence[Example]) -> tuple[Extractor, list[Judged], Counter[str]]:
    """`extractor` with a calibration fitted to what it predicts for `held_out`, these predictions judged by it, and how
    many there should be of each label: places if the target says which is meant, else surfaces."""
    predicted = extractor.predict([example.text for example in held_out], progress=True)
    located = extractor.codec.located
    found = list(judged(held_out, predicted, located=located))
    calibration = fit_calibration(found, gold := gold_counts(held_out, located=located))
    config = replace(extractor.config, calibration=asdict(calibration))
    after = [replace(one, confidence=calibration(math.log(max(one.confidence, 1e-300)))) for one in found]
    return Extractor(extractor.backend, extractor.tokenizer, config), after, gold
