"""`qwen-ner` as the pages type it: run in this process, on what the tests have trained, or parsed.

In: its words and the `Cast` whose folder is the current one. A command that neither trains nor serves is run; of a training
the recipe is loaded with its overrides, and the toy stands in for its model; what reaches other hosts is parsed.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

import pytest
from page_cast import Cast

from qwen_ner import cli
from qwen_ner.sweep.sweep_file import check_recipe, read_sweep
from qwen_ner.training.recipe import load_recipe

NEEDS_A_GPU = ("bf16", "fp16", "tf32", "bf16_full_eval")
ON_CPU = ["--use_cpu", *(word for key in NEEDS_A_GPU for word in (f"--{key}", "false"))]
REMOTE = re.compile(r"https?://|s3://|modelscope:|--engine[ =]ray")
"""In a line of `qwen-ner`: what no test reaches. Such a line is parsed."""


def run(words: list[str], cast: Cast, given: str | None) -> str | None:
    target = None
    if ">" in words:
        words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
    argv = words[1:]
    if "--help" in argv:
        return _in_process(argv, None)[1]
    options, rest = _parsed(argv)
    if options.command in ("train", "folds"):
        return check_training(options.recipe, rest, cast, folds=options.command == "folds")
    if options.command == "sweep":
        return check_sweep(options.sweep, cast)
    if options.command == "serve" or REMOTE.search(" ".join(argv)):
        return None
    return _run(argv, options, cast, given, target)


def _parsed(argv: list[str]):
    assert argv, "qwen-ner without a command"
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(err):
            options, rest = cli.build_parser(argv[:1]).parse_known_args(argv)
    except SystemExit:
        raise AssertionError(err.getvalue()) from None
    assert not rest or options.command in cli.WITH_OVERRIDES, f"unrecognized arguments: {rest}"
    return options, rest


def check_training(recipe: Path, overrides: list[str], cast: Cast, folds: bool = False) -> None:
    """The recipe and its overrides are right; what the training would leave is there afterwards."""
    cast.provide(str(recipe))
    loaded = load_recipe(recipe, [*overrides, *ON_CPU])
    if folds:
        cast.pretend_to_fold(loaded.training.output_dir, loaded.data.dataset)
    else:
        cast.pretend_to_train(loaded.training.output_dir)


def check_sweep(path: Path, cast: Cast) -> None:
    """Its keys are a recipe's, and Optuna can draw its values."""
    cast.provide(str(path))
    sweep = read_sweep(path)
    faults = [*sweep.local_faults, *check_recipe(sweep)[0]]
    assert not faults, "; ".join(map(str, faults))


def _run(argv: list[str], options, cast: Cast, given: str | None, target: str | None) -> str:
    """Run it; returns what it printed."""
    written = _written(options)
    for place in written:
        cast.clear(place)
    cast.provide(" ".join(word for word in argv if word not in written))
    argv = [*argv, *_for_here(options, cast)]
    code, out, err = _in_process(argv, given)
    assert not code or options.command == "doctor", f"exit code {code}\n{out[-1000:]}{err[-2000:]}"
    for place in written:
        assert place in cast.hub.repos or _size(cast.folder / place), f"{place} was not written"
    assert out or err or written, "it said nothing"
    if target:
        (cast.folder / target).write_text(out, encoding="utf-8")
    return out


def _for_here(options, cast: Cast) -> list[str]:
    """Options that keep a command short and off the network, where the page leaves that open."""
    if options.command == "evaluate" and options.limit is None:
        predictions = Path(options.model)
        return ["--limit", str(len(predictions.read_bytes().splitlines())) if predictions.is_file() else "20"]
    if options.command != "doctor":
        return []
    more = ["--model_name_or_path", str(cast.tiny), *ON_CPU]
    if options.recipe.parent == Path("recipes") or not options.recipe.is_file():  # one that ships, by its name
        cast.provide("data/medicine")
        more += ["--dataset", "data/medicine"]
    return more


def _written(options) -> list[str]:
    """The files and folders that the command writes, the repository to which it pushes."""
    of_command = {"convert": ["target"], "export": ["out"], "push": ["repo_id"]}
    names = of_command.get(options.command, ["output", "json", "report", "plots"])
    return [str(place) for name in names if (place := getattr(options, name, None))]


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.stat().st_size for path in files if path.is_file())


def _in_process(argv: list[str], given: str | None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `qwen-ner ARGV`."""
    texts = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code: object = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((given or "").encode()), encoding="utf-8"))
        with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
            try:
                cli.main(argv)
            except SystemExit as stopped:
                code = stopped.code or 0
    out, err = (text.buffer.getvalue().decode() for text in texts)
    return (code, out, err) if isinstance(code, int) else (1, out, f"{err}{code}")
