"""What a training prepares: the rows that are added to the training rows, and the processes."""

import logging
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.entities import CLUENER, Entity, Example, NerError
from qwen_ner.training import preparation
from qwen_ner.training.arguments import DataArguments, NerTrainingArguments
from qwen_ner.training.finding import FaultsError
from qwen_ner.training.preparation import check_metric, check_processes, read_splits, save_recipe, use_cores


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 rows, each with one clause that holds an entity and one that holds none, but for a surface of row 0 in some."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for n in range(40):
        text = f"第{n}家三星开张，{'苹果' if n % 4 == 0 else '价格'}还没有定到{n}。"
        entities = [Entity("company", "三星", text.index("三星"), text.index("三星") + 2)]
        if n == 0:
            entities.append(Entity("company", "苹果", text.index("苹果"), text.index("苹果") + 2))
        rows.append(Example(str(n), text, tuple(entities)))
    write_jsonl(folder / "train.jsonl", rows)
    write_jsonl(folder / "dev.jsonl", rows[:5])
    return DataArguments(dataset=str(folder))


def test_without_the_key_nothing_is_added(data):
    assert all(example.entities for example in read_splits(data).train)


def test_clauses_come_from_the_rows_to_train_on_alone(data, caplog):
    plain = read_splits(data)
    with caplog.at_level(logging.INFO):
        splits = read_splits(replace(data, negatives=0.25))
    added = splits.train[len(plain.train) :]
    assert list(splits.train[: len(plain.train)]) == list(plain.train)
    for name in ("validation", "final", "annotated"):
        assert list(getattr(splits, name)) == list(getattr(plain, name))
    assert len(added) == 10
    assert not any(example.entities or "三星" in example.text for example in added)
    assert all(any(example.text in home.text for home in plain.train) for example in added)
    assert "Added 10 rows without entities to the 40" in caplog.text
    assert list(read_splits(replace(data, negatives=0.25)).train) == list(splits.train)


def test_the_share_is_of_the_rows_trained_on_and_the_surfaces_are_those_of_all(data):
    splits = read_splits(replace(data, negatives=0.5, max_train_samples=20))
    assert len(splits.train) == 30
    everything = read_splits(replace(data, negatives=9))
    assert any(entity.text == "苹果" for row in read_splits(data).train for entity in row.entities)
    assert not any("苹果" in row.text for row in everything.train if not row.entities)


def test_fewer_than_asked_for_are_reported(data, caplog):
    splits = read_splits(replace(data, negatives=9))
    assert 0 < sum(not row.entities for row in splits.train) <= 40
    assert "negatives: 9 asks for 360 rows" in caplog.text


def test_a_file_of_texts(data, tmp_path, caplog):
    path = tmp_path / "calm.txt"
    path.write_text("今天天气很好\n三星降价了\n明天见\n", encoding="utf-8")
    with caplog.at_level(logging.INFO):
        splits = read_splits(replace(data, negatives=0.05, negatives_from=str(path)))
    assert [row.text for row in splits.train if not row.entities] == ["今天天气很好", "明天见"]
    assert "(1 others are repeated, are rows of the data, or hold an annotated surface)" in caplog.text
    with pytest.raises(NerError) as error:
        read_splits(replace(data, negatives=0.1, negatives_from=str(tmp_path / "none")))
    assert str(tmp_path / "none") in str(error.value.place)


def test_no_annotated_row_is_taught_to_have_no_entities_though_it_is_held_out(tmp_path, caplog):
    """Nor one without entities, however it is typed: the model would be scored on what it was taught."""
    names = "张李王赵钱孙周吴郑冯陈褚"
    texts = [f"{name}三丰今天写了{n}封信" for n, name in enumerate(names)]
    rows = [Example(str(n), text, (Entity("name", text[:3], 0, 3),)) for n, text in enumerate(texts)]
    calm = ["快递太慢了", "外面在下雨", "明天再说吧", "价格还没定"]
    rows += [Example(text, text, ()) for text in calm]
    write_jsonl(tmp_path / "train.jsonl", rows)
    other = [Example("a", "孔子说了一句话", (Entity("name", "孔子", 0, 2),)), Example("b", "路上没有人", ())]
    given = [*texts, *(f"{text}！" for text in calm), "孔子说了一句话", "路上没有人？", "天气很好"]
    path = tmp_path / "calm.txt"
    path.write_text("\n".join(given), encoding="utf-8")
    data = DataArguments(str(tmp_path), validation_rows=5, negatives=9, negatives_from=str(path))
    for name in (None, "dev", "test"):  # held out of train, and files of their own
        if name:
            write_jsonl(tmp_path / f"{name}.jsonl", other)
        splits = read_splits(data)
        added = [row.text for row in splits.train if row.text not in {row.text for row in rows}]
        assert added == given[-1 if name else -3 :]
        if name:
            (tmp_path / f"{name}.jsonl").unlink()
    path.write_text("\n".join(f"{text}！" for text in calm), encoding="utf-8")
    with pytest.raises(NerError, match="or is a row of the data") as error:
        read_splits(data)
    assert error.value.place == "negatives_from"


def test_a_clause_that_is_a_row_held_out_is_not_added(tmp_path):
    row = Example("1", "三星开张了，价格还没有定。", (Entity("company", "三星", 0, 2),))
    write_jsonl(tmp_path / "train.jsonl", [row, Example("2", "这里没有什么好说的", ())])
    for held, added in (("今天在下雨", ["价格还没有定。"]), ("价格还没有定", [])):
        write_jsonl(tmp_path / "dev.jsonl", [row, Example("3", held, ())])
        train = read_splits(DataArguments(str(tmp_path), negatives=0.5)).train
        assert [example.text for example in train][2:] == added


def test_one_process_takes_one_gpu_and_names_the_command_for_all(tmp_path, caplog):
    args = NerTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    check_processes(args)
    assert caplog.text == ""
    args._n_gpu = 2
    check_processes(args)
    assert args.n_gpu == 1
    assert "Training on one of 2 GPUs" in caplog.text
    assert "accelerate launch --num_processes 2" in caplog.text


@pytest.mark.parametrize(
    ("env", "ranks", "compressed", "place"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, 1, True, ["ddp_bf16_gradients"]),
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, 1, False, []),
        ({}, 2, True, ["ddp_bf16_gradients"]),
        ({}, 2, False, []),
        ({}, 1, True, []),
    ],
)
def test_gradients_are_compressed_only_where_ddp_exchanges_them(tmp_path, monkeypatch, env, ranks, compressed, place):
    args = NerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, ddp_bf16_gradients=compressed)
    monkeypatch.setattr(NerTrainingArguments, "world_size", ranks)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = []
    try:
        check_processes(args)
    except FaultsError as error:
        found = [(fault.place, fault.remedy) for fault in error.faults]
    assert found == [(one, "remove it") for one in place]


def test_a_label_that_only_dev_has_is_named_with_its_rows_and_the_key(tmp_path):
    rows = [Example(str(n), "张伟在北京", (Entity("name", "张伟", 0, 2),)) for n in range(9)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    new = [Example(f"d{n}", "王五在天津", (Entity("address", "天津", 3, 5),)) for n in range(2)]
    write_jsonl(tmp_path / "dev.jsonl", [*rows[:1], *new])
    with pytest.raises(NerError) as error:
        read_splits(DataArguments(dataset=str(tmp_path), validation_rows=1))
    assert (error.value.value, error.value.place) == ("address", "dev.jsonl:2, dev.jsonl:3")
    assert "`labels:`" in error.value.remedy
    labels = {"name": "", "address": ""}
    splits = read_splits(DataArguments(dataset=str(tmp_path), validation_rows=1, labels=labels))
    assert splits.labels.names == ("name", "address")


@pytest.mark.parametrize(
    ("launched", "environ", "command", "cores", "threads"),
    [
        (True, {}, ["accelerate", "launch"], 2, 2),
        (True, {}, ["accelerate", "launch"], 1, 1),
        (True, {"OMP_NUM_THREADS": "1"}, ["accelerate", "launch"], 2, 1),
        (True, {}, ["accelerate", "launch", "--num-cpu-threads-per-process=1"], 2, 1),
        (False, {}, ["bash"], 2, 1),
    ],
)
def test_threads_are_those_the_user_chose_and_cores_those_it_may_use(
    monkeypatch, launched, environ, command, cores, threads
):
    parent = SimpleNamespace(environ=lambda: environ, cmdline=lambda: command)
    monkeypatch.setattr(preparation.psutil, "Process", lambda number: parent)
    monkeypatch.setattr(os, "sched_getaffinity", lambda number: set(range(cores)))
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        use_cores(SimpleNamespace(device=torch.device("cpu"), world_size=1))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_label_of_the_metric_is_one_of_the_data(tmp_path):
    def args(metric):
        return NerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, metric_for_best_model=metric)

    for metric in ("f1", "eval_f1_company", "f1_game"):
        check_metric(args(metric), CLUENER)
    with pytest.raises(NerError) as error:
        check_metric(args("f1_drug"), CLUENER)
    assert (error.value.place, error.value.value) == ("metric_for_best_model", "f1_drug")
    assert "company" in error.value.remedy


def test_a_recipe_is_replaced_as_a_whole(tmp_path):
    save_recipe(SimpleNamespace(values={"dataset": "甲"}), tmp_path)
    with (tmp_path / "recipe.yaml").open(encoding="utf-8") as old:
        save_recipe(SimpleNamespace(values={"dataset": "乙"}), tmp_path)
        assert old.read() == "dataset: 甲\n"
    assert (tmp_path / "recipe.yaml").read_text(encoding="utf-8") == "dataset: 乙\n"
