"""FSDP2 with two processes, for real on gloo (see shards.py): what it gives is what one process without it gives."""

import json
import re
from pathlib import Path

import pytest
from distributed.hosts import ENVIRONMENT, config_for_here
from distributed.shards import EACH, STEPS
from rows import EIGHT
from safetensors.torch import load_file
from warm_python import warm_python

from qwen_ner.entities import NerError
from qwen_ner.inference.extractor import Extractor
from qwen_ner.training.finding import FaultsError
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sharded(recipe, base, make_once):
    """(What it said, its folder)."""

    def make(out):
        config = config_for_here("fsdp2_4gpu.yaml", out, main_process_port=0)
        program = [Path(__file__).with_name("shards.py"), recipe, base, out]
        done = warm_python.launch(config, program, env=ENVIRONMENT, timeout=300)
        assert done.returncode == 0, done.stderr
        (out / "said.txt").write_text(done.stdout, encoding="utf-8")

    out = make_once("sharded", make)
    return (out / "said.txt").read_text(encoding="utf-8"), out


def largest_difference(one, other, name):
    file = "model.safetensors" if name == "full" else "adapter_model.safetensors"
    first, second = load_file(one / file), load_file(other / file)
    assert first.keys() == second.keys()
    return max(float((weight - second[key]).abs().max()) for key, weight in first.items())


def test_every_weight_is_a_part(sharded):
    counts = re.findall(r"sharded (\d+) of (\d+)", sharded[0])
    assert len(counts) == 2 * len(EACH) * (2 * len(STEPS) + 1), "of each save, by both ranks"
    assert all(parts == weights for parts, weights in counts)


@pytest.mark.parametrize("name", EACH)
def test_it_trains_evaluates_and_saves_as_one_process_without_sharding(sharded, plain, name):
    one, two = plain / name, sharded[1] / name
    for folder in (*(f"checkpoint-{step}" for step in STEPS), "."):
        assert largest_difference(one / folder, two / folder, name) <= 1e-4
    histories = [json.loads((out / "trainer_state.json").read_text())["log_history"] for out in (one, two)]
    for key, tolerance in {"loss": 1e-3, "grad_norm": 5e-2, "eval_f1": 0, "eval_tp": 0, "eval_truncated": 0}.items():
        first, second = ([entry[key] for entry in history if key in entry] for history in histories)
        assert len(first) == (1 + len(STEPS) if key.startswith("eval") else STEPS[-1])
        assert second == pytest.approx(first, rel=tolerance, abs=tolerance)
    assert max(entry.get("eval_f1", 0) for entry in histories[0]) > 0.1, "the law says nothing where nothing is right"
    first, second = (json.loads((out / "metrics.json").read_text(encoding="utf-8")) for out in (one, two))
    for key in ("surface", "span", "problems", "intervals", "errors"):
        assert first[key] == second[key]
    lines = [(out / "predictions.jsonl").read_text(encoding="utf-8") for out in (one, two)]
    assert lines[0] == lines[1]
    assert len(lines[0].splitlines()) == 7


@pytest.mark.parametrize("name", EACH)
def test_the_folder_is_opened_as_any_other(sharded, plain, name):
    texts = [gold.text for gold in EIGHT]
    one, two = (Extractor.from_pretrained(out / name).predict(texts, constrained=False) for out in (plain, sharded[1]))
    assert [decoded.surfaces for decoded in one] == [decoded.surfaces for decoded in two]
    assert any(decoded.surfaces for decoded in two)


@pytest.mark.parametrize("name", EACH)
def test_resumed_in_the_middle_of_an_epoch_it_ends_with_the_same_weights(sharded, name):
    whole, resumed = sharded[1] / name, sharded[1] / f"{name}_resumed"
    for step in STEPS:
        assert largest_difference(whole / f"checkpoint-{step}", resumed / f"checkpoint-{step}", name) == 0.0


def test_on_the_cpu_without_that_it_says_that_nothing_would_be_sharded(recipe, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    given = ["--model_name_or_path", str(tiny), "--output_dir", str(tmp_path)]
    with pytest.raises(NerError, match="GPUs only") as error:
        train(load_recipe(recipe, given))
    assert "accelerate_configs/cpu_2proc.yaml" in error.value.remedy
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    with pytest.raises(FaultsError) as error:
        train(load_recipe(recipe, given))
    assert [fault.remedy for fault in error.value.faults] == ["set fsdp_state_dict_type: FULL_STATE_DICT"]
