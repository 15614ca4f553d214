"""A tiny recipe, its data and its model, to plant faults in."""

import shutil

import pytest
from rows import EIGHT
from safetensors.numpy import save_file
from training.doctor.scenes import LABELS, numbered

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.training.plan import TrainingPlan
from qwen_ner.training.recipe import load_recipe


@pytest.fixture
def folder(tmp_path):
    """A data set whose splits have no text in common."""
    write_jsonl(tmp_path / "data" / "train.jsonl", numbered(EIGHT * 12, "训"))
    write_jsonl(tmp_path / "data" / "dev.jsonl", numbered(EIGHT * 4, "测"))
    return tmp_path


@pytest.fixture
def base(tiny, folder):
    """A copy of the tiny model whose file of weights holds none: a doctor reads none. To plant faults in."""
    copy = folder / "base"
    shutil.copytree(tiny, copy)
    save_file({}, copy / "model.safetensors")
    return copy


@pytest.fixture
def recipe(folder, base):
    def write(**values):
        path = folder / "recipe.yaml"
        given = {
            "model_name_or_path": base, "dataset": folder / "data", "labels": LABELS, "system_prompt": "找出实体", "use_cpu": "true",
            "validation_rows": 8, "num_train_epochs": 8, "per_device_train_batch_size": 4, "max_new_tokens": 96,
            "output_dir": folder / "out", **values,
        }  # fmt: skip
        path.write_text("".join(f"{key}: {value}\n" for key, value in given.items()), encoding="utf-8")
        return path

    return write


@pytest.fixture
def plan(recipe, tmp_path_factory):
    """The doctor's plan of the recipe."""

    def plan(launch=None, **values):
        folder = tmp_path_factory.mktemp("plan")
        return TrainingPlan(load_recipe(recipe(**values)), folder, launch=launch, outline=True)

    return plan
