"""One row as the model is trained on it, for a reader: token by token, with what the loss is computed on.

In: token ids, labels, a tokenizer. Out: lines of text. Knows nothing of where they came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...columns import width as columns_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u3000": "␣␣"}
SUPERVISED, NOT = "●", "·"


def token_table(ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, width: int) -> list[str]:
    """Three lines, as often as `width` columns need: the tokens, their ids, and ● below those that the loss is on.

    `labels[i]` is `ids[i]` where token i is supervised, anything else where it is not. Spaces and line ends are made
    visible; a token that is a part of a character shows its bytes.
    """
    texts = [_visible(tokenizer, token) for token in ids]
    marks = [SUPERVISED if label == token else NOT for token, label in zip(ids, labels, strict=True)]
    lines: list[str] = []
    columns: list[tuple[str, str, str]] = []
    used = 0
    head = ("token ", "id    ", "loss  ")
    for column in [*zip(texts, map(str, ids), marks, strict=True), None]:
        need = max(map(columns_of, column)) + 1 if column else 0
        if columns and (column is None or len(head[0]) + used + need > width):
            widths = [max(map(columns_of, cells)) for cells in columns]
            for n, name in enumerate(head):
                lines.append((name + " ".join(_padded(c[n], w) for c, w in zip(columns, widths, strict=True))).rstrip())
            lines.append("")
            columns, used = [], 0
        if column:
            columns.append(column)
            used += need
    return lines[:-1]


def _visible(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        spelled = tokenizer.convert_ids_to_tokens(token)
        return "".join(f"\\x{byte_of[c]:02x}" if c in byte_of else c for c in spelled)
    return "".join(VISIBLE.get(c, c) for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))
