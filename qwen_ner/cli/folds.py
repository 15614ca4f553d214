"""Predict each training row with a model that has not seen it, to find wrong annotations.

Trains one model per fold, on the rows of the other folds; equal and nearly equal rows are in the same fold. Writes
folds.jsonl to output_dir, which `qwen-ner audit --predictions` reads. The same command continues an interrupted one.
Options of the form `--key value` override any key of the recipe; `qwen-ner recipe` lists them. On several GPUs:
accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml -m qwen_ner folds recipes/lora.yaml
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .options import add_recipe, count


def add_arguments(parser: ArgumentParser) -> None:
    add_recipe(parser)
    parser.add_argument("--folds", type=count, default=3, metavar="N", help="how many models to train; default: 3")


def run(options: Namespace, overrides: list[str]) -> None:
    from ..training.batches.cpu.malloc import set_pages

    set_pages()  # before torch is imported
    from ..sweep.folds import cross_fit

    cross_fit(options.recipe, overrides, options.folds)
