"""`qwen-ner recipe`: the keys of a recipe, explained."""

import dataclasses
import json

import pytest

from qwen_ner import cli
from qwen_ner.entities import NerError
from qwen_ner.training.arguments import DataArguments, ModelArguments, NerTrainingArguments
from qwen_ner.training.keys import GROUPS, explain, recipe_keys, refused_keys
from qwen_ner.training.recipe import load_recipe

KEYS = {key.name: key for key in recipe_keys()}


def test_each_field_is_a_key_with_a_help_text_or_refused_with_a_reason():
    fields = [
        field.name
        for arguments in (DataArguments, ModelArguments, NerTrainingArguments)
        for field in dataclasses.fields(arguments)
        if field.init
    ]
    assert sorted([*KEYS, *refused_keys()]) == sorted(fields)
    assert all(key.help and key.type and key.group in GROUPS for key in KEYS.values())
    assert not [key.help for key in KEYS.values() if "%%" in key.help or "\n" in key.help]
    assert all(refused_keys().values())


@pytest.mark.parametrize(
    ("name", "type_", "default"),
    [
        ("lora_r", "int | none", "none"),
        ("labels", "dict[str, str] | none", "none"),
        ("step_transforms", "list[str]", '["reduced_head"]'),
        ("load_best_model_at_end", "bool", "true"),
        ("learning_rate", "float", "5e-05"),
        ("hub_strategy", "end | every_save | checkpoint | all_checkpoints", "every_save"),
        ("dataset", "str", "cluener"),
        ("dataloader_pin_memory", "bool", ""),
    ],
)
def test_types_and_defaults_are_written_as_in_a_recipe(name, type_, default):
    assert (KEYS[name].type, KEYS[name].default) == (type_, default)


@pytest.mark.parametrize("name", [key.name for key in KEYS.values() if "none" in key.type.split(" | ")])
def test_a_key_that_can_be_unset_takes_none(name, tmp_path):
    path = tmp_path / "recipe.yaml"
    for text, options in ((f"{name}: null", []), ("", [f"--{name}", "none"])):
        path.write_text(f"output_dir: {tmp_path / 'out'}\nuse_cpu: true\n{text}\n", encoding="utf-8")
        recipe = load_recipe(path, options)
        assert recipe.values.get(name) in (None, "none")


def test_a_default_that_is_shown_means_what_it_says(tmp_path):
    """A recipe that sets every key to the default shown is the recipe that sets none."""
    alone = ("", "none")  # and `negatives_from`, which needs `negatives`
    needed = {"output_dir": str(tmp_path / "out"), "use_cpu": "true"}
    shown = {key.name: key.default for key in KEYS.values() if key.default not in alone} | needed
    del shown["negatives_from"]
    paths = [tmp_path / "all.yaml", tmp_path / "none.yaml"]
    for path, values in zip(paths, (shown, needed), strict=True):
        text = "".join(
            f"{name}: {json.dumps(value) if name == 'system_prompt' else value}\n" for name, value in values.items()
        )
        path.write_text(text, encoding="utf-8")
    every, none = map(load_recipe, paths)
    assert (every.data, every.model) == (none.data, none.model)
    assert every.training.to_dict() == none.training.to_dict()


def test_a_misspelt_key_is_told_with_the_nearest():
    with pytest.raises(NerError) as caught:
        explain(["learnin_rate"])
    assert (caught.value.place, caught.value.remedy) == (
        "learnin_rate",
        '`qwen-ner recipe` lists the keys; did you mean "learning_rate"?',
    )


def test_the_command_explains_what_it_is_asked_for(capsys):
    cli.main(["recipe", "lora_r", "torch_compile"])
    printed = capsys.readouterr().out
    assert KEYS["lora_r"].help in printed
    assert refused_keys()["torch_compile"] in printed
    assert "learning_rate" not in printed
    cli.main(["recipe"])
    printed = capsys.readouterr().out
    assert all(f"  {name}: " in printed for name in KEYS)
