"""Runs or checks a command line of the pages, as a shell would split it.

In: a line and the `Cast` whose folder is the current one. Commands of ours are run or checked by page_ours.py; of the others,
what they name of ours is checked.
Raises `AssertionError` with what a reader would meet, and for a program that is not in `KINDS`.
"""

import functools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import page_ours
import pytest
from accelerate.commands.launch import launch_command_parser
from page_cast import Cast
from rows import ROOT
from warm_python import warm_python

LOCAL = re.compile(r"(\./)?(recipes|accelerate_configs|benchmarks|experiments|tests|docs|docker|tools)/")
MAKES = {
    "--output",
    "--json",
    "--report",
    "--plots",
    ">",
    ">>",
    "init",
    "convert",
    "export",
    "push",
    "train",
    "launch",
    "folds",
}
SERVED = re.compile(r"http://(?:127\.0\.0\.1|localhost):8000")


def with_sample(text: str) -> str:
    """What the pages do with CLUENER is done here with the sample."""
    text = re.sub(r"outputs/f1_budget/[\w-]+", "outputs/quickstart", text)
    return re.sub(
        r"((?:--data|--dataset|convert|init|read_dataset\(|dataset=) ?[\"']?)cluener\b(?!\.)", r"\1sample", text
    )


def leaves_something(line: str) -> bool:
    """Whether a later command of the page may need what this one makes."""
    return bool(MAKES & set(re.split(r"[\s=]+", line)))


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


def _accelerate(words: list[str], cast: Cast, given: str | None) -> str | None:
    """`accelerate launch [options] RECIPE --key value` or `… -m qwen_ner COMMAND …`, as one process."""
    if words[1:2] != ["launch"]:
        assert words[1:2] in (["config"], ["env"], ["test"], ["estimate-memory"]), f"accelerate {words[1]}"
        return None
    options = launch_command_parser().parse_args(words[2:])
    if options.config_file:
        _exist([options.config_file], cast)
    if options.module:
        assert options.training_script == "qwen_ner", f"-m {options.training_script}"
        return page_ours.run(["qwen-ner", *options.training_script_args], cast, given)
    return page_ours.check_training(Path(options.training_script), options.training_script_args, cast)


def _python(words: list[str], cast: Cast, given: str | None) -> str | None:
    """Ours by `-m qwen_ner`; of a script of the checkout whether it has the options."""
    if words[1] == "-m":
        if words[2] == "qwen_ner":
            return page_ours.run(words[2:], cast, given)
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
        page_ours.check_sweep(Path(words[-1]), cast)
    else:
        assert words[1] in ("agent", "login", "sync", "offline", "online"), f"wandb {words[1]}"


def _cat(words: list[str], cast: Cast, given: str | None) -> str | None:
    cast.provide(" ".join(words))
    words, target = (words[:-2], words[-1]) if words[-2] in (">", ">>") else (words, None)
    names = [word for word in words[1:] if not word.startswith("-") and not word.isdecimal()]
    missing = [name for name in names if not (cast.folder / name).is_file()]
    assert not missing, f"no file {missing}"
    shown = "".join((cast.folder / name).read_text(encoding="utf-8") for name in names) if names else given
    if target is None:
        return shown
    with (cast.folder / target).open("a", encoding="utf-8") as file:  # of a page's own folder: what > makes is new
        file.write(shown or "")
    return None


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
    *("apt", "apt-get", "sudo", "chmod", "nohup", "tmux", "jupyter", "deepspeed"),
)
"""Programs whose own options are not ours to check."""

Kind = Callable[[list[str], Cast, "str | None"], "str | None"]
KINDS: dict[str, Kind] = {
    "qwen-ner": page_ours.run, "accelerate": _accelerate, "python": _python, "python3": _python, "pip": _pip, "make": _make,
    "curl": _curl, "wandb": _wandb, "cat": _cat, "head": _cat, "tail": _cat, "wc": _cat,
    **dict.fromkeys(OTHERS, _other),
}  # fmt: skip
