"""The wandb run of a training: what matters in NER, and nothing that can stop the training.

In: a recipe, a trainer and its splits. Out: config, history, summary, tables and plots, artifacts. Scalars have the
Trainer's names. Knows nothing of how the predictions were made.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from transformers import TrainerState, TrainingArguments
from transformers.integrations import WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from ...codec import Decoded
from ...entities import Entity
from ...evaluation.errors import Error, error_count
from ...evaluation.result import EvaluationResult
from ..batches.collate import IGNORED
from ..loop.checkpoints import checkpoint_of
from ..loop.trainer import NerTrainer
from ..preparation import Splits
from ..recipe import Recipe
from .wandb_names import best_of, one_line, project, run_name, without_token

log = logging.getLogger(__name__)

INIT_TIMEOUT, FINISH_TIMEOUT, UPLOAD_TIMEOUT = 20.0, 60.0, 3600.0
"""Seconds for wandb's server to answer at the start, to take what is left at the end, and the same with a model.
wandb's own limits are 90 and none, while all GPUs wait. WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT override ours."""

PATIENCE = 10.0
"""Seconds that logging tables may take."""

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.yaml")
REPORT_FILES = ("report.html", "metrics.json", "predictions.jsonl", "errors.jsonl", "recipe.yaml")

WORST = 50
"""Maximum number of rows in the table."""

WORST_COLUMNS = ("text", "gold", "predicted", "errors", "wrong", "source")


class WandbTracking(WandbCallback):
    """The Trainer's own callback, plus the recipe, the tables and plots of each evaluation, and the best scores.

    WANDB_LOG_MODEL means what it means there, but uploads the folder that extraction opens, and the report.
    """

    _wandb: Any
    _log_model: WandbLogModel

    def __init__(self, recipe: Recipe, trainer: NerTrainer, splits: Splits, split: str) -> None:
        super().__init__()
        self.recipe, self.trainer, self.splits, self.split = recipe, trainer, splits, split
        # The Trainer's own callback would upload a folder without ner_config.json.
        self.uploads, self._log_model = self._log_model, WandbLogModel.FALSE
        self._run: Any = None
        self._tables = True
        for event in ("on_train_begin", "on_log", "on_save", "on_train_end", "on_predict", "upload_results"):
            setattr(self, event, self._guarded(getattr(self, event)))

    def _guarded(self, event: Callable[..., None]) -> Callable[..., None]:
        """`event`, which ends the tracking where it fails, not the training."""

        @functools.wraps(event)
        def guarded(*args: Any, **kwargs: Any) -> None:
            if self._wandb is None:
                return
            try:
                event(*args, **kwargs)
            except Exception as error:
                self._give_up(error)

        return guarded

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        if self._wandb.run is None:
            self._run = self._start(args)
        super().setup(args, state, model, **kwargs)
        self._wandb.config.update(self._config(), allow_val_change=True)

    def _start(self, args: TrainingArguments) -> Any:
        """A run on the server; if wandb cannot start, one on disk, with a warning."""
        sys.argv[:] = without_token(sys.argv)  # wandb keeps the command with the run
        finish = UPLOAD_TIMEOUT if self.uploads.is_enabled else FINISH_TIMEOUT
        limits = {"init_timeout": INIT_TIMEOUT, "finish_timeout": finish}
        settings = {key: value for key, value in limits.items() if f"WANDB_{key.upper()}" not in os.environ}
        options: dict[str, Any] = {"project": project(args), "name": run_name(args, os.environ), "settings": settings}
        try:
            return self._wandb.init(**options)
        except Exception as error:
            run = self._wandb.init(**options, mode="offline")
            entity = os.environ.get("WANDB_ENTITY")
            log.warning(
                "wandb could not start for project %s at %s (%s). Training continues and its run is kept on disk; "
                "log in with `wandb login` or WANDB_API_KEY, check that WANDB_ENTITY and WANDB_PROJECT exist and "
                "whether the server can be reached, then send it with: wandb sync %s",
                f"{entity}/{project(args)}" if entity else project(args),
                urlsplit(run.settings.base_url).netloc,
                *(one_line(error), run.settings.sync_dir),
            )
            return run

    def _config(self) -> dict[str, Any]:
        """The recipe's keys that are not the Trainer's, and facts about the data."""
        return {
            **asdict(self.recipe.data),
            **asdict(self.recipe.model),
            "data": {
                "fingerprint": self.trainer.ner_config.data_fingerprint,
                "label_names": list(self.splits.labels.names),
                "train_rows": len(self.trainer.train_dataset),
                "validation_rows": len(self.splits.validation),
                f"{self.splits.final_name}_rows": len(self.splits.final),
            },
        }

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: Any, model: Any = None, logs: Any = None, **_: Any
    ) -> None:
        super().on_log(args, state, control, model, logs)
        if "eval_span_f1" not in (logs or {}):
            return
        best = best_of(state.log_history, args.metric_for_best_model, args.greater_is_better is not False)
        self._wandb.run.summary.update({f"best/{name}": value for name, value in best.items()})
        if self._tables and state.global_step in (0, best["step"]):  # the last ones logged are the best model's
            self._log_tables("validation", "eval", state.global_step)

    def on_predict(self, args: Any, state: TrainerState, control: Any, metrics: dict[str, float], **_: Any) -> None:
        """The final scores go to the summary: they belong to the run, not to a step."""
        scores = {f"{self.split}/{key.removeprefix(f'{self.split}_')}": metrics[key] for key in metrics}
        self._wandb.run.summary.update(scores)
        self._log_tables(self.split, self.split, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **_: Any) -> None:
        if self.uploads == WandbLogModel.CHECKPOINT:
            folder = checkpoint_of(args.output_dir, state.global_step)
            self._upload("model", [folder], [f"checkpoint_global_step_{state.global_step}"])

    def upload_results(self) -> None:
        """Upload the model's folder and the report as artifacts, if WANDB_LOG_MODEL asks for the model."""
        if self.uploads.is_enabled:
            output = Path(self.trainer.args.output_dir)
            report = [output / name for name in REPORT_FILES]
            model = {path for pattern in MODEL_FILES for path in output.glob(pattern)} - set(report)
            self._upload("model", sorted(model), ["final_model"])
            self._upload("report", [path for path in report if path.is_file()], [])

    def finish(self, exit_code: int) -> None:
        """End the run, if we started it."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code)
        except Exception as error:
            self._give_up(error)
            # The interpreter would end it with a traceback, and this process's next training would log to it.
            import wandb

            with contextlib.suppress(Exception):
                wandb.teardown()
            wandb.run = None

    def _upload(self, kind: str, paths: Sequence[Path], aliases: list[str]) -> None:
        """Upload files, or the content of folders, as one artifact."""
        name = re.sub(r"[^\w.-]", "-", f"{kind}-{self._wandb.run.name or self._wandb.run.id}", flags=re.ASCII)
        scores = {key: value for key, value in dict(self._wandb.run.summary).items() if isinstance(value, (int, float))}
        artifact = self._wandb.Artifact(name, type=kind, metadata=scores)
        for path in paths:
            add = artifact.add_dir if path.is_dir() else artifact.add_file
            add(str(path))
        self._wandb.run.log_artifact(artifact, aliases=["latest", *aliases])

    def _give_up(self, error: Exception) -> None:
        if self._wandb is None:
            return
        self._wandb = None
        kept = f"; send what was logged so far with: wandb sync {self._run.settings.sync_dir}" if self._run else ""
        log.warning("wandb stopped working (%s). Training continues without it%s", one_line(error), kept)

    def _log_tables(self, split: str, name: str, step: int) -> None:
        """Log `_media` under `name`.

        For a table, unlike for anything else, wandb waits for its server. After one that took too long, only the final
        tables are tried.
        """
        media = {f"{name}/{key}": value for key, value in self._media(split).items()}
        started, failed = time.monotonic(), ""
        try:
            self._wandb.log({**media, "train/global_step": step})
        except Exception as error:
            failed = f" and failed ({one_line(error)})"
        waited = time.monotonic() - started
        if self._tables and (failed or waited > PATIENCE):
            self._tables = False
            log.warning(
                "wandb took %.0f s to log its tables at step %d%s. Training continues, with no more tables until the "
                "final ones; check whether the server can be reached",
                *(waited, step, failed),
            )

    def _media(self, split: str) -> dict[str, Any]:
        """Worst rows, confusion matrix and answer lengths of what was generated last, the rows of `split`."""
        metrics, output = self.trainer.compute_metrics, self.trainer.args.output_dir
        evaluated = metrics.evaluated(metrics.last, output, self.recipe.data.dataset, split)
        counts = [[*labels, n] for labels, n in evaluated.tally.confusion.items()]
        columns = ["Actual", "Predicted", "nPredictions"]  # the names that wandb's chart reads
        return {
            "worst_predictions": self._wandb.Table(columns=list(WORST_COLUMNS), data=worst_rows(evaluated)),
            "confusion": self._wandb.plot_table(
                "wandb/confusion_matrix/v1",
                self._wandb.Table(columns=columns, data=counts),
                dict(zip(columns, columns, strict=True)),
                {"title": f"Gold and predicted labels, {split}"},
            ),
            "answer_tokens": self._wandb.Histogram((np.asarray(metrics.last.predictions) != IGNORED).sum(axis=1)),
        }


def worst_rows(evaluated: EvaluationResult) -> list[list[Any]]:
    """The rows with the most false positives and negatives, in falling order, as cells under `WORST_COLUMNS`."""
    rows = []
    for gold, predicted, errors in islice(evaluated.rows_with_errors(), WORST):
        kinds = "\n".join(map(_error, errors))
        entities = _entities(gold.entities)
        rows.append([gold.text, entities, _predictions_of(predicted), kinds, error_count(errors), gold.source])
    return rows


def _entities(entities: Sequence[Entity]) -> str:
    return "\n".join(f"{e.label} {e.text} [{e.start}, {e.end})" for e in entities)


def _predictions_of(decoded: Decoded) -> str:
    """Entities, surfaces without a place in the text, and problems of the completion."""
    ungrounded = [f"{label} {surface} [-]" for label, surface in decoded.ungrounded]
    problems = [f"({problem.kind})" for problem in decoded.problems]
    return "\n".join([*filter(None, [_entities(decoded.entities)]), *ungrounded, *problems])


def _error(error: Error) -> str:
    written = " ".join(error.written) if error.written else ""
    sides = [_entities([side]) for side in (error.gold, error.predicted) if side]
    return f"{error.kind}: {' ≠ '.join(sides) or written}"
