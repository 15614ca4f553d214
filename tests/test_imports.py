"""The shape of the package: which way imports run, what stays unloaded until it is needed, and how large a thing grows."""

import ast
import subprocess
import sys
from collections import Counter

from rows import ROOT

PACKAGE = ROOT / "qwen_ner"
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
ORDER = [
    "columns",
    "composed",
    "entities",
    "reach",
    "grounding",
    "codec",
    "inline",
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
SIDE_BY_SIDE = [{"data", "evaluation"}, {"hub", "serving"}]
FRAMEWORKS = {"torch", "transformers"}
WITH_FRAMEWORKS = {"data/tokenize.py", "evaluation/entity_f1.py"}
MODULES, LINES, LINES_OF_A_FUNCTION = 14, 300, 60


def wing_of(name):
    return name.split("/")[0].removesuffix(".py")


def imported(name):
    """The modules that a file imports anywhere in it, relative ones resolved."""
    package = ("qwen_ner", *name.split("/")[:-1])
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1 if node.level else 0], *filter(None, [node.module])]
            )
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def test_a_file_imports_only_from_its_left_and_nothing_beside_it():
    """So a recipe, which is read in training/, is known to training/, sweep/ and cli/ alone."""
    faults = []
    for name in FILES:
        wing = wing_of(name)
        if wing not in ORDER:  # __init__ and __main__ hand on
            continue
        for module in imported(name):
            other = [*module.split("."), ""][1]
            if module.startswith("qwen_ner.") and other in ORDER:
                up = ORDER.index(other) > ORDER.index(wing)
                if up or {wing, other} in SIDE_BY_SIDE:
                    faults.append(f"{name} imports {module}")
    assert not faults


def test_each_wing_has_its_place_in_the_order():
    wings = {wing_of(name) for name in FILES} - {"__init__", "__main__"}
    assert wings <= {*ORDER}


def test_data_codec_and_scores_need_no_framework():
    light = [name for name in FILES if wing_of(name) in ORDER[: ORDER.index("inference")]]
    loaded = {name: FRAMEWORKS & {module.split(".")[0] for module in imported(name)} for name in light}
    assert {name for name, frameworks in loaded.items() if frameworks} <= WITH_FRAMEWORKS


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


def test_a_folder_holds_few_modules():
    folders = Counter(path.parent for name, path in FILES.items() if path.name != "__init__.py")
    assert not {str(folder): count for folder, count in folders.items() if count > MODULES}


def test_a_file_is_short():
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert not {name: count for name, count in lines.items() if count > LINES}


def test_a_function_is_short():
    """Its signature and body; what a docstring says and shows is not counted."""
    lengths = {}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[0]
                docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
                lengths[f"{name}: {node.name}"] = node.end_lineno - node.lineno + 1 - docstring
    assert not {where: length for where, length in lengths.items() if length > LINES_OF_A_FUNCTION}


WITHOUT_POSIX = """
import builtins, importlib, sys
import_module, root = builtins.__import__, sys.argv[1]
sys.path[:0] = [root, root + "/benchmarks"]

def without(name, globals=None, locals=None, fromlist=(), level=0):  # other packages know which system they are on, and ask for theirs
    if name in ("fcntl", "resource") and str((globals or {}).get("__file__")).startswith((root + "/qwen_ner", root + "/benchmarks")):
        raise ModuleNotFoundError(name=name)
    return import_module(name, globals, locals, fromlist, level)

builtins.__import__ = without
failed = {}
for name in sys.stdin.read().split():
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed[name] = error.name
print(sorted(name for name, absent in failed.items() if absent in ("fcntl", "resource")))
"""


def test_every_module_can_be_imported_where_fcntl_and_resource_are_absent():
    """As on Windows."""
    names = [f"qwen_ner.{name.removesuffix('.py').replace('/', '.').removesuffix('.__init__')}" for name in FILES]
    benchmarks = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py"))]
    asked = [name for name in [*names, *benchmarks] if name not in ("qwen_ner.__init__", "qwen_ner.__main__")]
    command = [sys.executable, "-c", WITHOUT_POSIX, str(ROOT)]
    done = subprocess.run(command, input="\n".join(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_names_that_only_posix_has_are_asked_for_first():
    """`os.killpg` and the like are absent on Windows, `os.sched_getaffinity` on macOS as well."""
    posix = {"sched_getaffinity", "uname", "killpg", "getpgid", "SIGKILL", "getuid", "fork"}
    used = {name for name, tree in TREES.items() for node in ast.walk(tree) if getattr(node, "attr", "") in posix}
    asking = {name for name in used if 'hasattr(os, "' in FILES[name].read_text(encoding="utf-8")}
    assert used == asking == {"inference/cores.py", "sweep/trial.py"}
