"""A checkpoint has its name when it is whole; which are kept, and which is gone on from."""

import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from warm_python import warm_python

from qwen_ner.entities import NerError
from qwen_ner.training.loop import checkpoints
from qwen_ner.training.loop.checkpoints import (
    UNFINISHED,
    alone_in,
    checkpoint_to_resume,
    in_order,
    publish,
    rotate,
)
from qwen_ner.training.loop.manifest import fault_of, write_manifest

ORIGIN = {"labels": ["name"], "seed": 1}


def make(folder, origin=None):
    folder.mkdir(parents=True)
    save_file({"weight": torch.ones(3)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": {}}, folder / name)
    (folder / "trainer_state.json").write_text('{"global_step": 1, "best_model_checkpoint": null}')
    write_manifest(folder, origin or ORIGIN)
    return folder


def recipe(output, resume="auto", world_size=1):
    training = SimpleNamespace(
        resume_from_checkpoint=resume, output_dir=str(output), world_size=world_size, load_best_model_at_end=True
    )
    return SimpleNamespace(training=training, values={"seed": 1})


def test_processes_that_find_different_checkpoints_do_not_begin(tmp_path, monkeypatch):
    make(tmp_path / "checkpoint-5")
    monkeypatch.setattr("accelerate.utils.gather_object", lambda here: [*here, "none"])
    with pytest.raises(NerError) as error:
        checkpoint_to_resume(recipe(tmp_path, world_size=2), ORIGIN)
    assert (error.value.place, error.value.value) == ("output_dir", ["checkpoint-5", "none"])
    assert "save_on_each_node" in error.value.remedy


def test_windows_syncs_files_through_handles_that_may_write_and_no_folders(tmp_path, monkeypatch):
    synced = []

    def opened(path, flags):
        assert not os.path.isdir(path), "permission denied"
        return os.open(path, flags), flags

    def fsync(handle):
        assert handle[1] == os.O_RDWR, "bad file descriptor"
        synced.append(handle)

    windows = {**vars(os), "name": "nt", "open": opened, "fsync": fsync, "close": lambda handle: os.close(handle[0])}
    written = make(tmp_path / UNFINISHED / "checkpoint-5")
    monkeypatch.setattr(checkpoints, "os", SimpleNamespace(**windows))
    publish(written, tmp_path / "checkpoint-5")
    assert len(synced) == len(list((tmp_path / "checkpoint-5").iterdir()))


def test_a_name_is_given_at_the_end_and_nothing_else_is_left(tmp_path):
    old = make(tmp_path / "checkpoint-5")
    (old / "old").touch()
    written = make(tmp_path / UNFINISHED / "checkpoint-5")
    publish(written, old)
    assert fault_of(old) is None
    assert not (old / "old").exists()
    assert os.listdir(tmp_path) == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [(None, None, [5, 10, 15, 20]), (2, None, [15, 20]), (2, "checkpoint-5", [5, 20]), (1, "checkpoint-5", [5, 20]),
     (3, "checkpoint-5", [5, 15, 20]), (1, "checkpoint-20", [20])],
)  # fmt: skip
def test_the_last_and_the_best_are_kept_whatever_the_clock_says(tmp_path, limit, best, kept):
    for step in (5, 10, 15, 20):
        path = make(tmp_path / f"checkpoint-{step}")
        os.utime(path, (time.time() - 1000 * step,) * 2)
    rotate(tmp_path, 20, limit, best and str(tmp_path / best))
    assert [path.name for path in in_order(tmp_path)] == [f"checkpoint-{step}" for step in kept]


def test_checkpoints_of_a_training_before_are_removed_where_they_would_be_the_last(tmp_path, caplog):
    for step in (4, 8, 12):
        make(tmp_path / f"checkpoint-{step}")
    with caplog.at_level(logging.INFO):
        rotate(tmp_path, 8, None, None)
    assert [path.name for path in in_order(tmp_path)] == ["checkpoint-4", "checkpoint-8"]
    assert f"Removing {tmp_path / 'checkpoint-12'}" in caplog.text


@pytest.mark.parametrize("put", [lambda path, other: path.symlink_to(other), lambda path, other: path.write_text("x")])
@pytest.mark.parametrize("other", ["checkpoint-1", "nowhere"])
def test_links_and_files_that_bear_the_name_are_replaced_and_leave_nothing(tmp_path, put, other):
    output = tmp_path / "out"
    kept = make(tmp_path / "checkpoint-1")
    written = make(output / UNFINISHED / "checkpoint-5")
    put(output / "checkpoint-5", tmp_path / other)
    publish(written, output / "checkpoint-5")
    assert fault_of(output / "checkpoint-5") is None
    assert os.listdir(output) == ["checkpoint-5"]
    assert fault_of(kept) is None, "what a link leads to is the user's"


def test_a_checkpoint_half_removed_has_another_name(tmp_path, monkeypatch):
    checkpoint = make(tmp_path / "checkpoint-5")

    def killed(path, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.remove(checkpoint)
    assert in_order(tmp_path) == []


def test_what_a_kill_left_is_cleared_away_and_said(tmp_path, caplog):
    make(tmp_path / UNFINISHED / "checkpoint-5")
    (tmp_path / ".metrics.json.x1.partial").touch()
    (tmp_path / ".mine").touch()
    with caplog.at_level(logging.INFO), alone_in(tmp_path, 0):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".mine"}
    assert ".checkpoint.partial, .metrics.json.x1.partial" in caplog.text


def test_a_second_training_in_the_folder_is_refused_until_the_first_is_gone(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from qwen_ner.training.loop.checkpoints import alone_in\n"
        "with alone_in(Path(sys.argv[1]), 0): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    holder = warm_python.start(command, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(NerError, match=f"process {holder.pid}") as error, alone_in(tmp_path, 0):
        pass
    assert error.value.place == tmp_path
    with alone_in(tmp_path, 1):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with alone_in(tmp_path, 0):
        pass
