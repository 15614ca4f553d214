"""Memory, disk and accounts: what is needed against what is there."""

from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest

from qwen_ner.training.arguments import ModelArguments, NerTrainingArguments
from qwen_ner.training.doctor import machine
from qwen_ner.training.doctor.costs import BESIDE_THE_WEIGHTS, Memory
from qwen_ner.training.doctor.machine import check_disk, check_hub, check_trackers, compare_memory
from qwen_ner.training.launch import Launch
from qwen_ner.training.model import outline_model

Usage = namedtuple("Usage", "total used free")


def plan(output, **values):
    args = NerTrainingArguments(output_dir=str(output), use_cpu=True, **values)
    return SimpleNamespace(recipe=SimpleNamespace(training=args, model=ModelArguments("tester/base")), launch=Launch())


def test_too_little_memory():
    need = Memory(weights=10, gradients=10, optimizer=20, activations=50, logits=10)
    assert compare_memory(need, 200, "GPU").level == "ok"
    assert compare_memory(need, 105, "GPU").level == "warn"
    assert compare_memory(need, 99, "GPU").level == "fail"
    assert compare_memory(need, None, "GPU").level == "ok"


def test_a_smaller_batch_is_advised_only_where_the_rest_fits():
    """Each remedy, followed, fits: half the batch has half the activations, an adapter has hardly any moments."""
    large = Memory(weights=10, gradients=10, optimizer=20, activations=80, logits=20)
    assert "halve per_device_train_batch_size" in compare_memory(large, 100, "GPU").remedy
    assert compare_memory(replace(large, activations=40, logits=10), 100, "GPU").level == "ok"
    full = Memory(weights=10, gradients=10, optimizer=20, activations=5, logits=1)
    assert compare_memory(full, 30, "GPU").remedy.startswith("train an adapter (lora_r: 16)")
    adapter = replace(full, gradients=1, optimizer=2)
    assert compare_memory(adapter, 30, "GPU").level == "ok"
    for needed in (full, adapter):
        assert "halve" not in compare_memory(needed, 9, "GPU").remedy
    assert "adapter" not in compare_memory(adapter, 9, "GPU").remedy


def test_a_disk_that_is_too_small(tiny, tmp_path, monkeypatch):
    """Three epochs with two checkpoints kept, so three on the disk while the last is written, and the model."""
    given = plan(tmp_path / "x" / "y", num_train_epochs=3)
    given.model, given.splits = outline_model(str(tiny)), SimpleNamespace(train=range(8))
    weights = 4 * sum(p.numel() for p in given.model.parameters())
    one, final = 3 * weights + BESIDE_THE_WEIGHTS, weights + BESIDE_THE_WEIGHTS

    def level(free):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage(0, 0, free))
        return check_disk(given).level

    assert level(3 * one + final) == "ok"
    assert level(3 * one + final - 1) == level(one + final) == "warn", "one checkpoint fits, three do not"
    assert level(one + final - 1) == "fail"
    for n in (1, 2):
        (tmp_path / "x" / "y" / f"checkpoint-{n}").mkdir(parents=True)
    assert level(one + final) == "ok", "two are there and will be deleted"


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("env", [{"WANDB_API_KEY": "x" * 40}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}])
def test_wandb_with_a_key_or_without_need_of_one(tmp_path, monkeypatch, no_key, env):
    wandb = plan(tmp_path, report_to="wandb")
    assert check_trackers(wandb).level == "warn", "the run is kept on the disk"
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert check_trackers(wandb).level == "ok"


def test_the_key_of_wandb_login_is_for_its_host(tmp_path, monkeypatch, no_key):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password k\n")
    assert check_trackers(plan(tmp_path, report_to="wandb")).level == "ok"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert check_trackers(plan(tmp_path, report_to="wandb")).level == "warn"


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    assert check_trackers(plan(tmp_path, report_to="none")).level == "ok"
    monkeypatch.setattr(machine, "missing_trackers", lambda wanted: wanted)
    assert check_trackers(plan(tmp_path, report_to="tensorboard")).level == "fail"


@pytest.mark.parametrize(
    ("push", "token", "offline", "level"),
    [(False, None, True, "ok"), (True, None, False, "warn"), (True, "hf_x", True, "warn"), (True, "hf_x", False, "ok")],
)
def test_a_push_needs_a_token_and_a_network(tmp_path, monkeypatch, push, token, offline, level):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(machine, "get_token", lambda: None)
    assert check_hub(plan(tmp_path, push_to_hub=push, hub_token=token)).level == level
