"""What a wheel holds, and what works where nothing but it is there."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from rows import ROOT

FOLDERS = ("recipes", "accelerate_configs")
BUILD = """
import sys
from setuptools import build_meta
build_meta.build_wheel(sys.argv[1])
"""


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
    few = "--max_steps 1 --max_train_samples 8 --max_eval_samples 2 --max_new_tokens 4 --eval_strategy no --save_strategy no"
    command = [
        sys.executable,
        "-m",
        "qwen_ner",
        "train",
        "quickstart",
        *few.split(),
        "--load_best_model_at_end",
        "false",
    ]
    command += ["--eval_on_start", "false", "--early_stopping_patience", "none"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "quickstart" / "model.safetensors").is_file()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_git_ignores_data_and_outputs_of_a_user_but_no_folder_of_the_package():
    paths = ["data/train.jsonl", "outputs/lora/model.safetensors", "qwen_ner/data/new.py", "tests/data/test_new.py"]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == paths[:2]
