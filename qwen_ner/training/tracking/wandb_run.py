"""The wandb run of a training: what one looks for in NER, and never anything that stops the training.

In: a recipe, a trainer at work and its splits. Out: config, history, summary, tables and plots, artifacts. Scalars are
named as the Trainer names them. Knows nothing of how the predictions were made.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from ...entities import fingerprint
from ...evaluation.result import EvaluationResult
from ...evaluation.table import Contract
from ...evaluation.worst import WORST_COLUMNS, worst_rows
from ..batches.collate import IGNORED
from ..loop.trainer import NerTrainer
from ..preparation import FINAL_SPLIT, Splits
from ..recipe import Recipe

log = logging.getLogger(__name__)

PROJECT = "qwen-ner"
"""Where neither WANDB_PROJECT nor the recipe's `project` names one."""

INIT_TIMEOUT, FINISH_TIMEOUT, UPLOAD_TIMEOUT = 20.0, 60.0, 3600.0
"""Seconds: for wandb's server to answer at the start, for what is left to be sent at the end, the same with a model.
wandb's own are 90 and no limit, paid with all GPUs; WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT are others."""

PATIENCE = 10.0
"""Seconds that tables may take to be logged."""

FOLDER_OF_A_MODEL = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.yaml")
REPORT = ("report.html", "metrics.json", "predictions.jsonl", "errors.jsonl", "recipe.yaml")


def without_token(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be shown to others.

    >>> without_token(["train", "x.yaml", "--hub_token", "hf_x", "--hub-token=hf_y", "--seed", "1"])
    ['train', 'x.yaml', '--hub_token', '***', '--hub-token=***', '--seed', '1']
    """
    names = ("--hub_token", "--hub-token")
    behind = ["", *arguments]
    return [
        "***" if before in names else re.sub(r"^(--hub[_-]token=).*", r"\1***", argument, flags=re.S)
        for before, argument in zip(behind, arguments, strict=False)
    ]


def _never_stops(event: Callable[..., None]) -> Callable[..., None]:
    """An event of a `WandbTracking` whose failure ends the tracking, not the training."""

    @functools.wraps(event)
    def guarded(self: WandbTracking, *args: Any, **kwargs: Any) -> None:
        if self._wandb is None:
            return
        try:
            event(self, *args, **kwargs)
        except Exception as error:
            self._give_up(error)

    return guarded


class WandbTracking(WandbCallback):
    """The Trainer's own callback, and with it the recipe, tables and plots of each evaluation, and the best of them.

    WANDB_LOG_MODEL means what it means there; the model is the folder that extraction opens, and the report goes along.
    """

    _wandb: Any
    _log_model: WandbLogModel

    def __init__(self, recipe: Recipe, trainer: NerTrainer, splits: Splits, split: str) -> None:
        super().__init__()
        self.recipe, self.trainer, self.splits, self.split = recipe, trainer, splits, split
        # What the Trainer's own would upload is written by a plain Trainer, without ner_config.json.
        self.uploads, self._log_model = self._log_model, WandbLogModel.FALSE
        self._run: Any = None
        self._shows = True

    @_never_stops
    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_begin(*args, **kwargs)

    @_never_stops
    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_end(*args, **kwargs)

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self._wandb.run is None:
            self._run = self._start(args)
        super().setup(args, state, model, **kwargs)
        if not state.is_world_process_zero:
            return
        self._wandb.config.update(self._config(), allow_val_change=True)
        rows = self.trainer.train_dataset
        lengths = {name: [len(ids) for ids in rows[f"{name}_ids"]] for name in ("prompt", "answer")}
        histograms = {f"data/{name}_tokens": self._histogram(of) for name, of in lengths.items()}
        self._wandb.log({**histograms, "train/global_step": state.global_step})

    def _start(self, args: TrainingArguments) -> Any:
        """A run on the server, or where that cannot be had one on the disk, which is said."""
        sys.argv[:] = without_token(sys.argv)  # wandb keeps the command with the run
        options: dict[str, Any] = {"project": project(args), "name": run_name(args, os.environ)}
        limits = {
            "init_timeout": INIT_TIMEOUT,
            "finish_timeout": UPLOAD_TIMEOUT if self.uploads.is_enabled else FINISH_TIMEOUT,
        }
        settings = {key: value for key, value in limits.items() if f"WANDB_{key.upper()}" not in os.environ}
        try:
            return self._wandb.init(**options, settings=settings)
        except Exception as error:
            run = self._wandb.init(**options, settings=settings, mode="offline")
            entity = os.environ.get("WANDB_ENTITY")
            log.warning(
                "wandb could not start for project %s at %s (%s). The training goes on, and its run is kept on disk; "
                "%s, then send it with: wandb sync %s",
                f"{entity}/{options['project']}" if entity else options["project"],
                urlsplit(run.settings.base_url).netloc,
                _one_line(error),
                remedy(error),
                run.settings.sync_dir,
            )
            return run

    def _config(self) -> dict[str, Any]:
        """The recipe's keys that are not the Trainer's, and what is known of the data."""
        return {
            **asdict(self.recipe.data),
            **asdict(self.recipe.model),
            "data": {
                "fingerprint": self.trainer.ner_config.data_fingerprint,
                "label_names": list(self.splits.labels.names),
                "train_rows": len(self.trainer.train_dataset),
                "validation_rows": len(self.splits.validation),
                f"{FINAL_SPLIT}_rows": len(self.splits.final),
            },
        }

    @_never_stops
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_log(args, state, control, model, logs, **kwargs)
        if not state.is_world_process_zero or "eval_span_f1" not in (logs or {}):
            return
        best = best_of(state.log_history, args.metric_for_best_model, args.greater_is_better is not False)
        self._wandb.run.summary.update({f"best/{name}": value for name, value in best.items()})
        if self._shows and state.global_step in (0, best["step"]):  # those of the last such step are the best model's
            self._show("validation", "eval", state.global_step)

    @_never_stops
    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        """The final scores: of the run, not of a step."""
        if state.is_world_process_zero and self._wandb.run is not None:
            prefix = f"{self.split}_"
            scores = {f"{self.split}/{name.removeprefix(prefix)}": value for name, value in metrics.items()}
            self._wandb.run.summary.update(scores)
            self._show(self.split, self.split, state.global_step)

    @_never_stops
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.uploads == WandbLogModel.CHECKPOINT and self._wandb.run is not None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._upload("model", [folder], [f"checkpoint_global_step_{state.global_step}"])

    @_never_stops
    def upload_results(self) -> None:
        """The model's folder and the report as artifacts, where WANDB_LOG_MODEL asks for the model."""
        if self.uploads.is_enabled and self.trainer.is_world_process_zero() and self._wandb.run is not None:
            output = Path(self.trainer.args.output_dir)
            report = [output / name for name in REPORT]
            model = {path for pattern in FOLDER_OF_A_MODEL for path in output.glob(pattern)} - set(report)
            self._upload("model", sorted(model), ["final_model"])
            self._upload("report", [path for path in report if path.is_file()], [])

    def finish(self, exit_code: int) -> None:
        """End the run, if it is ours."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code)
        except Exception as error:
            self._give_up(error)
            self._tear_down()

    def _tear_down(self) -> None:
        """Let go of a wandb that is dead.

        The interpreter would try to end it at its own end, with a traceback, and the next training of this process
        would log to it.
        """
        import wandb

        with contextlib.suppress(Exception):
            wandb.teardown()
        wandb.run = None

    def _upload(self, kind: str, paths: Sequence[Path], aliases: list[str]) -> None:
        """As one artifact: files, or what is in a folder."""
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
        kept = f", and what it was told is sent with: wandb sync {self._run.settings.sync_dir}" if self._run else ""
        log.warning("wandb stopped working (%s). The training goes on without it%s", _one_line(error), kept)

    def _show(self, split: str, name: str, step: int) -> None:
        """Log `_pictures` under `name`.

        wandb asks its server about each table and waits for an answer, unlike with all else. Where none comes, the
        training waits no second time: only the final tables are tried again.
        """
        pictures = {f"{name}/{key}": value for key, value in self._pictures(split).items()}
        started, failed = time.monotonic(), None
        try:
            self._wandb.log({**pictures, "train/global_step": step})
        except Exception as error:
            failed = _one_line(error)
        waited = time.monotonic() - started
        if self._shows and (failed or waited > PATIENCE):
            self._shows = False
            log.warning(
                "wandb took %.0f s over its tables at step %d%s. The training goes on, and gives it no more tables but "
                "those of the final rows; see whether its server can be reached",
                waited,
                step,
                f" and failed ({failed})" if failed else "",
            )

    def _pictures(self, split: str) -> dict[str, Any]:
        """Of what was generated last, the rows of `split`: its worst rows, confusion matrix and lengths."""
        metrics = self.trainer.compute_metrics
        gold, predicted = metrics.decoded(metrics.last)
        data, output = self.recipe.data.dataset, self.trainer.args.output_dir
        contract = Contract(output, data, split, len(gold), fingerprint(gold), "free")
        evaluated = EvaluationResult(contract, gold, predicted, self.splits.labels)
        counts = [[label, given, n] for label, row in evaluated.tally.confusion.items() for given, n in row.items()]
        columns = ["Actual", "Predicted", "nPredictions"]  # the names that wandb's chart reads
        return {
            "worst_predictions": self._wandb.Table(columns=list(WORST_COLUMNS), data=worst_rows(evaluated)),
            "confusion": self._wandb.plot_table(
                "wandb/confusion_matrix/v1",
                self._wandb.Table(columns=columns, data=counts),
                dict(zip(columns, columns, strict=True)),
                {"title": f"Gold and predicted labels, {split}"},
            ),
            "answer_tokens": self._histogram((np.asarray(metrics.last.predictions) != IGNORED).sum(axis=1).tolist()),
        }

    def _histogram(self, lengths: Sequence[int]) -> Any:
        """Bins of whole tokens: as many as there are lengths, 64 at most."""
        low, high = min(lengths), max(lengths) + 1
        edges = np.arange(low, high + 1, max(1, -(-(high - low) // 64)))
        edges = edges if edges[-1] == high else np.append(edges, high)
        return self._wandb.Histogram(np_histogram=np.histogram(lengths, bins=edges))


def best_of(history: Sequence[Mapping[str, Any]], metric: str | None, greater: bool = True) -> dict[str, float]:
    """step, f1, span_f1 and macro_f1 of the evaluation whose weights the Trainer keeps, from its `log_history`.

    As there: the first of equals, and never the one before the first step where there is another.

    >>> scores = {"eval_span_f1": 0.5, "eval_macro_f1": 0.5}
    >>> best_of([{"eval_f1": f1, "step": step, **scores} for step, f1 in enumerate([0.9, 0.6, 0.6])], "f1")
    {'step': 1, 'f1': 0.6, 'span_f1': 0.5, 'macro_f1': 0.5}
    """
    scored = [entry for entry in history if "eval_span_f1" in entry]
    trained = [entry for entry in scored if entry["step"]] or scored
    if not trained:
        return {}
    key = f"eval_{(metric or 'f1').removeprefix('eval_')}"
    best = (max if greater else min)(trained, key=lambda entry: entry[key])
    return {"step": best["step"], **{name: best[f"eval_{name}"] for name in ("f1", "span_f1", "macro_f1")}}


def project(args: TrainingArguments) -> str:
    """WANDB_PROJECT, or the recipe's `project` (whose default in transformers is huggingface), or ours."""
    given = args.project if args.project != "huggingface" else PROJECT
    return os.environ.get("WANDB_PROJECT") or given


def run_name(args: TrainingArguments, env: Mapping[str, str]) -> str | None:
    """The recipe's `run_name`, or the output folder's name. None where wandb has one: trials of a sweep, WANDB_NAME."""
    if env.get("WANDB_SWEEP_ID"):
        return None
    return args.run_name or (None if env.get("WANDB_NAME") else Path(args.output_dir).resolve().name)


def remedy(error: Exception) -> str:
    """What to do about a wandb that did not start."""
    said = str(error).lower()
    if any(word in said for word in ("api key", "api_key", "log in", "logged in", "login", "401", "unauthorized")):
        return "log in with `wandb login` or WANDB_API_KEY"
    if any(word in said for word in ("timed out", "timeout", "dial tcp", "connection", "no such host")):
        return "see whether the server can be reached (WANDB_BASE_URL, proxies)"
    return "see whether WANDB_ENTITY and WANDB_PROJECT exist and your login (`wandb login`) may write there"


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())
