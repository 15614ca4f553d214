"""Memory, disk and accounts: what is needed against what is there."""

import os
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qwen_ner.entities import NerError
from qwen_ner.training.arguments import ModelArguments, NerTrainingArguments
from qwen_ner.training.doctor import machine
from qwen_ner.training.doctor.costs import BESIDE_THE_WEIGHTS, Memory
from qwen_ner.training.doctor.machine import (
    check_disk,
    check_driver,
    check_hub,
    check_trackers,
    compare_driver,
)
from qwen_ner.training.doctor.memory import compare_memory
from qwen_ner.training.launch import Launch
from qwen_ner.training.model import outline_model

Usage = namedtuple("Usage", "total used free")


def plan(output, **values):
    args = NerTrainingArguments(output_dir=str(output), use_cpu=True, **values)
    return SimpleNamespace(recipe=SimpleNamespace(training=args, model=ModelArguments("tester/base")), launch=Launch())


def test_too_little_memory():
    need = Memory(weights=10, gradients=10, optimizer=20, activations=60)
    assert compare_memory(need, 200, "GPU").level == "ok"
    assert compare_memory(need, 105, "GPU").level == "warn"
    assert compare_memory(need, 99, "GPU").level == "fail"
    assert compare_memory(need, None, "GPU").level == "ok"


def test_a_training_does_without_graphs_that_do_not_fit():
    need = Memory(weights=10, gradients=20, optimizer=20, activations=20, graphs=20, evaluation=10)
    assert need.total == 100
    assert [compare_memory(need, room, "GPU").level for room in (111, 109, 80, 79)] == ["ok", "warn", "warn", "fail"]
    assert "halve" in compare_memory(need, 80, "GPU").remedy


def test_a_smaller_batch_is_advised_only_where_the_rest_fits():
    """Each remedy, followed, fits: half the batch has half the activations, an adapter has hardly any moments."""
    large = Memory(weights=10, gradients=10, optimizer=20, activations=100)
    assert "halve per_device_train_batch_size" in compare_memory(large, 100, "GPU").remedy
    assert compare_memory(replace(large, activations=50), 100, "GPU").level == "ok"
    full = Memory(weights=10, gradients=10, optimizer=20, activations=6)
    assert compare_memory(full, 30, "GPU").remedy.startswith("train an adapter (lora_r: 16)")
    adapter = replace(full, gradients=1, optimizer=2)
    assert compare_memory(adapter, 30, "GPU").level == "ok"
    for needed in (full, adapter):
        assert "halve" not in compare_memory(needed, 9, "GPU").remedy
    assert "adapter" not in compare_memory(adapter, 9, "GPU").remedy


def test_a_disk_that_is_too_small(tiny, tmp_path, monkeypatch):
    """Three epochs with two checkpoints kept, so three on the disk while the last is written, and the model."""
    given = plan(tmp_path / "x" / "y", num_train_epochs=3)
    given.model, given.examples = outline_model(str(tiny)), range(8)
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
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    with pytest.raises(NerError, match="tensorboard not installed"):
        check_trackers(plan(tmp_path, report_to="tensorboard"))


@pytest.mark.parametrize(
    ("push", "token", "offline", "level"),
    [(False, None, True, "ok"), (True, None, False, "warn"), (True, "hf_x", True, "warn"), (True, "hf_x", False, "ok")],
)
def test_a_push_needs_a_token_and_a_network(tmp_path, monkeypatch, push, token, offline, level):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(machine, "get_token", lambda: None)
    assert check_hub(plan(tmp_path, push_to_hub=push, hub_token=token)).level == level


SMI = """
| NVIDIA-SMI {driver}             Driver Version: {driver}     CUDA Version: {cuda}     |
|-----------------------------------------+------------------------+----------------------+
"""


@pytest.mark.parametrize(
    ("driver", "cuda", "built", "level"),
    [
        ("570.124.06", "12.8", "13.0", "fail"),
        ("570.124.06", "12.8", "12.8", "ok"),
        ("535.54.03", "12.2", "12.8", "ok"),  # within a major version
        ("470.82", "11.4", "12.8", "fail"),
        ("580.95.05", "13.0", "13.2", "ok"),
        ("580.95.05", "13.0", "12.8", "ok"),
        ("570.124.06", "12.8", None, "warn"),
    ],
)
def test_the_driver_against_the_cuda_that_torch_is_built_for(driver, cuda, built, level):
    found = compare_driver(SMI.format(driver=driver, cuda=cuda), built)
    assert (found.level, bool(found.remedy)) == (level, level != "ok")
    assert f"driver {driver} (CUDA {cuda})" in found.found
    assert ("torch<2.11" in found.remedy) == (level == "fail" and cuda.startswith("12."))
    assert f"built for {f'CUDA {built}' if built else 'no CUDA'}" in found.found


@pytest.mark.parametrize("said", ["", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."])
def test_without_a_driver_there_is_nothing_to_compare(said):
    assert compare_driver(said, "13.0").level == "ok"


@pytest.mark.parametrize(("use_cpu", "level"), [(True, "ok"), (False, "fail")])
def test_an_old_driver_fails_only_a_training_on_gpus(tmp_path, monkeypatch, use_cpu, level):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'Driver Version: 570.1   CUDA Version: 12.8'")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert check_driver(SimpleNamespace(recipe=SimpleNamespace(values={"use_cpu": use_cpu}))).level == level


def test_a_device_that_only_emulates_bf16_trains_in_float32(tmp_path, monkeypatch, caplog):
    """Whether the recipe asks for bf16 or the accelerate config."""
    native = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation or bool(native)
    )
    # transformers asks once per process, and so would answer for the machine that runs the tests
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)

    def precision(config="no", **values):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", config)
        args = NerTrainingArguments(output_dir=str(tmp_path), **values)
        return args.mixed_precision, Launch.of_environment(os.environ).mixed_precision

    monkeypatch.setattr(NerTrainingArguments, "device", torch.device("cpu"))  # there is no GPU here
    assert precision(bf16=True) == precision("bf16") == precision("bf16", bf16=True) == ("no", "no")
    assert len([record for record in caplog.records if "no bf16 of its own" in record.message]) == 3
    caplog.clear()
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: True)
    assert precision("bf16", bf16=True, use_cpu=True) == ("bf16", "bf16")
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: False)  # 100 times as slow, measured
    assert precision("bf16", bf16=True, use_cpu=True) == ("no", "no")
    assert "This CPU has no bf16 of its own" in caplog.text
    caplog.clear()
    assert precision("bf16", fp16=True)[0] == precision(fp16=True)[0] == "fp16"
    native.append(True)
    assert precision("bf16", bf16=True) == ("bf16", "bf16")
    assert precision(bf16=True)[0] == "bf16"
    assert not caplog.records
