"""A training and the doctor have one plan: what the doctor examines is what is trained."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from rows import ROOT

from qwen_ner.contract import NerConfig
from qwen_ner.entities import NerError
from qwen_ner.training import plan as plans
from qwen_ner.training import run
from qwen_ner.training.doctor.examination import examine
from qwen_ner.training.plan import TrainingPlan, part
from qwen_ner.training.recipe import load_recipe

MAKERS = ("build_dataset", "choose_collator", "end_token_ids", "load_model", "make_tiny", "NerConfig", "read_splits")


@pytest.fixture
def recipe(taught, tiny, tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {tiny}\ndataset: {taught}\nsystem_prompt: 找出实体\nvalidation_rows: 8\nuse_cpu: true\n"
        "max_steps: 1\neval_strategy: no\nsave_strategy: no\nload_best_model_at_end: false\nmax_new_tokens: 4\n"
        f"max_length: 45\nlora_r: 2\noutput_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    return load_recipe(tmp_path / "recipe.yaml")


@pytest.fixture
def trainer_of(monkeypatch):
    """What a training gives its trainer."""

    def trainer_of(recipe):
        given = {}

        class Stop(Exception):
            pass

        def stop(**kwargs):
            given.update(kwargs)
            raise Stop

        monkeypatch.setattr(run, "NerTrainer", stop)
        with pytest.raises(Stop):
            run.train(recipe)
        return given

    return trainer_of


def test_a_folder_without_a_model_is_told_as_one_in_training_and_by_the_doctor(recipe, tmp_path):
    recipe.model.model_name_or_path = str(tmp_path)
    findings = examine(TrainingPlan(recipe, tmp_path, outline=True))
    (told,) = [finding.message for finding in findings if "no model in this folder" in finding.message]
    for plan in (TrainingPlan(recipe, tmp_path), TrainingPlan(recipe, tmp_path, outline=True)):
        for name in ("tokenizer", "model"):
            with pytest.raises(NerError, match=r"no model in this folder \(no config.json\)") as caught:
                getattr(plan, name)
            assert (caught.value.place, caught.value.value) == ("model_name_or_path", str(tmp_path))
            assert str(caught.value) == told


def test_the_doctor_examines_what_is_trained(recipe, trainer_of, tmp_path):
    given, outlined = trainer_of(recipe), TrainingPlan(recipe, tmp_path, outline=True)
    assert given["ner_config"] == outlined.config
    trained = outlined.fitting_rows["row"]
    assert given["ner_config"].window == max(len(outlined.splits.train[row].text) for row in trained)
    assert given["train_dataset"].to_list() == outlined.fitting_rows.to_list() != outlined.rows.to_list()
    assert given["eval_dataset"].to_list() == outlined.validation_rows.to_list()
    assert given["data_collator"] == outlined.collator
    assert given["processing_class"].get_vocab() == outlined.tokenizer.get_vocab()
    weights, shapes = dict(given["model"].named_parameters()), dict(outlined.model.named_parameters())
    assert {name: (p.shape, p.requires_grad) for name, p in weights.items()} == {
        name: (p.shape, p.requires_grad) for name, p in shapes.items()
    }
    assert not any(p.is_meta for p in weights.values())
    assert all(p.is_meta for p in shapes.values())


def test_a_difference_that_is_planted_reaches_both(recipe, trainer_of, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "NerConfig", lambda *args, **kwargs: replace(NerConfig(*args, **kwargs), window=1234))
    read = plans.load_tokenizer

    def with_another_end(*args):
        tokenizer = read(*args)
        tokenizer.eos_token = "<|im_start|>"
        return tokenizer

    monkeypatch.setattr(plans, "load_tokenizer", with_another_end)
    given, outlined = trainer_of(recipe), TrainingPlan(recipe, tmp_path, outline=True)
    assert given["ner_config"] == outlined.config
    assert (outlined.config.window, outlined.config.end_token_ids) == (1234, (2, 1))


def test_the_config_that_a_training_wrote_is_that_of_its_plan(trained, tiny, tmp_path):
    recipe = load_recipe(trained["full"] / "recipe.yaml", ["--model_name_or_path", str(tiny)])
    written = NerConfig.load(trained["full"])
    assert written.calibration is not None
    assert replace(written, calibration=None) == TrainingPlan(recipe, tmp_path, outline=True).config


def test_each_part_is_made_in_one_place():
    """The doctor reads back a folder that it wrote (`NerConfig.load`) and draws one row with a collator of its own."""
    folder = Path(ROOT / "qwen_ner" / "training")
    calls = {}
    for path in [*folder.glob("*.py"), *(folder / "doctor").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
                calls.setdefault(node.func.id, set()).add(path.name)
    assert calls.pop("choose_collator") == {"plan.py", "costs.py"}, "the estimate of the memory has a model of its own"
    calls["load_model"] = {"plan.py"}  # chosen by name there
    assert calls == {name: {"plan.py"} for name in MAKERS if name != "choose_collator"}


def test_what_could_not_be_made_is_not_tried_again():
    class Plan:
        def __init__(self):
            self.made, self.tries = {}, 0

        @part
        def data(self):
            self.tries += 1
            raise NerError("torn")

        @part
        def rows(self):
            return [self.data]

    plan = Plan()
    for name in ("data", "rows", "data"):
        with pytest.raises(NerError, match="torn"):
            getattr(plan, name)
    assert plan.tries == 1


def test_a_part_that_cannot_be_had_is_reported_once(recipe, tmp_path):
    broken = replace(recipe, data=replace(recipe.data, dataset="nowhere"))
    findings = list(examine(TrainingPlan(broken, tmp_path, outline=True)))
    assert [finding.name for finding in findings if finding.level == "fail"] == ["data"]
    skipped = [finding.message for finding in findings if finding.level == "skip"]
    assert len(skipped) > 5
    assert set(skipped) == {"skipped: needs data, which failed above"}


@pytest.mark.parametrize("name", ["/gone/model", "./gone", "a/b/c"])
def test_a_model_whose_folder_is_gone_is_reported_at_its_key(recipe, tmp_path, name):
    gone = replace(recipe, model=replace(recipe.model, model_name_or_path=name))
    with pytest.raises(NerError, match="no such folder") as error:
        _ = TrainingPlan(gone, tmp_path, outline=True).model
    assert (error.value.place, error.value.value) == ("model_name_or_path", name)


def test_bf16_is_not_assumed_of_apple_s_gpu(monkeypatch):
    """Whether it is emulated there cannot be told."""
    from qwen_ner.inference.backends.torch import default_dtype
    from qwen_ner.training.arguments import emulates_bf16

    assert default_dtype("mps") == "float32"
    for mps in (True, False):
        monkeypatch.setattr("torch.backends.mps.is_available", lambda mps=mps: mps)
        assert emulates_bf16() == mps
