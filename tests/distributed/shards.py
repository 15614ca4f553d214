"""Launched by test_sharded with accelerate_configs/fsdp2_4gpu.yaml: trainings with FSDP2 on the CPU.

    shards.py RECIPE MODEL OUT

accelerate heeds an FSDP config only where it finds GPUs, and then sets two fields of its state. Here they are set on
the CPU as well. What is tested is stock: accelerate's sharding, gathering, saving and loading, torch's on gloo.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState
from torch.distributed.tensor import DTensor

from qwen_ner.training.loop.trainer import NerTrainer
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train

STEPS = (3, 6)
"""Behind which there is an evaluation and a checkpoint."""

EACH = {
    "full": ["--learning_rate", "3e-3"],
    "lora": ["--learning_rate", "5e-3", "--lora_r", "4"],
}


def shard_on_cpu() -> None:
    stock = AcceleratorState.__init__

    def init(self: Any, *args: Any, **given: Any) -> None:
        stock(self, *args, **given)
        if given.get("fsdp_plugin") is not None and self.device.type == "cpu":
            self.fsdp_plugin = given["fsdp_plugin"]
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def say_what_is_sharded() -> None:
    """At the end of each training: how many of the model's weights are parts, and how many forward passes were taken."""
    stock = NerTrainer.save_model

    def save_model(self: Any, *args: Any, **given: Any) -> None:
        weights = list(self.model.parameters())
        print(f"sharded {sum(isinstance(weight, DTensor) for weight in weights)} of {len(weights)}", flush=True)
        stock(self, *args, **given)

    NerTrainer.save_model = save_model


if __name__ == "__main__":
    recipe, model, out = sys.argv[1:4]
    shard_on_cpu()
    say_what_is_sharded()
    for name, options in EACH.items():
        given = ["--model_name_or_path", model, "--per_device_train_batch_size", "2", *options]
        train(load_recipe(recipe, [*given, "--output_dir", f"{out}/{name}"]))
        resumed = Path(out, f"{name}_resumed")
        if PartialState().is_main_process:
            shutil.copytree(Path(out, name, "checkpoint-3"), resumed / "checkpoint-3")
        PartialState().wait_for_everyone()
        train(load_recipe(recipe, [*given, "--output_dir", str(resumed)]))
