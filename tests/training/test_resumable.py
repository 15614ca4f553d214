"""A training that is stopped at some moment ends, by the same command, as one that was not."""

import os
import signal
from contextlib import contextmanager

import pytest
from kills import differences, small_recipe

from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train
from qwen_ner.training.trainer import NerTrainer


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, trained):
    return small_recipe(tmp_path_factory.mktemp("recipe"), trained["full"])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """More would wait for each other beside other work."""
    monkeypatch.setattr("qwen_ner.training.run.use_cores", lambda args: None)


STEPS = ["--eval_strategy", "steps", "--eval_steps", "5", "--save_strategy", "steps", "--save_steps", "5"]
PATIENT = [*STEPS, "--early_stopping_patience", "1", "--learning_rate", "0"]


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    """A function of options: the folder of a training with them."""
    done = {}

    def of(*options):
        if options not in done:
            done[options] = tmp_path_factory.mktemp("uninterrupted")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("qwen_ner.training.run.use_cores", lambda args: None)
                train(load_recipe(recipe, [*options, "--output_dir", str(done[options])]))
        return done[options]

    return of


@contextmanager
def at(method, n, what=lambda: os.kill(os.getpid(), signal.SIGTERM)):
    """Do something in the n-th call of a method of the trainer."""
    stock, calls = getattr(NerTrainer, method), []

    def called(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            what()
        return stock(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NerTrainer, method, called)
        yield


IN_A_STEP, IN_ITS_LAST_STEP = ("training_step", 4), ("training_step", 8)
IN_AN_EVALUATION, IN_A_SAVE = ("prediction_step", 2), ("_save_checkpoint", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "moment"),
    [
        pytest.param([], IN_A_STEP, id="epochs: a step"),
        pytest.param([], IN_ITS_LAST_STEP, id="epochs: the last step of one"),
        pytest.param([], IN_AN_EVALUATION, id="epochs: an evaluation"),
        pytest.param(STEPS, ("training_step", 10), id="steps: one that is to be evaluated"),
        pytest.param(STEPS, IN_A_SAVE, id="steps: a save"),
        pytest.param(PATIENT, IN_AN_EVALUATION, id="patience: an evaluation"),
        pytest.param(
            [*STEPS, "--eval_on_start", "true"], ("prediction_step", 4), id="evaluated at first: an evaluation"
        ),
        pytest.param(["--train_sampling_strategy", "group_by_length"], ("training_step", 10), id="by length: a step"),
        pytest.param(["--save_total_limit", "1"], ("training_step", 12), id="one checkpoint kept: a step"),
    ],
)
def test_a_stop_leaves_no_trace(recipe, uninterrupted, tmp_path, options, moment):
    whole = uninterrupted(*options)
    command = [*options, "--output_dir", str(tmp_path)]
    with at(*moment), pytest.raises(KeyboardInterrupt, match="stopped at step"):
        train(load_recipe(recipe, command))
    assert not (tmp_path / "metrics.json").exists()
    train(load_recipe(recipe, command))
    assert differences(tmp_path, whole) == []
    assert not list(tmp_path.glob(".*.partial"))
