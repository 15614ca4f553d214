"""A stop that all ranks make at the same step, one for scores that no longer rise, and which of them is the best."""

import logging
import math
import signal
from types import SimpleNamespace

import pytest
import torch
from rows import EIGHT
from transformers import TrainerControl, TrainerState

from qwen_ner.contract import NerConfig
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.training.batches.collate import PaddedCollator
from qwen_ner.training.loop.callbacks import StopOnSignal
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import NerTrainingArguments


def test_a_signal_that_comes_while_the_ranks_agree_is_for_the_next_step(monkeypatch):
    """This rank has told the others that there is none: it must neither stop alone nor forget it."""
    stop, args = StopOnSignal(), SimpleNamespace(world_size=2, device="cpu")
    arriving = [signal.SIGTERM]

    def all_reduce(flag, op):
        if arriving:
            stop._on_signal(arriving.pop(), None)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    stops = []
    for _ in range(2):
        control = TrainerControl()
        stop.on_step_end(args, TrainerState(epoch=0.5), control)
        stops.append((control.should_save, stop.received))
    assert stops == [(False, 0), (True, signal.SIGTERM)]


@pytest.fixture
def train(tiny, tokenizer, codec, tmp_path):
    """A function: train one row a step, at most six steps, with these scores after each. Returns the trainer."""

    def train(scores, **options):
        coming = iter(scores)
        rows = build_dataset(EIGHT[:6], codec, tokenizer)
        args = NerTrainingArguments(
            output_dir=str(tmp_path / "out"),
            **{
                "use_cpu": True, "learning_rate": 1e-3, "per_device_train_batch_size": 1, "num_train_epochs": 1, "seed": 3,
                "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2,
                "report_to": "none", "disable_tqdm": True, "resume_from_checkpoint": "none", **options,
            },
        )  # fmt: skip
        trainer = NerTrainer(
            model=load_model(str(tiny)), args=args, ner_config=NerConfig(CLUENER, codec.system_prompt, 2, (2, 0)),
            processing_class=tokenizer, data_collator=PaddedCollator(tokenizer.pad_token_id), train_dataset=rows,
            eval_dataset=rows, compute_metrics=lambda _: {"f1": next(coming), "tp": 1, "fp": 0, "fn": 1, "rows": 6},
        )  # fmt: skip
        trainer.train()
        return trainer

    return train


def losses(trainer):
    """{step: validation loss}."""
    return {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}


def stop_lines(caplog):
    return [record.getMessage() for record in caplog.records if "Early stopping" in record.getMessage()]


def test_patience_begins_with_the_first_score_above_0(train, caplog):
    with caplog.at_level(logging.INFO):
        trainer = train([0, 0, 0.25, 0.125, 0.25, 1], early_stopping_patience=2)
    assert (trainer.state.global_step, trainer.state.best_metric) == (5, 0.25)
    (line,) = stop_lines(caplog)
    assert "at step 5 of 6: the best f1 is 0.25, of step 3, and 2 evaluations" in line


def test_a_score_that_stays_0_trains_to_the_end_and_keeps_the_lowest_loss(train, caplog):
    with caplog.at_level(logging.INFO):
        trainer = train([0] * 6, early_stopping_patience=1)
    found = losses(trainer)
    assert len(found) == 6
    assert trainer.state.best_global_step == min(found, key=found.get) != 1, "the loss falls"
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{trainer.state.best_global_step}")
    assert trainer.state.best_metric == 0
    assert stop_lines(caplog) == [], "it came to its end"


def test_a_score_of_0_after_others_counts(train):
    assert train([0.5, 0, 0, 1, 1, 1], early_stopping_patience=2).state.global_step == 3


def test_of_equal_scores_the_lowest_loss_is_the_best_and_resets_no_patience(train):
    trainer = train([0.5] * 6, early_stopping_patience=3)
    found = losses(trainer)
    assert len(found) == 4
    assert trainer.state.best_global_step == min(found, key=found.get) != 1
    assert trainer.state.best_metric == 0.5


def test_of_equal_scores_and_losses_the_first_is_kept(train):
    trainer = train([0.5] * 6, learning_rate=0.0)
    assert len(set(losses(trainer).values())) == 1
    assert trainer.state.best_global_step == 1


def test_a_higher_loss_does_not_outweigh_a_higher_score(train):
    trainer = train([0.5, 0.25, 0.75, 0.5, 0.5, 0.5])
    assert trainer.state.best_global_step == 3


def test_a_loss_that_decides_is_patient_from_the_first_evaluation_on(train, caplog):
    with caplog.at_level(logging.INFO):
        trainer = train([0] * 6, metric_for_best_model="loss", early_stopping_patience=2, learning_rate=0.0)
    assert trainer.state.global_step == 3
    assert math.isclose(trainer.state.best_metric, losses(trainer)[1])
    assert "the best loss is" in stop_lines(caplog)[0]


def test_an_evaluation_before_the_first_step_is_called_so(train, capsys):
    train([0, *[1] * 6], eval_on_start=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "validation" in line]
    assert lines[0].startswith("step 0/6 · validation · before training · loss ")
    assert not any("before training" in line for line in lines[1:])
