"""What a cell of a table says: surfaces, labels with theirs, or that there is none.

In: a cell, and the text of its row; or the name of a column. Out: strings. Knows nothing of tables.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, partial

PART = re.compile(r"(?:《[^《》\n]*》|“[^“”\n]*”|「[^「」\n]*」|[^、;；|\n])+")
"""What stands between separators, which separate nothing within quotes."""

COMMAS = re.compile(r"[,，]")
SLASHES = re.compile(r"[/／]")
SPACES = re.compile(r"\s+")

HAN = re.compile(r"[\u3400-\u9fff]{2,}")

PAIR = re.compile(r"([^:：,，]+)[:：]\s*(.+)")
"""A label and what is of it: 景点:故宫."""

NONE = frozenset(("无", "没有", "空", "暂无", "/", "／", "\\", "-", "--", "－", "–", "—", "——", "#n/a"))
NONE_UNLESS_IN_TEXT = frozenset(("n/a", "na", "nan", "none", "null"))
"""What people write into a cell for which there is no entity."""


@cache
def name_parts(name: str) -> tuple[str, ...]:
    """The name of a column and what is in brackets behind it, without white space, width and case.

    >>> name_parts("文 本（Text）"), name_parts("Sentence #")
    (('文本', 'text'), ('sentence#',))
    """
    folded = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return tuple(filter(None, re.split(r"[()\[\]]", folded)))


def is_none(part: str, text: str) -> bool:
    """Whether a cell says that there is none. Na may also be sodium: what stands in the text is a surface.

    >>> is_none("无", "无聊的一天"), is_none("N/A", "三星"), is_none("Na", "血Na偏低")
    (True, True, False)
    """
    return part.casefold() in NONE or (part.casefold() in NONE_UNLESS_IN_TEXT and part not in text)


def parts_of(cell: str) -> list[str]:
    """What stands between separators."""
    return [part for one in PART.findall(cell) if (part := one.strip())]


def surfaces(cell: str, text: str) -> list[str]:
    """The surfaces in a cell, which is one if it stands in the text as it is.

    >>> surfaces("三星、苹果；阿里,巴巴", "三星和苹果，还有阿里,巴巴"), surfaces("红、肿、热", "局部红、肿、热")
    (['三星', '苹果', '阿里,巴巴'], ['红、肿、热'])
    """
    whole = cell.strip()
    named = (part for part in ([whole] if whole in text else parts_of(cell)) if part and not is_none(part, text))
    return list(dict.fromkeys(one for part in named for one in split(part, text)))


def split(part: str, text: str) -> list[str]:
    """What a comma or slash separates, unless the whole is in the text."""
    if part in text:
        return [part]
    by_slash = words(SLASHES, part)
    return by_slash if all(one in text for one in by_slash) else words(COMMAS, part)


def words(separator: re.Pattern[str], part: str) -> list[str]:
    """What of `part` stands between separators."""
    return [word for one in separator.split(part) if (word := one.strip())]


def is_in(cell: str, text: str) -> bool:
    """Whether something in the cell is in the text, whatever stands around it: such a cell is a label's, mistyped.

    >>> is_in("《故宫》 天坛", "在故宫"), is_in("not sure", "在故宫"), is_in("Hard Rock", "Rock isn't Hard")
    (True, False, True)
    """
    for one in surfaces(cell, text):
        parts = words(SPACES, one)
        if all(part in text for part in parts) or any(run in text for run in HAN.findall(one)):
            return True
    return False


def lists_of(label: str, surface: str, text: str) -> tuple[list[str], list[str]]:
    """The labels and surfaces in the cells of a row, if the same kind of mark separates both.

    >>> lists_of("公司、地点", "三星;北京", "三星在北京"), lists_of("症状/体征", "头痛", "头痛")
    ((['公司', '地点'], ['三星', '北京']), (['症状/体征'], ['头痛']))
    """
    for separate in (parts_of, partial(words, COMMAS), partial(words, SLASHES)):
        parts, labels = separate(surface), separate(label)
        if len(parts) > 1 and (separate is parts_of or surface not in text):
            return (labels, parts) if len(labels) > 1 else ([label], parts)
    return [label], [surface]


def pairs(cell: str, text: str) -> list[tuple[str, str]]:
    """The label and surface of each entity in a cell. A surface without a label has that of the one before, if any.

    >>> pairs("景点:故宫、天坛；美食：烤鸭", "去了故宫和天坛，烤鸭不错"), pairs("10:30", "10:30开车")
    ([('景点', '故宫'), ('景点', '天坛'), ('美食', '烤鸭')], [('', '10:30')])
    """
    found: list[tuple[str, str]] = []
    label = ""
    for part in parts_of(cell):
        for one in [part] if pair_of(part, text)[1] in text else words(COMMAS, part):
            named, surface = pair_of(one, text)
            label = named or label
            found.append((label, surface))
    return found


def pair_of(part: str, text: str) -> tuple[str, str]:
    """The label and surface that a colon separates; no label if there is no colon, or the text has it all."""
    pair = None if part in text else PAIR.fullmatch(part)
    return (pair[1].strip(), pair[2].strip()) if pair else ("", part)
