"""Errors of offsets alone are counted where both sides have the surface."""

from f1_repeated import repeated

from qwen_ner.codec import Codec, Decoded
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.grounding import ground


def entity(label, text, start, end):
    return Entity(label, text[start:end], start, end)


def test_places_of_repeated_surfaces_are_counted_where_both_sides_have_the_surface():
    """北京 is meant the second time; 上海 stands once, 广州 is not predicted."""
    text = "北京人在北京去上海，广州广州"
    gold = Example(
        "0", text, (entity("address", text, 4, 6), entity("address", text, 7, 9), entity("address", text, 10, 12))
    )
    grounded = Decoded(ground(text, [("address", "北京")]), (("address", "北京"), ("address", "上海")))
    marked = Decoded((entity("address", text, 0, 2),), (("address", "北京"),))
    assert repeated([gold], [grounded]) == {"gold": 1, "missed": 0, "spurious": 1}
    assert repeated([gold], [marked]) == {"gold": 1, "missed": 1, "spurious": 1}
    assert repeated([gold] * 2, [Codec(CLUENER).decode(text, "{}")] * 2) == {"gold": 0, "missed": 0, "spurious": 0}
