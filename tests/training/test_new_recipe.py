"""A recipe made for a folder of data: what it holds, and that it is one whatever the data hold."""

import ast
from dataclasses import replace

import pytest
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import EIGHT as SAME_ID
from rows import example

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.data.overview import Found, look, overview
from qwen_ner.entities import Entity, Example, NerError
from qwen_ner.training.new_recipe import recipe_text
from qwen_ner.training.preparation import read_splits
from qwen_ner.training.recipe import load_recipe

EIGHT = [replace(row, id=str(n)) for n, row in enumerate(SAME_ID)]


def many(rows):
    return [replace(EIGHT[n % len(EIGHT)], id=str(n), text=EIGHT[n % len(EIGHT)].text + f"{n:05}") for n in range(rows)]


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "medicine"
    data.mkdir()
    return data


def made(tmp_path, folder, model="Qwen/Qwen2.5-0.5B-Instruct", **options):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_text(look(str(folder)), path, model, **options), encoding="utf-8")
    (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.If)
    return load_recipe(path, ["--use_cpu"])


def test_it_names_the_data_their_labels_and_sentences_of_their_own(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", EIGHT)
    write_jsonl(folder / "dev.jsonl", many(16)[8:])
    recipe = made(tmp_path, folder)
    assert recipe.data.dataset == str(folder)
    assert set(recipe.data.labels) == {entity.label for row in EIGHT for entity in row.entities}
    assert len(recipe.data.examples) == 3
    assert {*recipe.data.examples} <= {row.text for row in many(16)[8:]}, "the model has not seen those of dev"
    assert recipe.training.output_dir == "outputs/medicine"
    assert recipe.training.eval_on_start
    assert recipe.training.load_best_model_at_end
    assert recipe.training.metric_for_best_model == "f1"
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    for line in ("# Data", "# Hardware", "# Launch", "# Override", "# Measured"):
        assert f"\n{line}" in text


@pytest.mark.parametrize(
    ("rows", "step", "rate", "held"), [(40, 10, 4e-4, 4), (1_999, 10, 4e-4, 199), (2_000, 60, 6e-4, 200), (6_000, 60, 6e-4, 500)]
)  # fmt: skip
def test_few_rows_get_what_was_measured_for_few(tmp_path, folder, rows, step, rate, held):
    write_jsonl(folder / "train.jsonl", many(rows))
    recipe = made(tmp_path, folder)
    args = recipe.training
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == step
    assert args.learning_rate == rate
    assert recipe.model.lora_r == 16
    assert recipe.data.validation_rows == held


@pytest.mark.parametrize(
    ("rows", "model", "patience"),
    [(40, "x/y", None), (40, "tiny", None), (150, "x/y", 8), (150, "tiny", 12), (1_999, "x/y", 5)],
)
def test_early_stopping_waits_for_a_hundred_steps(tmp_path, folder, rows, model, patience):
    """Where that is longer than the training, it is left out: it could end nothing."""
    write_jsonl(folder / "train.jsonl", many(rows))
    assert made(tmp_path, folder, model).training.early_stopping_patience == patience


@pytest.mark.parametrize(
    ("rows", "model", "epochs"),
    [(3, "x/y", 30), (12, "x/y", 25), (40, "x/y", 13), (50, "x/y", 10), (150, "x/y", 10), (1_999, "x/y", 10),
     (2_000, "x/y", 10), (6_000, "x/y", 6), (150, "tiny", 30)],
)  # fmt: skip
def test_few_rows_are_seen_ten_times_or_for_fifty_steps_and_many_for_five_hundred(
    tmp_path, folder, rows, model, epochs
):
    write_jsonl(folder / "train.jsonl", many(rows))
    assert made(tmp_path, folder, model).training.num_train_epochs == epochs


def test_long_texts_are_computed_in_smaller_packs_of_the_same_step(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", [replace(row, text=row.text + "，" * 2_000) for row in many(40)])
    args = made(tmp_path, folder).training
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 5)


@pytest.mark.parametrize(
    ("rows", "target"),
    [
        (many(40), "inline"),
        (many(1_999), "inline"),
        (many(2_000), "json"),
        ([replace(row, text=row.text + "，" * 200) for row in many(40)], "json"),
    ],
    ids=["few", "just-few", "many", "long"],
)
def test_few_short_rows_are_copied_and_marked(tmp_path, folder, rows, target):
    write_jsonl(folder / "train.jsonl", rows)
    assert made(tmp_path, folder).data.target == target
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert ("写成[实体 类别]" in text, "写成JSON" in text) == (target == "inline", target == "json"), (
        "the prompt offered"
    )
    assert made(tmp_path, folder, "tiny").data.target == "json"


@pytest.mark.parametrize(("nested", "target"), [(1, "inline"), (20, "json")])
def test_entities_that_cannot_be_marked_are_not_left_out_for_it(tmp_path, folder, nested, target):
    row = example("北京大学在北京", ("organization", "北京大学"))
    inner = replace(row, entities=(*row.entities, Entity("address", "北京", 0, 2)))
    rows = [replace(inner if n < nested else row, id=str(n), text=f"{row.text}{n:03}") for n in range(100)]
    write_jsonl(folder / "train.jsonl", rows)
    assert made(tmp_path, folder).data.target == target


@pytest.mark.parametrize("label", ["press release", "a]", "a\\b"])
def test_a_label_that_no_mark_can_have_is_written_as_json(tmp_path, folder, label):
    rows = [Example(str(n), f"三星{n}", (Entity(label, "三星", 0, 2),)) for n in range(9)]
    write_jsonl(folder / "train.jsonl", rows)
    recipe = made(tmp_path, folder)
    assert recipe.data.target == "json"
    assert set(recipe.data.labels) == {label}


def test_the_room_for_an_answer_is_left_to_the_training(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", EIGHT)
    assert made(tmp_path, folder).training.max_new_tokens is None


@pytest.mark.parametrize("splits", [("train",), ("train", "dev"), ("train", "test"), ("train", "dev", "test")])
@pytest.mark.parametrize("annotated", [True, False])
def test_what_it_says_of_the_splits_is_what_the_training_does(tmp_path, folder, splits, annotated):
    for n, split in enumerate(splits):
        given = many(60)[20 * n : 20 * n + 20]
        write_jsonl(
            folder / f"{split}.jsonl", given if annotated or not n else [replace(e, entities=()) for e in given]
        )
    recipe = made(tmp_path, folder)
    used = read_splits(recipe.data)
    (said,) = [line for line in overview(look(str(folder))) if line.startswith("the checkpoint is chosen by")]
    assert said in (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    chosen, _, final = said.partition("; the final score is of ")
    assert chosen.endswith("by dev") == (used.validation_name == "dev")
    assert chosen.endswith("held out of train") == (used.validation_name == "validation")
    assert (final == "test", "the same rows" in final) == (bool(used.final), not used.final)
    assert ("validation_rows" in recipe.values) == (used.validation_name == "validation")


def test_documents_are_trained_on_in_windows_and_shown_in_part(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", EIGHT)
    assert "max_length" not in made(tmp_path, folder).values
    write_jsonl(folder / "train.jsonl", [replace(row, text=f"{row.text}。{'很久以前。' * 500}") for row in many(20)])
    recipe = made(tmp_path, folder)
    assert recipe.data.max_length == 2048
    assert all(0 < len(text) <= 120 and text.endswith("。") for text in recipe.data.examples)


def test_bf16_is_set_where_it_is_native_and_the_cpu_never_forced(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", EIGHT)
    for native in (True, False):
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe_text(look(str(folder)), path, "tiny", bf16=native), encoding="utf-8")
        values = load_recipe(path, ["--bf16", "false", "--use_cpu", "true"] if native else []).values
        assert ("bf16" in values, "use_cpu" in values) == (native, native)


def test_a_toy_is_trained_with_all_its_weights(tmp_path, folder):
    write_jsonl(folder / "train.jsonl", EIGHT)
    recipe = made(tmp_path, folder, "tiny")
    assert recipe.model.lora_r is None
    assert recipe.training.learning_rate == 3e-3


NASTY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=20)
@given(label=NASTY, text=NASTY, name=NASTY.filter(lambda name: "\x00" not in name))
@case(label='"""', text='a"""b\\', name='# """')
@case(label="no", text="- x: # y", name="coding: latin-1")
@case(label="a\u2028seed: 3", text="b\u2028c\x85d\x00", name="e\u2028seed: 3")
@case(label="\\", text='\\"""', name="$HOME")
@case(label="~", text="---", name="\ufeff\uffff")
def test_any_label_text_and_name_come_back_from_the_recipe(tmp_path_factory, label, text, name):
    """The recipe is YAML and Python at once, and no text of the data becomes a part of either."""
    path = tmp_path_factory.mktemp("nasty") / "recipe.yaml"
    rows = [Example("0", text, (Entity(label, text, 0, len(text)),), "train.jsonl:1"), Example("1", f"{text}1")]
    found = Found(name, {"train": rows}, {"train": name})
    path.write_text(recipe_text(found, path, name), encoding="utf-8")
    (statement,) = ast.parse(path.read_text(encoding="utf-8")).body
    assert isinstance(statement, ast.If)
    values = load_recipe(path, ["--use_cpu"]).values
    assert values["dataset"] == values["model_name_or_path"] == name
    assert values["labels"] == {label: ""}
    assert text in values["examples"]
    assert values["seed"] == 42
    assert overview(found)


def test_the_overview_shows_the_commonest_surfaces_of_a_label_with_their_counts(folder):
    """A file that is read with wrong offsets is seen at once."""
    rows = [example(f"第{n}次在北京", ("address", "北京"), id=str(n)) for n in range(3)]
    more = [example(f"在{place}", ("address", place), id=place) for place in ("上海", "南京", "广州")]
    write_jsonl(folder / "train.jsonl", [*rows, *more, example("没有", id="none")])
    write_jsonl(folder / "dev.jsonl", [example("张伟来了", ("name", "张伟"), id="0")])
    lines = overview(look(str(folder)))
    (address,) = [line for line in lines if line.startswith("address")]
    assert address.split() == ["address", "6", "0", "北京", "(3)", "·", "上海", "(1)", "·", "南京", "(1)"]
    assert any("train.jsonl" in line and "7 rows" in line for line in lines)
    assert any("name" in line and "no row of train" in line for line in lines), "it cannot be learnt"


def test_one_file_that_is_no_split_is_the_data(tmp_path, folder):
    write_jsonl(folder / "all.jsonl", EIGHT)
    assert made(tmp_path, folder).data.dataset == str(folder / "all.jsonl")
    assert made(tmp_path, folder / "all.jsonl").training.output_dir == "outputs/all"


def test_what_cannot_be_told_is_asked(folder):
    with pytest.raises(NerError) as error:
        look(str(folder))
    assert error.value.place == str(folder)
    for name in ("one", "two"):
        write_jsonl(folder / f"{name}.jsonl", EIGHT)
    with pytest.raises(NerError) as error:
        look(str(folder))
    assert error.value.value == ["one.jsonl", "two.jsonl"]
    assert "train.jsonl" in error.value.remedy
    (folder / "two.jsonl").rename(folder / "dev.jsonl")
    with pytest.raises(NerError) as error:
        look(str(folder))
    assert "train" in error.value.remedy


@pytest.mark.parametrize(
    ("rows", "remedy"), [(EIGHT[:1], "two"), ([Example("0", "没有"), Example("1", "也没有")], "entities")]
)
def test_data_that_cannot_be_trained_on_are_refused(folder, rows, remedy):
    write_jsonl(folder / "train.jsonl", rows)
    with pytest.raises(NerError) as error:
        look(str(folder))
    assert error.value.place == str(folder)
    assert remedy in error.value.remedy
