"""Rows of our own, for every test that needs some."""

from pathlib import Path

from qwen_ner.entities import Entity, Example

ROOT = Path(__file__).resolve().parents[1]


def example(text: str, *mentions: tuple[str, str], id: str = "0", source: str = "here:1") -> Example:
    """An example whose mentions are (label, surface), each at its first place in the text."""
    entities = tuple(Entity(label, s, text.index(s), text.index(s) + len(s)) for label, s in mentions)
    return Example(id, text, entities, source)


EIGHT = [
    example("我在北京买了三星手机", ("address", "北京"), ("company", "三星")),
    example("玩了一晚上魔兽争霸", ("game", "魔兽争霸")),
    example("这个快递太慢了"),
    example("店长李明说周末去西湖", ("position", "店长"), ("name", "李明"), ("scene", "西湖")),
    example("看了《红海行动》和《红楼梦》", ("movie", "《红海行动》"), ("book", "《红楼梦》")),
    example('他说"好用"，浙江大学的同学都在用', ("organization", "浙江大学")),
    example("杭州市市场监督管理局抽查了123台😀", ("government", "杭州市市场监督管理局")),
    example("上海和广州的苹果店", ("address", "上海"), ("address", "广州"), ("company", "苹果")),
]
