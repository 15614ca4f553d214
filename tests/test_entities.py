import pickle

import pytest

from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError, fingerprint


@pytest.mark.parametrize(("start", "end"), [(0, 3), (1, 1), (-1, 1), (2, 0)])
def test_an_entity_refuses_a_span_that_is_not_its_text(start, end):
    with pytest.raises(NerError) as error:
        Entity("company", "三星", start, end)
    assert (error.value.place, error.value.value) == (f"[{start}, {end})", "三星")


@pytest.mark.parametrize("text", ["", "三星"])
def test_an_entity_is_not_empty(text):
    with pytest.raises(NerError):
        Entity("company", text, 1, 1)


def test_an_entity_has_a_label():
    with pytest.raises(NerError, match="without a label") as error:
        Entity("", "三星", 0, 2)
    assert (error.value.place, error.value.value) == ("[0, 2)", "三星")


@pytest.mark.parametrize(("value", "said"), [(0, ", got 0"), ("", ", got ''"), (None, "")])
def test_an_error_says_what_was_found_unless_there_is_nothing_to_say(value, said):
    assert (
        str(NerError("out of range", value=value, place="seed", remedy="give 1")) == f"seed: out of range{said}; give 1"
    )


def test_an_error_keeps_its_fields_between_processes():
    error = NerError("out of range", value=0, place="seed", remedy="give 1")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.what, back.value, back.place, back.remedy) == (
        str(error),
        "out of range",
        0,
        "seed",
        "give 1",
    )


def test_an_example_refuses_a_span_that_holds_something_else():
    with pytest.raises(NerError, match="三星") as error:
        Example("0", "三星在北京", (Entity("company", "三星", 1, 3),))
    assert (error.value.place, error.value.value) == ("[1, 3)", "星在")


def test_an_example_keeps_overlaps_and_refuses_the_same_entity_twice():
    nested = (Entity("address", "北京", 0, 2), Entity("organization", "北京大学", 0, 4))
    assert Example("0", "北京大学", nested).entities == nested
    with pytest.raises(NerError, match="twice") as error:
        Example("0", "北京大学", nested[:1] * 2)
    assert (error.value.place, error.value.value) == ("[0, 2)", "北京")


def test_entities_come_in_text_order():
    later, earlier = Entity("address", "北京", 3, 5), Entity("company", "三星", 0, 2)
    assert Example("0", "三星在北京", (later, earlier)).entities == (earlier, later)


def test_the_order_in_which_entities_of_one_span_are_given_does_not_count():
    game, name = Entity("game", "三星", 0, 2), Entity("name", "三星", 0, 2)
    assert Example("0", "三星", (name, game)) == Example("0", "三星", (game, name))
    with pytest.raises(NerError, match="twice"):
        Example("0", "三星", (game, name, game))


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a", ""]])
def test_a_label_set_refuses_what_cannot_be_a_key(names):
    with pytest.raises(NerError) as error:
        LabelSet.of(names)
    assert (error.value.place, error.value.value) == ("labels", names)


def test_a_description_may_be_left_empty_as_in_yaml():
    assert LabelSet.of({"drug": None, "disease": "疾病名称"}) == LabelSet.of({"drug": "", "disease": "疾病名称"})


def test_cluener_has_ten_described_labels():
    assert len(CLUENER) == 10
    assert all(label.description for label in CLUENER)


def test_the_fingerprint_changes_with_text_label_offset_and_order():
    one, other = Example("0", "三三", (Entity("name", "三", 0, 1),)), Example("1", "三")
    variants = [
        [one, other],
        [other, one],
        [Example("0", "三三。", one.entities), other],
        [Example("0", "三三", (Entity("game", "三", 0, 1),)), other],
        [Example("0", "三三", (Entity("name", "三", 1, 2),)), other],
    ]
    assert len({fingerprint(v) for v in variants}) == len(variants)
    assert fingerprint([Example("7", "三三", one.entities, "elsewhere:1"), other]) == fingerprint([one, other])
    assert fingerprint([Example("0", "\ud800")]) != fingerprint([Example("0", "\ud801")]), "halves of a pair too"
