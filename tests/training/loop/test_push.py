"""`push_to_hub` in a recipe: what a training pushes, when, and that no failure of it touches the training."""

import json
import logging
import os
import threading
from types import SimpleNamespace

import pytest
from fake_hub import TOKEN
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.loop import push
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train

ALLOWED = {
    "README.md", "curve.png", "ner_config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "recipe.yaml", "metrics.json", "adapter_config.json", "adapter_model.safetensors",
    "config.json", "model.safetensors",
}  # fmt: skip


@pytest.fixture
def recipe(taught, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: tester/base\nlora_r: 4\ndataset: {taught}\nsystem_prompt: 找出实体\nvalidation_rows: 8\n"
        "examples: [王芳在深圳卖三星手机]\nuse_cpu: true\neval_strategy: steps\neval_steps: 2\nsave_strategy: steps\n"
        "save_steps: 2\nmax_steps: 4\nmax_new_tokens: 8\nlogging_steps: 1\nreport_to: none\n"
        f"output_dir: {tmp_path / 'out'}\npush_to_hub: true\nhub_model_id: tester/ner\nhub_always_push: true\n",
        encoding="utf-8",
    )
    return path


REACHING = """
import sys
from pathlib import Path
from types import SimpleNamespace
from fake_hub import reaching
from qwen_ner import cli
url, cache = sys.argv[1:3]
del sys.argv[1:3]
with reaching(SimpleNamespace(url=url), Path(cache)):
    cli.main()
"""
"""`python -m qwen_ner`, whose Hub is another."""


def in_its_own_processes(hub, recipe, tmp_path, *options):
    (tmp_path / "reaching.py").write_text(REACHING)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    program = [tmp_path / "reaching.py", hub.url, tmp_path / "home", "train", recipe, *options]
    return warm_python.launch(
        ROOT / "accelerate_configs" / "cpu_2proc.yaml", program, env=os.environ | {"PYTHONPATH": path}
    )


@pytest.mark.slow
def test_two_ranks_push_once_at_every_save_and_the_whole_at_the_end(hub, recipe, taught, tmp_path):
    done = in_its_own_processes(hub, recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    saved = ["Training in progress, step 2", "Training in progress, step 4", "End of training"]
    assert hub.titles("tester/ner") == saved
    assert [request for request in hub.log if request == "POST /api/repos/create"]
    for commit in hub.repos["tester/ner"]["commits"][1:]:
        assert set(commit["files"]) <= ALLOWED
        scored = "metrics.json" in commit["files"]
        assert scored == (commit["title"] == "End of training")
        assert ("**It was not scored**" in commit["files"]["README.md"].decode()) != scored
        assert commit["files"]["adapter_model.safetensors"]
    final, out = hub.files("tester/ner"), tmp_path / "out"
    assert final["adapter_model.safetensors"] == (out / "adapter_model.safetensors").read_bytes()
    assert final["ner_config.json"] == (out / "ner_config.json").read_bytes()
    assert not list(out.glob(".pushing*"))
    secrets = [TOKEN, str(tmp_path), str(taught), *(gold.text for gold in EIGHT)]
    assert not [(path, secret) for path, data in hub.pushed() for secret in secrets if secret.encode() in data]
    # Stopped, and the same command again: it goes on, and what the Hub ends with is what the folder ends with.
    hub.refuse += [("/commit/", 403)]
    (out / ".pushing.left.partial").mkdir()
    again = in_its_own_processes(hub, recipe, tmp_path, "--max_steps", "6")
    assert again.returncode == 0, again.stderr
    assert "Step 6 was not pushed: tester/ner: you have no right to write there, got 403" in again.stderr
    assert hub.titles("tester/ner") == [*saved, "End of training"]
    assert hub.files("tester/ner")["adapter_model.safetensors"] == (out / "adapter_model.safetensors").read_bytes()
    assert hub.files("tester/ner")["metrics.json"] != final["metrics.json"]
    assert not list(out.glob(".pushing*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "titles", "folder"),
    [
        ("end", ["End of training"], None),
        ("checkpoint", [*["Training in progress, step 2"] * 2, *["Training in progress, step 4"] * 2, "End of training"],
         "last-checkpoint"),
    ],
)  # fmt: skip
def test_a_strategy_is_the_trainer_s(hub, recipe, capsys, strategy, titles, folder):
    train(load_recipe(recipe, ["--hub_strategy", strategy, "--hub_private_repo"]))
    assert hub.titles("tester/ner") == titles
    assert hub.repos["tester/ner"]["private"]
    files = hub.files("tester/ner")
    inner = {path.partition("/")[2] for path in files if "/" in path}
    assert {path.partition("/")[0] for path in files if "/" in path} == ({folder} if folder else set())
    assert inner <= ALLOWED
    assert ("adapter_model.safetensors" in inner) == (folder is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda hub, patch: patch.delenv("HF_TOKEN"), "hf auth login"),
        (lambda hub, patch: hub.close(), "cannot be reached"),
    ],
    ids=["no token", "unreachable"],
)
def test_no_failure_of_a_push_stops_or_spoils_a_training(hub, tiny, recipe, tmp_path, monkeypatch, caplog, spoil, said):
    spoil(hub, monkeypatch)
    with caplog.at_level(logging.INFO):
        full = ["--model_name_or_path", str(tiny), "--lora_r", "none"]  # an adapter of a local base is refused before
        scores = train(load_recipe(recipe, [*full, "--max_steps", "2"]))
    assert scores["training"]["steps"] == 2
    assert "tester/ner" not in hub.repos
    out = tmp_path / "out"
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    about = [message for message in warned if "pushed" in message]
    assert len(about) == 3, "at the start, at the save, at the end"
    assert all(said in message for message in about)
    assert f"qwen-ner push {out} tester/ner" in about[-1]
    assert Extractor.from_pretrained(out).extract(["三星"])
    assert json.loads((out / "metrics.json").read_text())["training"]["steps"] == 2
    assert not list(out.glob(".pushing*"))


def test_a_token_stays_out_of_what_is_saved_and_printed(recipe):
    given = load_recipe(recipe, ["--hub_token", TOKEN])
    assert given.training.hub_token == TOKEN
    assert TOKEN not in json.dumps(given.values)


@pytest.fixture
def saved(tmp_path):
    """A callback, and what the Trainer gives it after a save."""
    (tmp_path / "checkpoint-2").mkdir()
    args = SimpleNamespace(
        output_dir=str(tmp_path),
        hub_model_id="tester/ner",
        hub_token=None,
        hub_always_push=True,
        hub_strategy="every_save",
    )
    handler = SimpleNamespace(on_push_begin=lambda *_: None)
    callback = push.PushCallback(SimpleNamespace(args=args, callback_handler=handler))
    return callback, args, SimpleNamespace(is_world_process_zero=True, global_step=2), None


def test_a_queued_push_that_is_cancelled_leaves_nothing(saved, tmp_path):
    callback, *given = saved
    running = threading.Event()
    callback.jobs = [threading.Thread(target=running.wait)]
    callback.jobs[0].start()
    callback.on_save(*given)
    assert list(tmp_path.glob(".pushing*"))
    callback.cancelled = True
    running.set()
    for job in callback.jobs:
        job.join()
    assert not list(tmp_path.glob(".pushing*"))


def test_a_disk_that_is_full_at_a_push_is_a_warning(saved, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(push, "copy_files", full)
    callback, *given = saved
    callback.on_save(*given)
    assert "Step 2 was not pushed: OSError: [Errno 28] No space left on device" in caplog.text
    assert not list(tmp_path.glob(".pushing*"))
