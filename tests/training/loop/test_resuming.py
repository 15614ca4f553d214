"""A training that is stopped at some moment ends, by the same command, as one that was not."""

import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from kills import differences, small_recipe
from rows import ROOT
from torch.utils.data import BatchSampler
from transformers import TrainerControl, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from warm_python import warm_python

from qwen_ner.entities import NerError
from qwen_ner.training.loop.checkpoints import UNFINISHED, in_order
from qwen_ner.training.loop.manifest import MANIFEST, fault_of, write_manifest
from qwen_ner.training.loop.resuming import Resumption
from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, trained):
    return small_recipe(tmp_path_factory.mktemp("recipe"), trained["full"], steps=12)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """More would wait for each other beside other work."""
    monkeypatch.setattr("qwen_ner.training.run.use_cores", lambda args: None)


STEPS = ["--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4"]
PATIENT = [*STEPS, "--early_stopping_patience", "1", "--learning_rate", "0"]
NONE_RIGHT = [*STEPS, "--early_stopping_patience", "1", "--max_new_tokens", "2"]


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


IN_A_STEP, IN_A_LATER_EPOCH, IN_AN_EVALUATION = ("training_step", 5), ("training_step", 10), ("prediction_step", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "moment"),
    [
        pytest.param([], IN_A_STEP, id="epochs: a step"),
        pytest.param([], ("training_step", 8), id="epochs: the last step of one"),
        pytest.param([], IN_AN_EVALUATION, id="epochs: an evaluation"),
        pytest.param(STEPS, ("training_step", 4), id="steps: one that is to be evaluated"),
        pytest.param([*STEPS, "--save_strategy", "best"], ("training_step", 6), id="best: a step"),
        pytest.param(PATIENT, IN_AN_EVALUATION, id="patience: an evaluation"),
        pytest.param(NONE_RIGHT, ("prediction_step", 5), id="patience at f1 0: an evaluation"),
        pytest.param(["--train_sampling_strategy", "group_by_length"], IN_A_LATER_EPOCH, id="by length: a later epoch"),
        pytest.param(["--save_total_limit", "1"], IN_A_LATER_EPOCH, id="one checkpoint kept: a later epoch"),
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


def test_rows_grouped_by_length_come_in_one_order_on_any_number_of_processes():
    """As many rows per step: a checkpoint in mid-epoch goes on with the rows that are left."""
    chance = random.Random(0)
    lengths = [chance.randint(20, 200) for _ in range(900)]
    orders = []
    for rows, accumulated, processes in ((4, 1, 1), (2, 1, 2), (1, 2, 2)):
        sampler = LengthGroupedSampler(rows * accumulated, lengths=lengths)
        args = SimpleNamespace(
            seed=1, data_seed=None, train_batch_size=rows, gradient_accumulation_steps=accumulated, world_size=processes
        )
        loader = SimpleNamespace(batch_sampler=BatchSampler(sampler, rows, drop_last=False))
        state, control = TrainerState(epoch=2, max_steps=9), TrainerControl()
        Resumption(trainer=None).on_epoch_begin(args, state, control, train_dataloader=loader)
        orders.append(list(sampler))
    assert sorted(orders[0]) == list(range(900))
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.slow
@pytest.mark.parametrize("given", [["--save_only_model", "true"], ["--resume_from_checkpoint", "none"]])
def test_the_command_that_a_stopped_training_names_goes_on(recipe, tmp_path, caplog, given):
    command = [*given, "--output_dir", str(tmp_path)]
    with at("training_step", 5), pytest.raises(KeyboardInterrupt) as stopped:
        train(load_recipe(recipe, command))
    named = re.search("run the same command with (.*): (.*)", str(stopped.value))
    goes_on = named[2] == "it goes on from the last whole checkpoint"
    assert goes_on == ("--save_only_model" not in given)
    with caplog.at_level(logging.INFO):
        train(load_recipe(recipe, [*command, *named[1].split()]))
    assert ("Resuming from" in caplog.text) == goes_on


@pytest.mark.slow
def test_a_training_that_goes_on_takes_the_steps_of_now(recipe, tmp_path):
    """The checkpoint's state holds the steps of the command that wrote it, and replaces the Trainer's own."""
    command = [*STEPS, "--output_dir", str(tmp_path)]
    with at("training_step", 5), pytest.raises(KeyboardInterrupt):
        train(load_recipe(recipe, command))
    train(load_recipe(recipe, [*command, "--eval_steps", "0.25", "--save_steps", "0.25", "--logging_steps", "2"]))
    history = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [4, 6, 9, 12]
    assert [entry["step"] for entry in history if "loss" in entry and entry["step"] > 5] == [6, 8, 10, 12]
    assert [path.name for path in in_order(tmp_path)][-1] == "checkpoint-12"


@pytest.mark.slow
def test_a_finished_training_given_again_is_as_it_was(recipe, uninterrupted, tmp_path):
    """The Trainer would train one step more: it looks for the last one after a step."""
    again = shutil.copytree(uninterrupted(), tmp_path / "again")
    train(load_recipe(recipe, ["--output_dir", str(again)]))
    assert differences(again, uninterrupted()) == []


@pytest.mark.slow
def test_a_folder_that_was_moved_goes_on_with_its_own_best_checkpoint(recipe, uninterrupted, tmp_path, caplog):
    whole, options = uninterrupted(*STEPS), [*STEPS, "--learning_rate", "5e-3"]
    first, moved = shutil.copytree(whole, tmp_path / "first"), tmp_path / "moved"
    for checkpoint in in_order(first):  # as if all of it had been written there
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        state["best_model_checkpoint"] = state["best_model_checkpoint"].replace(str(whole), str(first))
        (checkpoint / "trainer_state.json").write_text(json.dumps(state))
        write_manifest(checkpoint, json.loads((checkpoint / MANIFEST).read_text())["origin"])
    first.rename(moved)
    with caplog.at_level(logging.INFO):
        train(load_recipe(recipe, [*options, "--output_dir", str(moved)]))
    assert differences(moved, whole) == []
    assert "Nothing is left to train after step 12 of 12" in caplog.text
    assert not first.exists()


@pytest.mark.slow
def test_other_data_or_labels_are_not_trained_into_the_weights_of_before(recipe, uninterrupted, tmp_path):
    again, other = shutil.copytree(uninterrupted(), tmp_path / "again"), tmp_path / "other"
    other.mkdir()
    for name in ("train.jsonl", "dev.jsonl"):
        text = (recipe.parent / name).read_text(encoding="utf-8")
        (other / name).write_text(text.replace('"company"', '"firm"'), encoding="utf-8")
    command = ["--output_dir", str(again), "--dataset", str(other)]
    files = {path: path.stat().st_mtime_ns for path in again.rglob("*") if path.name != ".lock"}
    with pytest.raises(NerError) as error:
        train(load_recipe(recipe, command))
    assert error.value.place == str(in_order(again)[-1])
    assert "data_fingerprint" in error.value.value
    assert {path: path.stat().st_mtime_ns for path in again.rglob("*") if path.is_file() and path in files} == {
        path: time for path, time in files.items() if path.is_file()
    }


@pytest.mark.slow
def test_the_clock_set_back_costs_no_checkpoint(recipe, uninterrupted, tmp_path):
    """The Trainer goes by the times of the folders, and would remove the one that it has just written."""
    command = [*STEPS, "--output_dir", str(tmp_path)]
    with at("training_step", 10), pytest.raises(KeyboardInterrupt):
        train(load_recipe(recipe, command))
    future = time.time() + 1e6
    for path in in_order(tmp_path):
        os.utime(path, (future, future))
    train(load_recipe(recipe, command))
    assert (tmp_path / "checkpoint-12").exists()
    assert differences(tmp_path, uninterrupted(*STEPS)) == []


@pytest.mark.slow
def test_a_process_killed_in_a_save_or_an_evaluation(tmp_path):
    """Two kinds of the twenty that `python tests/kills.py` tries."""
    command = [sys.executable, ROOT / "tests" / "kills.py", "--kills", "2", "--json", tmp_path / "kills.json",
               "--only", "SIGKILL as the optimizer|SIGTERM in an evaluation"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = warm_python.run(command, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, stopped = json.loads((tmp_path / "kills.json").read_text())["kills"]
    assert (killed["exit"], stopped["exit"]) == (-signal.SIGKILL, 130)
    assert killed["left unfinished"] == [".checkpoint.partial"]
    assert any("removed unfinished files of a stopped training" in line for line in killed["said"])
    assert any("Resuming from" in line for line in stopped["said"])


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(recipe, uninterrupted, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        command = [*STEPS, "--output_dir", str(disk / "out")]
        with pytest.raises(NerError, match="is full") as error:
            train(load_recipe(recipe, command))
        assert error.value.place == "output_dir"
        assert "goes on from the last whole checkpoint" in error.value.remedy
        assert [path.name for path in in_order(disk / "out")] == ["checkpoint-4"]
        assert fault_of(disk / "out" / "checkpoint-4") is None
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        train(load_recipe(recipe, command))
        assert differences(disk / "out", uninterrupted(*STEPS)) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_disk_that_may_no_longer_be_written_keeps_the_last_good_checkpoint(recipe, tmp_path):
    unfinished = tmp_path / UNFINISHED

    def forbid():
        unfinished.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", unfinished], capture_output=True).returncode:
            pytest.skip("mounting needs root")

    try:
        with at("_save_checkpoint", 2, forbid), pytest.raises(OSError, match="Read-only file system"):
            train(load_recipe(recipe, [*STEPS, "--output_dir", str(tmp_path)]))
        assert [path.name for path in in_order(tmp_path)] == ["checkpoint-4"]
        assert fault_of(tmp_path / "checkpoint-4") is None
    finally:
        subprocess.run(["umount", "-l", unfinished], capture_output=True)


@pytest.mark.slow
def test_torn_checkpoints_are_passed_over_and_others_refused(recipe, uninterrupted, tmp_path, caplog):
    out = shutil.copytree(uninterrupted(*STEPS), tmp_path / "out")
    first, last = in_order(out)
    torn = (last / "model.safetensors").read_bytes()[:-1000]
    (last / "model.safetensors").write_bytes(torn)
    train(load_recipe(recipe, [*STEPS, "--output_dir", str(out)]))
    assert f"Skipping {last}" in caplog.text
    assert fault_of(last) is None, "trained and written anew"
    write_manifest(first, {})
    with pytest.raises(NerError, match="differs from this one") as error:
        train(load_recipe(recipe, [*STEPS, "--output_dir", str(out), "--resume_from_checkpoint", str(first)]))
    assert error.value.place == str(first)


@pytest.mark.slow
def test_another_chat_template_is_another_training(recipe, uninterrupted, tmp_path):
    out = shutil.copytree(uninterrupted(*STEPS), tmp_path / "out")
    model = shutil.copytree(recipe.parent / "model", tmp_path / "model")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", " <|im_start|>", 1))
    with pytest.raises(NerError) as error:
        train(load_recipe(recipe, [*STEPS, "--output_dir", str(out), "--model_name_or_path", str(model)]))
    assert error.value.place == str(in_order(out)[-1])
    assert error.value.value.startswith("tokens of the first rows")
