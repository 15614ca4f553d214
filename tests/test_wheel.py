"""What a wheel holds, and what works where nothing but it is there."""

import shutil
import subprocess
import sys
import zipfile

import pytest
from rows import ROOT
from warm_python import warm_python

FOLDERS = ("recipes", "accelerate_configs")
BUILD = """
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1])
"""
FROM = """
import runpy, sys
from pathlib import Path
for name in [name for name in sys.modules if name.partition(".")[0] == "qwen_ner"]:
    del sys.modules[name]  # the checkout's, which a fork has imported
sys.path.insert(0, folder := sys.argv.pop(1))
import qwen_ner.training.run
assert Path(folder) in Path(qwen_ner.training.run.__file__).parents
runpy.run_module("qwen_ner", run_name="__main__", alter_sys=True)
"""
"""`python -m qwen_ner` of the package in a folder."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of this tree is unpacked to."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "out"))
    for name in ("qwen_ner", *FOLDERS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(out / "site")
    return out / "site"


@pytest.mark.slow
def test_a_wheel_holds_the_recipes_and_the_accelerate_configs(installed):
    for folder in FOLDERS:
        shipped = {path.name: path.read_bytes() for path in (installed / "qwen_ner" / folder).iterdir()}
        assert shipped == {path.name: path.read_bytes() for path in (ROOT / folder).iterdir()}


@pytest.mark.slow
def test_a_recipe_is_trained_by_its_name_in_an_empty_folder(installed, tmp_path):
    few = (
        "--max_steps 1 --max_train_samples 8 --max_eval_samples 2 --max_new_tokens 4 --eval_strategy no --save_strategy no "
        "--load_best_model_at_end false --eval_on_start false --early_stopping_patience none"
    )
    done = warm_python.run([sys.executable, "-c", FROM, installed, "train", "quickstart", *few.split()], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "quickstart" / "model.safetensors").is_file()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_git_ignores_data_and_outputs_of_a_user_but_no_folder_of_the_package():
    paths = ["data/train.jsonl", "outputs/lora/model.safetensors", "qwen_ner/data/new.py", "tests/data/test_new.py"]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == paths[:2]
