"""The sweep that ships, by the real `wandb sweep` and `wandb agent`, against a W&B of our own on the loopback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_wandb import FakeWandb
from launcher import launcher
from rows import EIGHT, ROOT
from test_recipes import LAUNCHER_KEY

from qwen_ner.data.datasets import write_jsonl


@pytest.fixture
def wandb(tmp_path):
    """(runs that the server handed out, `wandb` of the command line in a folder of its own)."""
    server = FakeWandb()
    # wandb, where it has run in this process, names its service to children; that service may have ended.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} | {
        "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0123456789" * 4, "WANDB_ENTITY": "tester", "WANDB_PROJECT": "qwen-ner",
        "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip

    def wandb(*arguments):
        command = [sys.executable, "-m", "wandb", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)

    yield server.runs, wandb
    server.shutdown()
    server.server_close()


@pytest.fixture
def shipped(tiny, tmp_path):
    """recipes/sweep.yaml, but for a small recipe, the processes, which are forks, and what is varied."""
    for split in ("train", "dev"):
        rows = [type(gold)(str(i), gold.text, gold.entities) for i, gold in enumerate(EIGHT * 2)]
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    text = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    values = {key: value for key, value in yaml.safe_load(text).items() if key != LAUNCHER_KEY} | {
        "model_name_or_path": str(tiny), "dataset": str(tmp_path), "validation_rows": 4, "max_steps": 4, "eval_strategy": "steps",
        "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_new_tokens": 4, "examples": [], "lora_r": 8, "bf16": True,
    }  # fmt: skip
    head = text.split('r"""')[0]
    (tmp_path / "lora.yaml").write_text(
        f'{head}r"""\n{yaml.safe_dump(values, allow_unicode=True)}# """\n', encoding="utf-8"
    )

    def shipped(config, **parameters):
        sweep = yaml.safe_load((ROOT / "recipes" / "sweep.yaml").read_text(encoding="utf-8"))
        sweep |= {"program": "lora.yaml", "method": "grid", "parameters": parameters}
        sweep["command"][:4] = [*accelerate_launch, "--config_file", str(ROOT / "accelerate_configs" / config)]
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        return tmp_path / "sweep.yaml"

    with launcher() as accelerate_launch:
        yield shipped


@pytest.mark.slow
def test_an_agent_runs_each_trial_once_and_goes_on_after_a_failed_one(shipped, wandb, tmp_path):
    """A rank of 0 is refused by the recipe: that trial of two processes fails, and the next one is run."""
    runs, wandb = wandb
    ranks = [8, 0, 2]
    path = shipped(
        "cpu_2proc.yaml", lora_r={"values": ranks}, bf16={"value": False}, learning_rate={"value": 1e-05}, weight_decay={"value": 0},
        lora_target_modules={"value": ["q_proj", "v_proj"]}, system_prompt={"value": "找出 实体=全部"},
    )  # fmt: skip
    made = wandb("sweep", path)
    assert made.returncode == 0, made.stderr
    agent = wandb("agent", re.search(r"wandb agent (\S+)", made.stderr)[1])
    assert agent.returncode == 0, agent.stderr
    assert [values["lora_r"] for _, values in runs] == ranks
    assert "lora_r: not a positive number, got 0" in agent.stderr
    done = [(run, values) for run, values in runs if values["lora_r"]]
    assert {folder.name for folder in (tmp_path / "outputs" / "sweep").iterdir()} == {run for run, _ in done}
    for run, values in done:
        folder = tmp_path / "outputs" / "sweep" / run
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        assert {key: recipe[key] for key in values} == values
        assert (recipe["lora_alpha"], recipe["report_to"], recipe["run_name"]) == (None, "wandb", None)
        assert recipe["output_dir"] == f"outputs/sweep/{run}"
        assert (folder / "metrics.json").is_file()
        assert len(list(tmp_path.glob(f"wandb/offline-run-*-{run}"))) == 1, "one run, however many ranks"
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == len(done)
    assert "Resuming" not in agent.stdout + agent.stderr
