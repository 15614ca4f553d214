"""Write a recipe for a file or folder of annotated sentences.

Reads the data, shows the splits and labels with their most frequent surfaces, and writes a recipe that trains on them.
If the surfaces look wrong, the file was misread: do not train yet.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..options import add_labels, check_writable

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", default=".", metavar="DATA", help="a folder or file; default: this folder")
    parser.add_argument("--output", type=Path, default=Path("recipe.yaml"), metavar="FILE", help="default: recipe.yaml")
    parser.add_argument("--model", default=MODEL, help=f"model to train: a Hub id, a folder, or tiny; default: {MODEL}")
    add_labels(parser, "train on")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")


def run(options: Namespace, _: list[str]) -> None:
    import shlex

    from ...entities import NerError
    from ...files import write_text

    path = options.output
    if path.suffix not in (".yaml", ".yml"):
        raise NerError("not a YAML file name", value=str(path), place="--output", remedy="end it in .yaml")
    check_writable(path)
    if path.exists() and not options.force:
        raise NerError("exists already", place=path, remedy="add --force to replace it, or give another --output")

    import torch

    from ...data.overview import look, overview
    from ...inference.backends.torch import has_bf16
    from ...training.new_recipe import recipe_text

    found = look(options.data, options.labels)
    bf16 = torch.cuda.is_available() and has_bf16("cuda")
    write_text(path, [recipe_text(found, path, options.model, bf16=bf16)])
    print("\n".join(overview(found)))
    name = shlex.quote(str(path))
    launch = "accelerate launch" if torch.cuda.device_count() > 1 else "qwen-ner train"
    print(f"\nwritten: {path}. Next:\n  qwen-ner doctor {name}\n  {launch} {name}")
