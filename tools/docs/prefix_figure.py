"""Draws docs/<language>/concepts/prefix_sharing.svg: three padded rows, and the one row that they are packed into.

    python tools/docs/prefix_figure.py

One figure with a square a token for who attends to whom. Colours are mid-tones, to be read on light and on dark pages.
"""

from __future__ import annotations

from pathlib import Path

PREFIX, USER, ANSWER, PADDING, GREY = "#7a8fa6", "#3f8fc4", "#e08a3c", "#88888833", "#888888"
ROWS = ((4, 3, 3), (4, 2, 1), (4, 1, 3))  # tokens of prefix, user's turn, answer
CELL = 17
DOCS = Path(__file__).resolve().parents[2] / "docs"
WORDS = {
    "en": ("padded: {} positions", "prefix shared: {} positions", "who attends to whom",
           ("prefix", "user's turn", "answer, in the loss", "padding, or not seen")),
    "zh": ("填充：{} 个位置", "前缀共享：{} 个位置", "谁能看到谁",
           ("公共前缀", "用户消息", "回答，计入 loss", "填充，或看不到")),
}  # fmt: skip


def figure(language: str) -> str:
    """The SVG as text."""
    padded, shared, mask, names = WORDS[language]
    longest, parts = max(map(sum, ROWS)), []
    packed = [(PREFIX, 0)] * ROWS[0][0]
    parts.append(label(0, 14, padded.format(longest * len(ROWS))))
    for n, (prefix, user, answer) in enumerate(ROWS):
        colours = [PREFIX] * prefix + [USER] * user + [ANSWER] * answer
        packed += [(colour, n + 1) for colour in colours[prefix:]]
        colours += [PADDING] * (longest - len(colours))
        parts += [square(x, 24 + n * (CELL + 3), colour) for x, colour in enumerate(colours)]
    at = 24 + len(ROWS) * (CELL + 3) + 26
    parts.append(label(0, at, shared.format(len(packed))))
    parts += [square(x, at + 10, colour) for x, (colour, _) in enumerate(packed)]
    at += 10 + CELL + 28
    parts.append(label(0, at, mask))
    for query, (colour, row) in enumerate(packed):
        for key in range(query + 1):
            seen = packed[key][1] in (0, row)
            parts.append(square(key, at + 10 + query * CELL, colour if seen else PADDING))
    for n, (name, colour) in enumerate(zip(names, (PREFIX, USER, ANSWER, PADDING), strict=True)):
        y = at + 20 + n * 24
        parts += [f'<rect x="360" y="{y}" width="14" height="14" rx="2" fill="{colour}"/>', label(382, y + 12, name)]
    height = at + 20 + len(packed) * CELL
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 {height}" width="560" height="{height}" '
        f'font-family="sans-serif" font-size="14" fill="{GREY}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def square(x: int, y: int, colour: str) -> str:
    return f'<rect x="{x * CELL}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="2" fill="{colour}"/>'


def label(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}">{text}</text>'


if __name__ == "__main__":
    for language in WORDS:
        (DOCS / language / "concepts" / "prefix_sharing.svg").write_text(figure(language), encoding="utf-8")
