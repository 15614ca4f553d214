"""What a training ends with: scores on the final split, `metrics.json`, and what is said on the terminal.

In: a trainer at its best checkpoint. Out: the dict that `metrics.json` holds. Knows nothing of how it was trained.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..contract import write_json
from ..entities import Example
from ..evaluation.scoring import score
from ..evaluation.table import table
from ..inference.calibration import fit_calibration
from ..inference.extractor import Extractor
from .preflight import FINAL_SPLIT, Splits
from .recipe import Recipe
from .trainer import NerTrainer

TOY = """
This was a toy model on made-up data: it shows the way, not how good a Qwen is. For the real thing, on one or four GPUs:
  accelerate launch --config_file accelerate_configs/single_gpu.yaml recipes/lora.yaml
  accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/full_ft.yaml"""


def report(
    trainer: NerTrainer, recipe: Recipe, splits: Splits, final: Dataset, output: Path, started: float
) -> dict[str, Any]:
    """Score the final split (the validation rows where there is none), write `metrics.json`, print table and examples.

    Every rank takes part in scoring; the first writes and prints. `seconds` count from `started`, a time.time().
    """
    split = FINAL_SPLIT if splits.final else "validation"
    name, dataset = recipe.model.model_name_or_path, recipe.data.dataset
    prediction = trainer.predict(final, metric_key_prefix=split)
    gold, predicted = trainer.compute_metrics.decoded(prediction)
    scores = score(gold, predicted, splits.labels, train=splits.seen)
    state = trainer.state
    result = {
        "model": name,
        "dataset": dataset,
        "data_fingerprint": trainer.ner_config.data_fingerprint,
        "train_rows": len(trainer.train_dataset),
        "steps": state.global_step,
        "validation": {"rows": len(splits.validation), "best": state.best_metric, "step": state.best_global_step},
        "train_loss": state.log_history[-1].get("train_loss"),
        split: scores.to_dict(),
        "seconds": round(time.time() - started, 1),
    }
    if trainer.is_world_process_zero():
        write_json(output / "metrics.json", result)
        print(table(scores, title=f"{name} on {dataset} {split}"))
        model = trainer.accelerator.unwrap_model(trainer.model)
        extractor = calibrated(Extractor(model, trainer.processing_class, trainer.ner_config), splits.validation)
        extractor.config.save(output)
        calibration = extractor.calibration
        print(
            f"confidence, fitted to {calibration.surfaces:,} surfaces of the validation rows: calibration error "
            f"{calibration.error_before:.3f} before, {calibration.error_after:.3f} after"
        )
        for text, entities in zip(recipe.data.examples, extractor.extract(recipe.data.examples), strict=True):
            found = " · ".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)
            print(f"\n{text}\n  {found or 'no entity'}")
        if name == "tiny" or dataset == "sample":
            print(TOY)
    return result


def calibrated(extractor: Extractor, held_out: Sequence[Example]) -> Extractor:
    """`extractor` with the calibration that what it writes for `held_out` calls for."""
    predicted = extractor.predict([example.text for example in held_out], progress=True)
    gold = Counter(label for example in held_out for label, _ in example.surfaces)
    calibration = fit_calibration(extractor.judged(held_out, predicted), gold)
    config = replace(extractor.config, calibration=calibration.to_dict())
    return Extractor(extractor.model, extractor.tokenizer, config)
