"""Runs or checks a command line of the pages, as a shell would split it.

In: a line and the `Cast` whose folder is the current one. A command of ours that neither trains nor serves is run, on what
the tests have trained; of a training the recipe is loaded with its overrides; of the others, what they name is checked.
Raises `AssertionError` with what a reader would meet, and for a program that is not in `KINDS`.
"""

import contextlib
import functools
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from page_cast import Cast
from rows import ROOT
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.sweep.sweep_file import check_recipe, read_sweep
from qwen_ner.training.recipe import load_recipe

NEEDS_A_GPU = ("bf16", "fp16", "tf32", "bf16_full_eval")
ON_CPU = ["--use_cpu", *(word for key in NEEDS_A_GPU for word in (f"--{key}", "false"))]
REMOTE = re.compile(r"https?://|s3://|modelscope:|--engine[ =]ray")
"""In a line of `qwen-ner`: what no test reaches. Such a line is parsed."""

LOCAL = re.compile(r"(\./)?(recipes|accelerate_configs|benchmarks|experiments|tests|docs|docker|tools)/")
SERVED = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000")


def with_sample(text: str) -> str:
    """What the pages do with CLUENER is done here with the sample."""
    text = re.sub(r"outputs/f1_budget/[\w-]+", "outputs/quickstart", text)
    return re.sub(
        r"((?:--data|--dataset|convert|init|read_dataset\(|dataset=) ?[\"']?)cluener\b(?!\.)", r"\1sample", text
    )


def leaves_something(line: str) -> bool:
    """Whether a later command of the page may need what this one makes."""
    words = set(re.split(r"[\s=]+", line))
    return bool(
        words
        & {
            "--output",
            "--json",
            "--report",
            "--plots",
            ">",
            "init",
            "convert",
            "export",
            "push",
            "train",
            "launch",
            "folds",
            "curl",
        }
    )


def run(line: str, cast: Cast) -> None:
    given = None
    for operator, words in split(with_sample(line)):
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            del words[0]
        if not words:
            continue
        program = words[0].rpartition("/")[2]
        assert program in KINDS, f"{program}: no test knows this program; add it to KINDS of tests/page_commands.py"
        given = KINDS[program](words, cast, given if operator == "|" else None)


def split(line: str) -> list[tuple[str, list[str]]]:
    """[(the operator before it, words)] of each command in a line; a redirection is its last two words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for word in lexer:
        if re.fullmatch(r"[|&;]+", word):
            parts.append((word, []))
        else:
            parts[-1][1].append(word)
    return parts


def _ours(words: list[str], cast: Cast, given: str | None) -> str | None:
    target = None
    if ">" in words:
        words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
    argv = words[1:]
    if "--help" in argv:
        return _in_process(argv, None)[1]
    options, rest = _parsed(argv)
    if options.command in ("train", "folds"):
        return _trains(options.recipe, rest, cast, folds=options.command == "folds")
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


def _trains(recipe: Path, overrides: list[str], cast: Cast, folds: bool = False) -> None:
    cast.provide(str(recipe))
    loaded = load_recipe(recipe, [*overrides, *ON_CPU])
    cast.pretend_to_train(loaded.training.output_dir, folds)


def check_sweep(path: Path, cast: Cast) -> None:
    """Its keys are a recipe's, and Optuna can draw its values."""
    cast.provide(str(path))
    sweep = read_sweep(path)
    assert not sweep.local_faults
    assert not check_recipe(sweep)[0]


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
        return ["--limit", "2" if Path(options.model).is_file() else "20"]
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


def _accelerate(words: list[str], cast: Cast, given: str | None) -> str | None:
    """`accelerate launch [options] RECIPE --key value` or `… -m qwen_ner COMMAND …`, as one process."""
    if words[1:2] != ["launch"]:
        assert words[1:2] in (["config"], ["env"], ["test"], ["estimate-memory"]), f"accelerate {words[1]}"
        return None
    options = launch_command_parser().parse_args(words[2:])
    if options.config_file:
        _exist([options.config_file], cast)
    if options.module:
        assert options.training_script == "qwen_ner"
        return _ours(["qwen-ner", *options.training_script_args], cast, given)
    return _trains(Path(options.training_script), options.training_script_args, cast)


def _python(words: list[str], cast: Cast, given: str | None) -> str | None:
    """Ours by `-m qwen_ner`; of a script of the checkout whether it has the options."""
    if words[1] == "-m":
        if words[2] == "qwen_ner":
            return _ours(words[2:], cast, given)
        assert words[2] in MODULES, f"python -m {words[2]}: no test knows this module"
        return _exist(words[3:], cast)
    if words[1] == "-c":
        compile(words[2], "-c", "exec")
        return None
    _exist(words[1:], cast)
    options = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
    missing = [option for option in options if option not in _help_of(str(ROOT / words[1]))]
    assert not missing, f"{words[1]} has no {missing}"
    return None


@functools.cache
def _help_of(script: str) -> list[str]:
    """The options of a script of benchmarks/, experiments/, tools/. Run on the toy they are in their own tests."""
    shown = warm_python.run([sys.executable, script, "--help"], check=True).stdout
    return re.findall(r"--[\w-]+", shown)


def _pip(words: list[str], cast: Cast, given: str | None) -> None:
    """The extras that it names are ours, the files are there."""
    known = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    for word in words[1:]:
        if found := re.match(r"(?:\.|qwen[_-]ner)\[([\w,-]+)\]", word):
            missing = [name for name in found[1].split(",") if f"\n{name} = [" not in known]
            assert not missing, f"no extra {missing}"
    files = [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("-c", "-r")]
    missing = [name for name in files if not (ROOT / name).is_file()]
    assert not missing, f"no file {missing}"


def _make(words: list[str], cast: Cast, given: str | None) -> None:
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def _curl(words: list[str], cast: Cast, given: str | None) -> str | None:
    """What is asked of our server is asked of one; other addresses are not reached."""
    if not SERVED.search(" ".join(words)):
        return None
    pytest.importorskip("uvicorn")
    if not shutil.which("curl"):
        pytest.skip("no curl")
    cast.provide(" ".join(words))
    asked = ["curl", "--fail-with-body", *(SERVED.sub(cast.url(), word) for word in words[1:])]
    done = subprocess.run(asked, input=given, capture_output=True, text=True, timeout=30)
    assert not done.returncode, f"{done.stdout}{done.stderr}"
    assert done.stdout or {"-o", "-O"} & set(words), "an empty answer"
    return done.stdout


def _wandb(words: list[str], cast: Cast, given: str | None) -> None:
    if words[1] == "sweep":
        check_sweep(Path(words[-1]), cast)
    else:
        assert words[1] in ("agent", "login", "sync", "offline", "online"), f"wandb {words[1]}"


def _cat(words: list[str], cast: Cast, given: str | None) -> str | None:
    cast.provide(" ".join(words))
    names = [word for word in words[1:] if not word.startswith("-") and not word.isdecimal()]
    missing = [name for name in names if not (cast.folder / name).is_file()]
    assert not missing, f"no file {missing}"
    return "".join((cast.folder / name).read_text(encoding="utf-8") for name in names) if names else given


def _other(words: list[str], cast: Cast, given: str | None) -> None:
    _exist(words[1:], cast)


def _exist(words: list[str], cast: Cast) -> None:
    """Those of the words that name a file of the checkout are there."""
    missing = [word for word in words if LOCAL.match(word) and not (cast.folder / word.split("::")[0]).exists()]
    assert not missing, f"no file {missing}"


MODULES = ("venv", "pip", "pytest", "vllm.entrypoints.openai.api_server", "ipykernel", "http.server")
OTHERS = (
    *("git", "cd", "export", "source", ".", "set", "mkdir", "cp", "mv", "tar", "unzip", "echo", "ls", "nvidia-smi"),
    *(
        "ssh",
        "scp",
        "rsync",
        "docker",
        "kubectl",
        "vllm",
        "ray",
        "hf",
        "modelscope",
        "tensorboard",
        "mkdocs",
        "jq",
        "uv",
    ),
    *("apt", "apt-get", "sudo", "nohup", "tmux", "jupyter", "deepspeed"),
)
"""Programs whose own options are not ours to check."""

Kind = Callable[[list[str], Cast, "str | None"], "str | None"]
KINDS: dict[str, Kind] = {
    "qwen-ner": _ours, "accelerate": _accelerate, "python": _python, "python3": _python, "pip": _pip, "make": _make,
    "curl": _curl, "wandb": _wandb, "cat": _cat, "head": _cat, "tail": _cat, "wc": _cat,
    **dict.fromkeys(OTHERS, _other),
}  # fmt: skip
