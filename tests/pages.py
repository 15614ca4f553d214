"""The pages of documentation: README.md and docs/, their fenced blocks and links. Knows nothing of what a block does."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from rows import ROOT

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)```(?P<language>[^\s`]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ \t]*$", re.M | re.S
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. `place` is the file and the line of its fence."""

    place: str
    language: str
    text: str


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and the English pages, and those without a language: what the tests run. The others are their twins."""
    return [
        root / "README.md",
        *(page for page in sorted((root / "docs").rglob("*.md")) if "zh" not in page.relative_to(root).parts),
    ]


def name_of(page: Path, root: Path = ROOT) -> str:
    return page.relative_to(root).as_posix()


def blocks(page: Path, root: Path = ROOT) -> list[Block]:
    """The blocks of a page from top to bottom, those in lists and tabs too."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{name_of(page, root)}:{text.count(chr(10), 0, found.start()) + 1}",
            found["language"],
            textwrap.dedent(found["text"]),
        )
        for found in FENCE.finditer(text)
    ]


def commands(page: Path, root: Path = ROOT) -> list[str]:
    return [line for block in blocks(page, root) if block.language == "sh" for line in block.text.splitlines()]


def links(page: Path) -> list[str]:
    """The targets that are files or headings, not addresses."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [found["target"] for found in LINK.finditer(prose) if not re.match(r"[a-z]+:", found["target"])]


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    made: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = made[slug] = made.get(slug, -1) + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found
