"""The ZeRO configs read by DeepSpeed's own parser, and its sharded weights gathered, where DeepSpeed is installed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distributed.hosts import CONFIGS, ENVIRONMENT

deepspeed = pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: DS_BUILD_OPS=0 pip install deepspeed")

ZERO = sorted(path.stem for path in CONFIGS.glob("zero*.yaml"))


def as_deepspeed_gets_it(name):
    """What accelerate makes of the shipped config, with what the Trainer fills in from a recipe."""
    from accelerate.utils import DeepSpeedPlugin

    fields = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["deepspeed_config"]
    plugin = DeepSpeedPlugin(**fields)
    plugin.set_mixed_precision("bf16")
    filled = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    plugin.deepspeed_config_process(must_match=False, **filled, gradient_clipping=1.0)
    return plugin.deepspeed_config


def parsed(config):
    from deepspeed.runtime.config import DeepSpeedConfig

    return DeepSpeedConfig(config)


@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_reads_what_the_config_says(name):
    config = as_deepspeed_gets_it(name)
    read = parsed(config)
    stage = int(name.removeprefix("zero")[0])
    assert read.zero_optimization_stage == read.zero_config.stage == stage
    assert (read.train_micro_batch_size_per_gpu, read.gradient_accumulation_steps) == (4, 2)
    assert read.zero_config.gather_16bit_weights_on_model_save is (stage == 3)
    assert read.bfloat16_config.enabled
    assert "auto" not in str({key: value for key, value in config.items() if value == "auto"})


@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_refuses_a_key_that_it_does_not_know(name):
    config = as_deepspeed_gets_it(name)
    config["zero_optimization"]["stage3_gather_16bit_weights_on_save"] = True
    with pytest.raises(ValueError, match="stage3_gather_16bit_weights_on_save"):
        parsed(config)


@pytest.mark.slow
def test_the_weights_of_zero_3_are_gathered_whole_and_ranks_write_different_numbers_of_rows(tiny):
    script = Path(__file__).with_name("zero3.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script, tiny]
    environment = ENVIRONMENT | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run([str(p) for p in command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0: 0 of 26 weights are here, gathered 26 are equal, wrote 1 rows as without",
        "rank 1: 0 of 26 weights are here, gathered 26 are equal, wrote 3 rows as without",
    ]
