"""Runs the blocks of a page from top to bottom, as its reader would.

In: blocks, and the `Cast` whose folder is the current one. `sh` is run line by line (page_commands.py), `python` in one
namespace a page, `json` and `yaml` are read by what reads such files. Raises `AssertionError` with what the reader would
meet, and for a language that nothing here reads.
"""

import ast
import importlib
import importlib.util
import json
import re
from collections.abc import Iterator

import page_commands
import page_ours
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from page_cast import Cast
from pages import Block
from rows import ROOT

from qwen_ner.data.formats import jsonl
from qwen_ner.training.recipe import LAUNCHER_KEY, load_recipe

SHOWN = ("text", "csv", "html", "xml", "dockerfile", "diff", "js", "toml", "bibtex")
"""Languages of what is looked at: output, and files that are no input of ours."""

ELSEWHERE = re.compile(r"s3://|:8100|modelscope:")
NOT_RUN = {"ray", "pyspark", "vllm", "modelscope", "deepspeed"}
"""What Python code needs that no test has: such code is compiled, and what it imports of ours is imported."""


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """(place, text) of each part of a block that is run by itself."""
    if block.language != "sh":
        yield block.place, block.text
        return
    name, _, line = block.place.rpartition(":")
    for number, text in enumerate(block.text.splitlines(), int(line) + 1):
        yield f"{name}:{number}", text


def run(language: str, text: str, cast: Cast, namespace: dict) -> None:
    """Do what `text` says; `namespace` holds what the Python of the page has defined."""
    if language == "sh":
        page_commands.run(text, cast)
    elif language == "python":
        _run_python(text, cast, namespace)
    elif language == "json":
        _read_json(text, cast)
    elif language == "yaml":
        _read_yaml(text, cast)
    else:
        assert language in SHOWN, f"```{language}: commands are sh, output is text; no test reads others"


def _run_python(text: str, cast: Cast, namespace: dict) -> None:
    text = page_commands.with_sample(text)
    tree = ast.parse(text)
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    roots = {name.partition(".")[0] for name in names}
    if ELSEWHERE.search(text) or roots & NOT_RUN:
        for node in imports:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("qwen_ner"):
                module = importlib.import_module(node.module)
                missing = [name.name for name in node.names if not hasattr(module, name.name)]
                assert not missing, f"{node.module} has no {missing}"
        return
    missing = [root for root in sorted(roots) if importlib.util.find_spec(root) is None]
    assert not missing, f"{missing} cannot be imported; add to NOT_RUN of tests/page_blocks.py what no test can have"
    cast.provide(text)
    if page_commands.SERVED.search(text):
        text = page_commands.SERVED.sub(cast.url(), text)
    exec(compile(text, "page", "exec"), namespace)


def _read_json(text: str, cast: Cast) -> None:
    """JSON or JSONL. Rows are read by our reader; those of one text are forms of the same."""
    try:
        values = [json.loads(text)]
    except json.JSONDecodeError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    found: dict[str, set] = {}
    for value in values:
        if (
            isinstance(value, dict)
            and "text" in value
            and value.keys() & {"entities", "label"}
            and "problems" not in value
        ):
            (cast.folder / "row.jsonl").write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
            (row,) = jsonl.read(cast.folder / "row.jsonl")
            found.setdefault(row.text, set()).add(row.entities)
    assert all(len(forms) == 1 for forms in found.values()), f"rows of one text that differ: {found}"


def _read_yaml(text: str, cast: Cast) -> None:
    """A sweep, a file of accelerate, one of another tool's, a recipe, or keys that a recipe can have."""
    tree = yaml.safe_load(text)
    assert isinstance(tree, dict), "not `key: value` lines"
    place = cast.folder / "block.yaml"
    place.write_text(text, encoding="utf-8")
    if tree.keys() & {"parameters", "early_terminate"}:
        whole = yaml.safe_load((ROOT / "recipes" / "sweep.yaml").read_text(encoding="utf-8"))
        place.write_text(yaml.safe_dump({**whole, **tree}), encoding="utf-8")
        page_ours.check_sweep(place, cast)
    elif tree.keys() & {"compute_environment", "distributed_type", "num_processes"}:
        load_config_from_file(str(place))
    elif not tree.keys() & {"apiVersion", "jobs", "services", "cluster_name", "repos", "on", True}:
        cast.provide(text)
        if not {"model_name_or_path", "dataset", "output_dir"} <= tree.keys():
            lora = yaml.safe_load((ROOT / "recipes" / "lora.yaml").read_text(encoding="utf-8"))
            del lora[LAUNCHER_KEY]
            place.write_text(yaml.safe_dump({**lora, **tree}, allow_unicode=True), encoding="utf-8")
        load_recipe(place, page_ours.ON_CPU)
