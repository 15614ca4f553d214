"""Which rows a training learns from, which choose its checkpoint, which are the final score; and with which labels."""

import logging
import random
from dataclasses import replace

import pytest

from qwen_ner.data.analysis.duplicates import bare, leaks
from qwen_ner.data.arrow_store import StoredExamples
from qwen_ner.data.datasets import read_dataset, write_jsonl
from qwen_ner.data.formats.errors import DataError
from qwen_ner.data.notes import Watch
from qwen_ner.data.split import hold_out
from qwen_ner.entities import CLUENER, Entity, Example, NerError
from qwen_ner.training.arguments import DataArguments
from qwen_ner.training.preparation import read_splits


def rows(number: int, place: str, *labels: str) -> list[Example]:
    """Rows of different texts, each with a person and, in turn, a city of one of `labels`."""
    found = []
    for n in range(number):
        text = f"张伟在北京{place}{n}号"
        entities = [Entity("name", "张伟", 0, 2)]
        if labels:
            entities.append(Entity(labels[n % len(labels)], "北京", 3, 5))
        found.append(Example(f"{place}{n}", text, tuple(entities)))
    return found


def ids(examples) -> list[str]:
    return [example.id for example in examples]


@pytest.fixture
def folder(tmp_path):
    def write(**splits):
        for split, examples in splits.items():
            write_jsonl(tmp_path / f"{split}.jsonl", examples)
        return DataArguments(dataset=str(tmp_path))

    return write


TRAIN, DEV, TEST = rows(60, "训"), rows(8, "开"), rows(9, "测")


@pytest.mark.parametrize(
    ("given", "sizes", "names"),
    [
        ({"train": TRAIN}, (54, 6, 0), ("validation", "validation")),
        ({"train": TRAIN, "dev": DEV}, (60, 8, 0), ("dev", "dev")),
        ({"train": TRAIN, "test": TEST}, (54, 6, 9), ("validation", "test")),
        ({"train": TRAIN, "valid": DEV, "test": TEST}, (60, 8, 9), ("dev", "test")),
    ],
)
def test_dev_chooses_test_is_the_score_and_rows_are_held_out_only_without_dev(folder, caplog, given, sizes, names):
    with caplog.at_level(logging.INFO):
        splits = read_splits(folder(**given))
    assert (len(splits.train), len(splits.validation), len(splits.final)) == sizes
    assert (splits.validation_name, splits.scored_name) == names
    assert sorted(ids(splits.annotated)) == sorted(ids(TRAIN))
    scored_themselves = splits.scored_name == "validation"
    assert sorted(ids(splits.seen)) == sorted(ids(splits.train) if scored_themselves else ids(TRAIN))
    if "dev" in names:
        assert ids(splits.validation) == ids(DEV)
        assert ids(splits.train) == ids(TRAIN)
    else:
        assert sorted(ids([*splits.train, *splits.validation])) == sorted(ids(TRAIN))
    assert ids(splits.final) == (ids(TEST) if sizes[2] else [])
    (line,) = [record.getMessage() for record in caplog.records if "training on" in record.getMessage()]
    assert all(f"{size:,} " in line for size in sizes if size)
    assert ("held out of train" in line) == (sizes[1] == 6)


@pytest.mark.parametrize(("number", "asked", "held"), [(5, 500, 1), (19, 500, 1), (60, 4, 4), (6_000, 500, 500)])
def test_a_tenth_is_held_out_at_most(folder, number, asked, held):
    splits = read_splits(replace(folder(train=rows(number, "训")), validation_rows=asked))
    assert (len(splits.train), len(splits.validation)) == (number - held, held)


def test_a_split_without_any_entity_neither_chooses_nor_scores(folder, caplog):
    plain = [Example(row.id, row.text) for row in DEV]
    with caplog.at_level(logging.INFO):
        splits = read_splits(folder(train=TRAIN, dev=plain, test=[replace(row, id=f"t{row.id}") for row in plain]))
    assert (len(splits.train), len(splits.validation), len(splits.final)) == (54, 6, 0)
    assert caplog.text.count("has no entity, so it is not used") == 2


@pytest.mark.parametrize(("dataset", "rows_held", "sizes"), [("sample", 100, (1900, 100, 300))])
def test_the_named_data_sets_keep_their_protocol(dataset, rows_held, sizes):
    splits = read_splits(DataArguments(dataset=dataset, validation_rows=rows_held))
    rest, held = hold_out(read_dataset(dataset, "train"), rows_held, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.final)) == sizes
    assert (ids(splits.train), ids(splits.validation)) == (ids(rest), ids(held))
    assert ids(splits.final) == ids(read_dataset(dataset, "dev"))
    assert (splits.validation_name, splits.scored_name) == ("validation", "dev")


def test_with_no_rows_to_hold_out_a_named_data_set_is_split_as_any_other():
    splits = read_splits(DataArguments(dataset="sample", validation_rows=0))
    assert (len(splits.train), len(splits.validation), len(splits.final)) == (2000, 300, 300)
    assert (splits.validation_name, splits.scored_name) == ("dev", "test")


def test_without_dev_no_rows_to_hold_out_is_an_error(folder):
    with pytest.raises(NerError) as error:
        read_splits(replace(folder(train=TRAIN), validation_rows=0))
    assert (error.value.place, error.value.value) == ("validation_rows", 0)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("copies", [2, 3, 7])
def test_texts_that_are_equal_but_for_their_typing_stay_together(seed, copies):
    distinct = rows(30, "训", "address", "scene", "rare")
    again = [
        replace(row, id=f"{row.id}-{copy}", text=row.text + "！" * (copy % 3))
        for copy in range(copies)
        for row in distinct[: 30 if copy == 0 else 20]
    ]
    train, held = hold_out(again, len(again) // 10, seed, together=True)
    assert leaks(train, held) == []
    assert 0 < len(held) <= max(len(again) // 10, copies)
    assert sorted(ids([*train, *held])) == sorted(ids(again))
    assert {entity.label for row in held for entity in row.entities} >= {"name"}


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_one_group_stay_together_and_so_do_groups_that_share_a_text(seed):
    generator = random.Random(seed)
    grouped = [
        replace(row, group=f"g{generator.randrange(12)}" * (n % 5 > 0)) for n, row in enumerate(rows(60, "训", "scene"))
    ]
    grouped += [replace(grouped[n], id=f"again{n}", group=f"g{n}") for n in range(3)]
    train, held = hold_out(StoredExamples.of(grouped), 12, seed, together=True)
    assert not {row.group for row in train} & {row.group for row in held} - {""}
    assert leaks(train, held) == []
    assert sorted(ids([*train, *held])) == sorted(ids(grouped))
    assert len(held) > 0


def test_one_group_alone_cannot_be_split(folder):
    with pytest.raises(NerError) as error:
        read_splits(folder(train=[replace(row, group="a") for row in TRAIN]))
    assert error.value.place == "validation_rows"


def test_without_equal_texts_keeping_them_together_changes_nothing():
    examples = rows(200, "训", "address", "scene")
    for seed in range(5):
        assert hold_out(examples, 20, seed, together=True) == hold_out(examples, 20, seed)


def test_labels_come_into_both_parts_where_whole_groups_allow():
    twice = [replace(row, id=f"{row.id}-{n}") for n in range(2) for row in rows(40, "训", *["address"] * 19, "rare")]
    for seed in range(20):
        train, held = hold_out(twice, 8, seed, together=True)
        assert all(any(entity.label == "rare" for row in part for entity in row.entities) for part in (train, held))
        assert not {bare(row.text) for row in train} & {bare(row.text) for row in held}


def test_one_text_alone_cannot_be_split(folder):
    same = [replace(TRAIN[0], id=str(n)) for n in range(30)]
    with pytest.raises(NerError) as error:
        read_splits(folder(train=same))
    assert error.value.place == "validation_rows"
    assert "dev split" in error.value.remedy


def test_some_of_the_labels_are_kept_and_the_others_counted(folder, caplog):
    data = folder(train=rows(60, "训", "address", "scene"), dev=rows(8, "开", "scene"))
    with caplog.at_level(logging.INFO):
        splits = read_splits(replace(data, labels={"name": "", "address": "地点"}))
    assert splits.labels.names == ("name", "address")
    every = [*splits.train, *splits.validation]
    assert {entity.label for row in every for entity in row.entities} == {"name", "address"}
    assert sum(len(row.entities) for row in every) == 68 + 30
    assert len(every) == 68
    assert "scene 38 in 38 rows" in caplog.text
    assert "address" not in caplog.text.partition("left out")[2]


def test_a_row_counts_once_for_each_label_left_out():
    text = "北京上海张伟"
    row = Example(
        "0", text, tuple(Entity(label, text[s : s + 2], s, s + 2) for label, s in zip("AAB", (0, 2, 4), strict=True))
    )
    watch = Watch(keep=frozenset({"B"}))
    (read,) = watch.examples([row])
    assert [entity.label for entity in read.entities] == ["B"]
    assert (watch.left_out, watch.left_rows) == ({"A": 2}, {"A": 1})


def test_a_name_that_no_row_has_is_an_error_if_the_rows_have_others(folder):
    data = folder(train=rows(60, "训", "address", "scene"), dev=DEV)
    with pytest.raises(NerError) as error:
        read_splits(replace(data, labels={"name": "", "adress": ""}))
    assert (error.value.place, error.value.value) == ("labels", "adress")
    assert 'did you mean "address"?' in error.value.remedy
    assert "scene" in error.value.remedy


def test_a_name_that_no_row_has_beside_all_of_the_data_is_left_to_the_doctor(folder):
    assert len(read_splits(replace(folder(train=TRAIN), labels={"name": "", "plant": ""})).train) == 54


def test_a_label_of_dev_alone_may_be_kept(folder):
    data = folder(train=rows(60, "训", "address"), dev=rows(8, "开", "scene"))
    splits = read_splits(replace(data, labels={"name": "", "scene": ""}))
    assert sum(len(row.entities) for row in splits.validation) == 16


def test_the_labels_of_a_named_data_set_may_be_some_of_its_own():
    splits = read_splits(DataArguments(dataset="sample", labels={"company": "", "name": ""}, validation_rows=100))
    assert {entity.label for row in splits.annotated for entity in row.entities} == {"company", "name"}
    assert not {"company", "name"} - {*CLUENER.names}


BIO = "张\tI-name\n伟\tI-name\n在\tO\n{}\tO\n\n李\tB-name\n四\tI-name\n{}\tO\n\n"


def test_tags_out_of_order_are_read_and_counted_if_asked_for(tmp_path):
    (tmp_path / "train.bio").write_text("".join(BIO.format(chr(0x4E00 + n), chr(0x5E00 + n)) for n in range(20)))
    data = DataArguments(dataset=str(tmp_path))
    with pytest.raises(DataError) as error:
        read_splits(data)
    assert "repair" in error.value.faults[0]
    splits = read_splits(replace(data, repair=True))
    assert sum(len(row.entities) for row in splits.annotated) == 40
    (note,) = splits.notes
    assert "20 (" in note
    assert "train.bio:1" in note
