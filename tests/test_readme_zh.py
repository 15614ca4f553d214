"""Both READMEs say the same: the same commands and outputs, figures, links and headings in the same order."""

import re
from collections import Counter

import pytest
from rows import ROOT

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^```\w*\n.*?^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"\d(?:[\d.,]*\d)?")
CODE = re.compile(r"`[^`\n]+`")


def prose(text):
    """Without blocks and links' addresses."""
    return re.sub(r"\]\([^)]*\)", "]", BLOCK.sub("", text))


def test_the_same_commands_and_outputs():
    assert BLOCK.findall(CHINESE) == BLOCK.findall(ENGLISH)


def test_the_same_headings_and_pictures():
    for kind in (r"^#+(?= )", r"!\[[^]]*\]\(([^)]*)\)", r"^\|[-|]+\|$"):
        assert re.findall(kind, CHINESE, re.MULTILINE) == re.findall(kind, ENGLISH, re.MULTILINE)


@pytest.mark.parametrize("kind", [FIGURE, CODE], ids=["figures", "names in code"])
def test_the_same_figures_and_names(kind):
    """As often in one as in the other, section by section; numerals that English spells out are not compared."""
    for english, chinese in zip(prose(ENGLISH).split("\n## "), prose(CHINESE).split("\n## "), strict=True):
        mine, theirs = Counter(kind.findall(chinese)), Counter(kind.findall(english))
        assert mine == theirs, english.splitlines()[0]
