"""Each YAML that ships: read by its own parser, and what it promises."""

import ast

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from rows import ROOT

from qwen_ner import cli
from qwen_ner.codec import Codec
from qwen_ner.contract import NerConfig
from qwen_ner.entities import CLUENER, LabelSet
from qwen_ner.training.recipe import LAUNCHER_KEY, load_recipe
from qwen_ner.training.run import train

RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.stem != "sweep")
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_yaml_and_python_at_once(path):
    text = path.read_text(encoding="utf-8")
    assert LAUNCHER_KEY in yaml.safe_load(text)
    # Imported, it does nothing; launched, it calls the command line.
    (statement,) = ast.parse(text).body
    assert isinstance(statement, ast.If)
    assert "main()" in ast.unparse(statement)
    for line in ("# Hardware", "# Launch", "# Override", "# Measured"):
        assert f"\n{line}" in text


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_loads(path, tmp_path):
    recipe = load_recipe(path, ["--use_cpu", "--bf16", "false", "--output_dir", str(tmp_path)])
    assert recipe.training.metric_for_best_model == "f1"
    assert recipe.training.load_best_model_at_end
    assert recipe.training.eval_on_start
    assert len(recipe.data.examples) == 3


def test_lora_differs_from_full_by_its_block_its_learning_rate_and_its_names():
    full, lora = (yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text()) for name in ("full_ft", "lora"))
    different = {key for key in full.keys() | lora.keys() if full.get(key) != lora.get(key)}
    assert different == {"lora_r", "lora_alpha", "lora_dropout", "learning_rate", "output_dir", "run_name"}


def test_the_guidelines_differ_from_lora_by_the_prompt_alone():
    plain, guided = (yaml.safe_load((ROOT / "recipes" / f"{n}.yaml").read_text()) for n in ("lora", "lora_guidelines"))
    different = {key for key in plain.keys() | guided.keys() if plain.get(key) != guided.get(key)}
    assert different == {"system_prompt", "output_dir", "run_name"}
    prompt = Codec(CLUENER, guided["system_prompt"]).system_prompt
    assert all(f"- {label.name}：{label.description}" in prompt for label in CLUENER)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_an_accelerate_config_is_one(path):
    """Read by accelerate's own classes, which refuse unknown keys."""
    config = load_config_from_file(str(path))
    expected = {"ddp_4gpu": 4, "fsdp2_4gpu": 4, "zero2_4gpu": 4, "zero3_4gpu": 4, "two_nodes_8gpu": 8, "cpu_2proc": 2}
    assert config.num_processes == expected.get(path.stem, 1)
    assert config.mixed_precision == ("no" if "cpu" in path.stem else "bf16")


def test_every_config_of_the_plan_is_there():
    names = {path.stem for path in CONFIGS}
    assert names == {
        "ddp_4gpu", "single_gpu", "fsdp2_4gpu", "zero2_4gpu", "zero3_4gpu", "two_nodes_8gpu", "cpu", "cpu_2proc",
    }  # fmt: skip


def test_bio_differs_from_the_guidelines_by_its_data_and_how_often_they_are_seen():
    guided, own = (yaml.safe_load((ROOT / "recipes" / f"{n}.yaml").read_text()) for n in ("lora_guidelines", "bio"))
    different = {key for key in guided.keys() | own.keys() if guided.get(key) != own.get(key)}
    assert different == {
        *("labels", "dataset", "examples", "output_dir", "run_name"), *("num_train_epochs", "early_stopping_patience")
    }  # fmt: skip
    prompt = Codec(LabelSet.of(own["labels"]), own["system_prompt"]).system_prompt
    assert all(f"- {name}：{description}" in prompt for name, description in own["labels"].items())


FINANCE = [
    ("三星涨了", [("company", 0, 2)]),
    ("张坤买了三星", [("person", 0, 2), ("company", 4, 6)]),
    ("余额宝跌到1元", [("product", 0, 3), ("amount", 5, 7)]),
    ("今天没有消息", []),
]


@pytest.mark.slow
def test_the_bio_recipe_trains_on_a_folder_of_tagged_lines(tiny, tmp_path, capsys):
    """The recipe as it ships, but for a small model, few steps and the sentences."""
    for split, rows in {"train": FINANCE * 4, "dev": FINANCE}.items():
        lines = (tagged_lines(text, spans) for text, spans in rows)
        (tmp_path / f"{split}.bio").write_text("\n".join(lines), encoding="utf-8")
    recipe = load_recipe(ROOT / "recipes" / "bio.yaml", [
        "--dataset", str(tmp_path), "--model_name_or_path", str(tiny), "--use_cpu", "--bf16", "false", "--validation_rows", "4",
        "--max_steps", "2", "--output_dir", str(tmp_path / "out"), "--max_new_tokens", "4", "--eval_on_start", "false",
        "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2",
    ])  # fmt: skip
    metrics = train(recipe)
    assert metrics["training"]["steps"] == 2
    assert metrics["rows"] == len(FINANCE)
    config = NerConfig.load(tmp_path / "out")
    assert config.labels == LabelSet.of(recipe.data.labels)
    assert "- product：产品：基金" in config.codec().system_prompt
    cli.main(["evaluate", str(tmp_path / "out"), "--data", str(tmp_path), "--decoding", "free"])
    assert "dev: 4 rows" in capsys.readouterr().out


def tagged_lines(text, spans):
    tags = ["O"] * len(text)
    for label, start, end in spans:
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return "".join(f"{character}\t{tag}\n" for character, tag in zip(text, tags, strict=True))
