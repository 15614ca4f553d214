"""Train from a recipe.

Options of the form `--key value` override any key of the recipe; `qwen-ner recipe` lists them. On several GPUs:
accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml recipes/lora.yaml
"""

from __future__ import annotations

from argparse import Namespace

from .options import add_recipe

add_arguments = add_recipe


def run(options: Namespace, overrides: list[str]) -> None:
    from ..training.batches.cpu.malloc import set_pages

    set_pages()  # before torch is imported
    from ..training.recipe import load_recipe
    from ..training.run import train

    train(load_recipe(options.recipe, overrides))
