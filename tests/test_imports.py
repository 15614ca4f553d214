"""The direction of imports, and what stays unloaded until it is needed."""

import ast
import subprocess
import sys

import pytest
from rows import ROOT

PACKAGE = ROOT / "qwen_ner"
ORDER = [
    "columns",
    "entities",
    "codec",
    "files",
    "contract",
    "data",
    "evaluation",
    "inference",
    "hub",
    "serving",
    "training",
    "sweep",
    "cli",
]
SIDE_BY_SIDE = {("data", "evaluation"), ("evaluation", "data"), ("hub", "serving"), ("serving", "hub")}
HEAVY = {"data/tokenize.py", "evaluation/entity_f1.py"}
LIGHT = [
    "columns.py",
    "entities.py",
    "codec.py",
    "files.py",
    "contract.py",
    *(
        name
        for wing in ("data", "evaluation")
        for path in sorted((PACKAGE / wing).rglob("*.py"))
        if (name := path.relative_to(PACKAGE).as_posix()) not in HEAVY
    ),
]


def imports(path):
    """(module, is it imported when the file is) of every import, relative ones resolved."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.If)) for n in ast.walk(f)}
    for node in ast.walk(tree):
        at_top = id(node) not in inner
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*base, *([node.module] if node.module else [])]), at_top


def wing(module):
    return module.split(".")[1]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_left(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own not in ORDER:  # __init__ and __main__ hand on
        return
    for module, _ in imports(path):
        if module.startswith("qwen_ner."):
            other = wing(module)
            assert ORDER.index(other) <= ORDER.index(own), f"{path.name} imports {module}"
            assert (own, other) not in SIDE_BY_SIDE, f"{path.name} imports {module}"


@pytest.mark.parametrize("name", LIGHT)
def test_light_files_load_no_framework(name):
    heavy = [m for m, _ in imports(PACKAGE / name) if m.split(".")[0] in ("torch", "transformers")]
    assert not heavy


def test_help_loads_neither_torch_nor_transformers():
    code = """
import sys
from qwen_ner.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"torch", "transformers", "datasets", "yaml"} & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
