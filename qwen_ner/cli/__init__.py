"""`qwen-ner`: the command line, and how a command ends.

In: the arguments. Out: exit code 0, or 1 with a message that says what to do, 2 for wrong arguments, 130 after Ctrl-C,
141 where the reader of standard output has gone. A command is a module of this package that is listed in `COMMANDS`: it
has `add_arguments(parser)` and `run(options, rest)`, and its docstring is its help. It imports what it runs inside of
`run`, so that `--help` loads no framework.
"""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from ..columns import printable

COMMANDS = (
    *("data.init", "recipe", "train", "doctor", "sweep", "folds", "evaluate", "compare", "predict", "serve"),
    *("push", "export", "data.convert", "data.stats", "data.audit", "data.select"),
)
WITH_OVERRIDES = ("train", "doctor", "folds")
"""Commands that take `--key value` for any key of the recipe."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. Called by `qwen-ner`, `python -m qwen_ner`, and a recipe that is itself launched."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.encoding.lower() != "utf-8":
        if sys.stdout.isatty():
            sys.stdout.reconfigure(errors="backslashreplace")
        else:  # UTF-8, as files are, whatever the locale is
            sys.stdout.reconfigure(encoding="utf-8")
    try:
        if argv is None:
            argv = sys.argv[1:]
            if Path(sys.argv[0]).suffix in (".yaml", ".yml"):  # `accelerate launch recipes/X.yaml`
                argv = ["train", *sys.argv]
        _run(argv)
    except OSError as error:
        if _end_output() and isinstance(error, BrokenPipeError):
            sys.exit(128 + 13)  # what a shell reports for a process that SIGPIPE has ended
        sys.exit(f"error: {printable(_explain(error))}")
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}".rstrip(": "), file=sys.stderr)
        sys.exit(130)
    finally:
        _leave_group()


def _run(argv: Sequence[str]) -> None:
    parser = build_parser(argv[:1])
    for argument in argv:
        if argument != argument.encode(errors="replace").decode():
            parser.error(f"an argument is not UTF-8: {os.fsencode(argument)!r}; rename the file, or set a UTF-8 locale")
    options, rest = parser.parse_known_args(argv)
    if rest and options.command not in WITH_OVERRIDES:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _quiet_libraries()
    from ..entities import NerError

    try:
        options.run(options, rest)
        sys.stdout.flush()
    except NerError as error:
        sys.exit(f"error: {error}")


def build_parser(names: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, with the arguments of those in `names`, or of all, which takes longer.

    `run` and `command` of what it parses are the command's function and name.
    """
    parser = argparse.ArgumentParser(
        prog="qwen-ner", description="Fine-tune a small Qwen to extract named entities by writing JSON."
    )
    subparsers = parser.add_subparsers(required=True, metavar="command", dest="command")
    for place in COMMANDS:
        module, name = importlib.import_module(f".{place}", __name__), place.rpartition(".")[2]
        summary, _, more = (module.__doc__ or "").partition("\n")
        command = subparsers.add_parser(name, help=summary.rstrip("."), description=more or summary)
        if names is None or name in names:
            module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


class _Printable(logging.Formatter):
    """Logs texts and labels without what would command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _quiet_libraries() -> None:
    rank = int(os.environ.get("RANK", "0"))
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO if rank == 0 else logging.ERROR)
    for noisy in ("httpx", "datasets", "evaluate", "filelock", "fsspec", "torch", "accelerate", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft asks for it
    if not sys.stderr.isatty():  # read by the libraries at import: no progress bars in log files
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _explain(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{place}{error.strerror or error}{'; free space or write elsewhere' if full else ''}"


def _end_output() -> bool:
    """Discard what standard output cannot take (Python's exit would fail on it); returns whether its reader is gone."""
    unread = True
    if hasattr(select, "poll"):  # Windows lacks it: there a broken pipe is taken for that of standard output
        watch = select.poll()
        watch.register(1, 0)
        unread = bool(watch.poll(0))
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return unread


def _leave_group() -> None:
    """Destroy this process's group: a gloo thread that outlives it may abort the interpreter at exit.

    A model under DDP holds the group, so the trainer, which is a reference cycle, is collected first.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()
