"""Both READMEs: the same commands, outputs and results, and short enough to be read."""

import re
import unicodedata

import pytest
from rows import ROOT

NAMES = ("README.md", "README.zh-CN.md")
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in NAMES)
BLOCKS = re.compile(r"^```(sh|python|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCORE = re.compile(r"\d+\.\d \(\d+\.\d – \d+\.\d\)")


def test_both_give_the_same_commands_and_scores():
    for kind in (BLOCKS, SCORE):
        assert kind.findall(ENGLISH)
        assert kind.findall(CHINESE) == kind.findall(ENGLISH)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_in_ten_minutes(name):
    """At most 200 lines, none wider than 120 columns; a Chinese character takes two."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wide = [line for line in lines if sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) > 120]
    assert len(lines) <= 200
    assert not wide
