"""Options that several commands share, so that they are spelled and explained alike.

In: the parser of a command. Out: the parser with more arguments. Knows nothing of what a command does with them.
"""

from __future__ import annotations

import os
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from ..composed import nfc
from ..inference.backends.base import DTYPES


def add_recipe(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="a YAML file, or the name of a shipped recipe: lora, quickstart, …")


def add_data(parser: ArgumentParser, *, split: str | None = "dev", required: bool = True, why: str = "") -> None:
    """`--data`, `--data-dir` and, unless `split` is None, `--split`."""
    what = "cluener, sample, a Hub id, or a file or folder of annotated sentences"
    parser.add_argument("--data", required=required, help=what + why)
    if split:
        parser.add_argument("--split", default=split, help=f"default: {split}")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder or zip file that holds CLUENER")


def add_labels(parser: ArgumentParser, verb: str) -> None:
    """`--labels`: those of the data whose entities count."""
    what = f"{verb} the entities of these labels alone, and say what is left out; default: all"
    parser.add_argument("--labels", nargs="+", type=nfc, metavar="NAME", help=what)


def add_repair(parser: ArgumentParser) -> None:
    what = "accept tags in an invalid order, and brat texts that were edited after annotation; list each"
    parser.add_argument("--repair", action="store_true", help=what)


def add_model(parser: ArgumentParser, *, file: bool = False) -> None:
    """The model, with its revision on the Hub; with `file` a file of predictions can stand in for it."""
    other = "modelscope:user/name, or a file of predictions" if file else "or modelscope:user/name"
    parser.add_argument("model", help=f"an output_dir, a checkpoint, a Hub id, {other}")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a model on the Hub")


def add_files(parser: ArgumentParser) -> None:
    """The texts to read."""
    what = 'texts, one per line, or JSONL with "text"; "-" or none: standard input'
    parser.add_argument("files", nargs="*", help=what)


def add_dtype(parser: ArgumentParser) -> None:
    what = "the precision to compute in; default: auto, bfloat16 on a GPU that has it, else float32"
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help=what)


def add_extraction(parser: ArgumentParser) -> None:
    add_dtype(parser)
    what = "drop entities with a lower score; default: 0, or 0.5 with several samples or beams"
    parser.add_argument("--min-score", type=score, help=what)
    parser.add_argument(
        "--thresholds",
        choices=("none", "auto"),
        default="none",
        help="auto: drop entities below the calibrated threshold of their label; default: none",
    )
    add_sampling(parser)
    add_batch_tokens(parser)


def add_batch_tokens(parser: ArgumentParser) -> None:
    what = "tokens per batch; lower it if memory is short; default: 16384, or on a GPU what fits into its memory"
    parser.add_argument("--batch-tokens", type=count, metavar="N", help=what)


def add_engine(parser: ArgumentParser, *others: str) -> None:
    """`--engine`: torch, one of `others`, or the address of a server."""
    names = ("torch", *others)

    def engine(given: str) -> str:
        if given not in names and not given.startswith(("http://", "https://")):
            raise ArgumentTypeError(f"{given} is none of {', '.join(names)}, http://host:port/v1")
        return given

    what = "what runs the model: torch, here; or a vLLM server that has it, by its address (docs/en/guides/vllm.md)"
    if "ray" in others:
        what += "; or ray, for files, folders and URLs on a cluster (docs/en/guides/many_sentences.md)"
    parser.add_argument(
        "--engine",
        type=engine,
        default="torch",
        metavar="{" + ",".join((*names, "URL")) + "}",
        help=f"{what}; default: torch",
    )


def add_sampling(parser: ArgumentParser) -> None:
    """The fields of `inference.sampling.Sampling`, which checks them."""
    several = "answers to draw for each text; an entity's score is its share of them; needs a temperature; default: 1"
    parser.add_argument("--samples", type=int, default=1, metavar="N", help=several)
    drawn = "draw tokens from softmax(logits / T); the same text always gets the same draw; default: 0, greedy"
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help=drawn)
    cut = "draw only from the likeliest tokens that together have probability P; default: 1"
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help=cut)


def pick(options: Namespace, *names: str) -> dict[str, Any]:
    """The options of these names, as keyword arguments of what the command runs."""
    return {name: getattr(options, name) for name in names}


def count(given: str) -> int:
    """A whole number from 1 on."""
    if not given.isdecimal() or len(given) > 18 or int(given) < 1:
        raise ArgumentTypeError(f"{given} is out of range; give a whole number from 1 on")
    return int(given)


def score(given: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(given)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{given} is out of range; give a number from 0 to 1")
    return value


def check_writable(path: Path, *, make_folder: bool = False) -> None:
    """Raise `NerError` unless a file can be written at `path`. Called before the work whose result it takes."""
    from ..entities import NerError

    if path.exists() and not path.is_file():
        raise NerError("not a regular file", place=path, remedy="give the name of a file")
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.open("ab").close()
        tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent).close()  # where it is made first
    except OSError as error:
        remedy = "write elsewhere" if path.parent.exists() else f"create {path.parent}, or write elsewhere"
        raise NerError(f"cannot be written ({error.strerror})", place=path, remedy=remedy) from error
