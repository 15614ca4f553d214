"""Memory, disk and accounts: what is needed against what is there."""

from collections import namedtuple

from qwen_ner.training.doctor.costs import Memory
from qwen_ner.training.doctor.machine import check_disk, check_hub, check_memory, check_trackers

Usage = namedtuple("Usage", "total used free")


def test_too_little_memory():
    need = Memory(weights=10, gradients=10, optimizer=20, activations=50, logits=10)
    assert check_memory(need, 200, "GPU").level == "ok"
    assert check_memory(need, 105, "GPU").level == "warn"
    assert check_memory(need, 99, "GPU").level == "fail"
    assert check_memory(need, None, "GPU").level == "ok"


def test_a_disk_that_is_too_small(tmp_path):
    some = check_disk(tmp_path, 100, 3, 10, lambda path: Usage(1000, 0, 200))
    assert some.level == "warn", "one checkpoint fits, three do not"
    assert check_disk(tmp_path, 100, 3, 10, lambda path: Usage(1000, 0, 310)).level == "ok"
    assert check_disk(tmp_path / "x" / "y", 100, 3, 10, lambda path: Usage(1000, 0, 310)).level == "ok"


def test_wandb_without_a_key(tmp_path):
    empty = {"HOME": str(tmp_path)}
    assert check_trackers(["none"], empty).level == "ok"
    assert check_trackers(["wandb"], empty).level == "fail"
    for key in ({"WANDB_API_KEY": "x" * 40}, {"WANDB_MODE": "offline"}, {"WANDB_MODE": "disabled"}):
        assert check_trackers(["wandb"], {**empty, **key}).level == "ok"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password k\n")
    assert check_trackers(["wandb"], empty).level == "ok"
    assert check_trackers(["wandb"], {**empty, "WANDB_BASE_URL": "https://wandb.example.org"}).level == "fail"
    assert check_trackers(["tensorboard"], empty, lambda name: None).level == "fail"


def test_a_push_without_a_token():
    assert check_hub(False, None, True).level == "ok"
    assert check_hub(True, None, False).level == "fail"
    assert check_hub(True, "hf_x", True).level == "fail"
    assert check_hub(True, "hf_x", False).level == "ok"
    assert "base is weights" in check_hub(True, "hf_x", False, "weights").found
