"""Tagged sentences, one a line: each token with its tag, or a text, a tab and its tags.

    三/B-ORG 星/I-ORG 在/O 北/B-LOC 京/I-LOC
    三星在北京<tab>B-ORG I-ORG O B-LOC I-LOC        or 三 星 在 北 京<tab>…, or words

In: such lines. Out: `Example`s; ids count them from 1. `tagging` says how tokens become a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ....entities import Example, LabelSet
from ..errors import Note, ignore
from ..lines import text_lines
from ..rows import looks_like_object
from .schemes import OUTSIDE, SPELLINGS, parse_tag
from .tagging import read_sentences

NAME = "sentences"
SUFFIXES = (".txt", ".tsv")
DESCRIPTION = "tagged sentences, one a line (三/B-ORG 星/I-ORG, or the text, a tab and its tags)"


def sniff(head: bytes, name: str) -> bool:
    if looks_like_object(head) or name.endswith((".json", ".jsonl")):
        return False
    lines = [line.decode(errors="replace") for line in islice(filter(bytes.strip, head.split(b"\n")), 100)]
    found = [names for _, names in filter(None, map(_split, lines)) if len(names) > 1]
    return 2 * len(found) > len(lines) and any(parse_tag(tag) != OUTSIDE for names in found for tag in names)


def _split(line: str) -> tuple[list[str], list[str]] | None:
    """Tokens and tags of a line; None if it has neither form.

    >>> _split("三/B-ORG 星/I-ORG"), _split("三星\\tB-ORG I-ORG"), _split("三星/company 在/o")
    ((['三', '星'], ['B-ORG', 'I-ORG']), (['三', '星'], ['B-ORG', 'I-ORG']), None)
    """
    line = line.removeprefix("\ufeff")
    pairs = [word.rpartition("/") for word in line.split()]
    if pairs and all(token and _is_tag(tag) for token, _, tag in pairs):
        return [token for token, _, _ in pairs], [tag for _, _, tag in pairs]
    text, _, behind = line.rpartition("\t")
    words, names = text.split(), behind.split()
    if words and names and all(map(_is_tag, names)):
        return words if len(words) == len(names) else list(text), names
    return None


def _is_tag(name: str) -> bool:
    return parse_tag(SPELLINGS["ORG-B"](name)) is not None or parse_tag(name) is not None


def read(
    path: str | Path, labels: LabelSet | None = None, *, repair: bool = False, warn: Note = ignore, **_: Any
) -> Iterator[Example]:
    """Raises `DataError` with each fault, or `NerError` if there is no sentence, at the end."""
    path, sentences = Path(path).expanduser(), []
    for number, line in text_lines(path):
        sentences.append((f"{path.name}:{number}", *(_split(line) or ([line], []))))
    yield from read_sentences(sentences, str(path), labels, repair, warn)
