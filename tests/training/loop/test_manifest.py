"""Which checkpoints are as they were written, and of which training: on those of a real one."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from qwen_ner.entities import NerError
from qwen_ner.training.loop.checkpoints import best_of, checkpoint_to_resume
from qwen_ner.training.loop.manifest import MANIFEST, MODEL_ONLY, fault_of, weights_fingerprint, write_manifest
from qwen_ner.training.model import load_model
from qwen_ner.training.recipe import load_recipe

RESUMED = ("optimizer.pt", "scheduler.pt", "rng_state.pth")

BEFORE, LAST = "checkpoint-20", "checkpoint-40"


@pytest.fixture(params=["full", "adapter"])
def output(request, trained, tmp_path):
    ignored = shutil.ignore_patterns("*.html", "*.jsonl", "tiny")
    return shutil.copytree(trained[request.param], tmp_path / "moved", ignore=ignored)


@pytest.fixture
def full(trained, tmp_path):
    return shutil.copytree(trained["full"], tmp_path / "moved", ignore=shutil.ignore_patterns("*.html", "*.jsonl"))


def origin(output):
    return json.loads((output / BEFORE / MANIFEST).read_text())["origin"]


def chosen(output, *overrides, now=None):
    recipe = load_recipe(output / "recipe.yaml", ["--output_dir", str(output), *overrides])
    found = checkpoint_to_resume(recipe, now or origin(output))
    return found and found.removeprefix(f"{output}/")


def cut(path):
    path.write_bytes(path.read_bytes()[:-2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def blank(path):
    content = path.read_bytes()
    at = max(0, len(content) // 2 - 2048)
    path.write_bytes(content[:at] + bytes(min(4096, len(content) - at)) + content[at + 4096 :])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


class Foreign:
    def __reduce__(self):
        return pytest.fail, ("a foreign pickle was run",)


def foreign(path):
    path.write_bytes(pickle.dumps(Foreign()))


DAMAGES = (cut, flip, blank, empty, remove, folder, foreign)


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_file_is_damaged_the_checkpoint_before_is_taken_with_a_line(output, damage, caplog):
    assert chosen(output) == LAST
    whole = output / LAST
    kept = shutil.copytree(whole, output / "kept")
    for name in sorted(path.name for path in whole.iterdir()):
        damage(whole / name)
        caplog.clear()
        assert chosen(output) == BEFORE, name
        assert f"Skipping {whole}" in caplog.text
        with pytest.raises(NerError) as error:
            chosen(output, "--resume_from_checkpoint", str(whole))
        assert (error.value.place, error.value.value) == ("resume_from_checkpoint", str(whole))
        shutil.rmtree(whole)
        shutil.copytree(kept, whole)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"null", b'{"origin": {}}', b'{"origin": 1, "files": []}', b"[" * 9999]
)
def test_a_manifest_that_is_none(full, content):
    (full / LAST / MANIFEST).write_bytes(content)
    assert fault_of(full / LAST).startswith(f"{MANIFEST} is damaged")
    assert chosen(full) == BEFORE


@pytest.mark.parametrize("name", ["pytorch_model.bin", "scaler.pt", "other.safetensors"])
def test_a_file_that_was_put_there_is_not_loaded(full, name):
    foreign(full / LAST / name)
    assert name in fault_of(full / LAST)


def test_without_optimizer_one_is_passed_over_and_none_at_all_is_refused(full):
    def strip(checkpoint):
        for name in RESUMED:
            (checkpoint / name).unlink()
        write_manifest(checkpoint, now)

    now = origin(full)
    strip(full / LAST)
    assert fault_of(full / LAST) == MODEL_ONLY
    assert chosen(full, now=now) == BEFORE
    strip(full / BEFORE)
    with pytest.raises(NerError) as error:
        chosen(full, now=now)
    assert (error.value.place, error.value.value) == ("output_dir", str(full))
    assert "--resume_from_checkpoint none" in error.value.remedy
    assert chosen(full, "--resume_from_checkpoint", "none", now=now) is None


def test_a_training_goes_on_only_from_its_own_data_prompt_model_and_settings(full):
    now = origin(full)
    assert {
        "tokens of the first rows",
        "data_fingerprint",
        "labels",
        "system_prompt",
        "validation fingerprint",
        "adapter",
        "seed",
    } < now.keys()
    for key in now.keys() - {"processes"}:
        with pytest.raises(NerError) as error:
            chosen(full, now=now | {key: "another"})
        assert error.value.place == str(full / LAST)
        assert error.value.value.startswith(f"{key} ")
        assert error.value.value.endswith(" → another")
        assert "--output_dir" in error.value.remedy
        assert "--resume_from_checkpoint none" in error.value.remedy
    for path in (f"{full / LAST}", f"{full / LAST}/"):
        with pytest.raises(NerError) as error:  # which another output_dir would not help
            chosen(full, "--resume_from_checkpoint", path, now=now | {"seed": 5})
        assert "--output_dir" not in error.value.remedy


def test_validation_rows_count_only_where_they_are_scored(full):
    assert chosen(full, now=origin(full) | {"validation fingerprint": None, "validation rows": None}) == LAST


def test_another_number_of_processes_is_warned_of(full, caplog):
    assert chosen(full, now=origin(full) | {"processes": 2}) == LAST
    assert "1 processes" in caplog.text


def best_is(output, checkpoint, value):
    path = output / checkpoint / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"best_model_checkpoint": value}))
    write_manifest(output / checkpoint, origin(output))


def test_the_best_checkpoint_is_the_one_in_the_folder_as_it_is_now(full, caplog):
    best_is(full, LAST, f"/gone/{BEFORE}")
    assert chosen(full) == LAST
    flip(full / BEFORE / "model.safetensors")
    for damage in (lambda path: None, shutil.rmtree):
        now = origin(full)
        damage(full / BEFORE)
        with pytest.raises(NerError) as error:
            chosen(full, now=now)
        assert error.value.place == str(full / LAST)
        assert error.value.value in (str(full / BEFORE), f"/gone/{BEFORE}")
        assert "load_best_model_at_end" in error.value.remedy
        assert chosen(full, "--load_best_model_at_end", "false", now=now) == LAST


@pytest.mark.parametrize("name", [BEFORE, LAST])
def test_a_checkpoint_that_is_its_own_best_may_have_any_name(full, tmp_path, name):
    """It is given by its path; the folder that it was written to is gone."""
    state = json.loads((full / name / "trainer_state.json").read_text())
    path = full / name / "trainer_state.json"
    path.write_text(json.dumps(state | {"best_model_checkpoint": f"/gone/{name}", "best_global_step": int(name[11:])}))
    write_manifest(full / name, origin(full))
    mine = (full / name).rename(tmp_path / "mine")
    now = json.loads((mine / MANIFEST).read_text())["origin"]
    assert chosen(full, "--resume_from_checkpoint", f"{mine}/", now=now) == str(mine)
    assert best_of(mine) == mine


def test_other_weights_have_another_fingerprint_and_an_adapter_changes_nothing(tiny, trained):
    base = weights_fingerprint(load_model(str(tiny)))
    assert base == weights_fingerprint(load_model(str(tiny)))
    assert base != weights_fingerprint(load_model(str(trained["full"])))
    lora = {"r": 2, "target_modules": "all-linear"}
    one, two = load_model(str(tiny), lora=lora), load_model(str(tiny), lora=lora)
    with torch.no_grad():
        for name, weight in two.named_parameters():
            weight += "lora_" in name
    assert base == weights_fingerprint(one) == weights_fingerprint(two)
    assert load_file(tiny / "model.safetensors")
