"""What a training ends with: scores on the final split, the report, and what is said on the terminal.

In: a trainer at its best checkpoint. Out: files in the output folder. Knows nothing of how it was trained.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..entities import Example, fingerprint
from ..evaluation.report import write_report
from ..evaluation.result import EvaluationResult
from ..evaluation.table import Contract
from ..inference.calibration import Judged, fit_calibration, summary
from ..inference.extractor import Extractor
from .loop.trainer import NerTrainer
from .preparation import FINAL_SPLIT, Splits
from .recipe import Recipe

TOY = """
This was a toy model on made-up data: it shows the way, not how good a Qwen is. For the real thing, on one or four GPUs:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lora.yaml
  accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/full_ft.yaml"""


def report(
    trainer: NerTrainer, recipe: Recipe, splits: Splits, final: Dataset, output: Path, started: float
) -> dict[str, Any]:
    """Score the final split (the validation rows where there is none), write the report, print table and examples.

    Every rank takes part in scoring; the first writes and prints. `seconds` count from `started`, a time.monotonic().
    Returns the scores and, under "training", what is said of the training.
    """
    split = FINAL_SPLIT if splits.final else "validation"
    dataset = recipe.data.dataset
    gold, predicted = trainer.compute_metrics.decoded(trainer.predict(final, metric_key_prefix=split))
    contract = Contract(str(output), dataset, split, len(gold), fingerprint(gold), "free")
    evaluated = EvaluationResult(contract, gold, predicted, splits.labels, splits.annotated)
    state = trainer.state
    training = {
        "model": recipe.model.model_name_or_path,
        "dataset": dataset,
        "data_fingerprint": trainer.ner_config.data_fingerprint,
        "train_rows": len(trainer.train_dataset),
        "steps": state.global_step,
        "skipped_steps": trainer.skipped,
        "validation": {"rows": len(splits.validation), "best": state.best_metric, "step": state.best_global_step},
        "train_loss": state.log_history[-1].get("train_loss"),
    }
    with trainer.gathered() as model:  # all ranks take part in that
        extractor = Extractor(model, trainer.processing_class, trainer.ner_config)
    if trainer.is_world_process_zero():
        extractor, judged = calibrated(extractor, splits.validation)
        extractor.config.save(output)
        of = {"of": "the validation rows, to which they were fitted"}
        evaluated = replace(evaluated, confidence=summary(judged) | of)
        training["seconds"] = round(time.monotonic() - started, 1)
        write_report(evaluated, output, training=training, history=state.log_history)
        print(evaluated.table())
        for text, entities in zip(recipe.data.examples, extractor.extract(recipe.data.examples), strict=True):
            found = " · ".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)
            print(f"\n{text}\n  {found or 'no entity'}")
        print(f"\nreport: {output / 'report.html'}")
        if recipe.model.model_name_or_path == "tiny" or dataset == "sample":
            print(TOY)
    return {**evaluated.scores.to_dict(), "training": training}


def calibrated(extractor: Extractor, held_out: Sequence[Example]) -> tuple[Extractor, list[Judged]]:
    """`extractor` with the calibration that what it writes for `held_out` calls for, and that writing judged by it."""
    predicted = extractor.predict([example.text for example in held_out], progress=True)
    judged = list(extractor.judged(held_out, predicted))
    gold = Counter(label for example in held_out for label, _ in example.surfaces)
    calibration = fit_calibration(judged, gold)
    config = replace(extractor.config, calibration=calibration.to_dict())
    after = [replace(one, confidence=calibration.of(one.confidence)) for one in judged]
    return Extractor(extractor.model, extractor.tokenizer, config), after
