"""One row as the model is trained on it, token by token, with what is in the loss.

In: token ids, labels, a tokenizer. Out: lines of text. Does not know where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ...columns import printable
from ...columns import width as columns_of
from ...inference.constraints.vocabulary import token_bytes

VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u3000": "␣␣"}


def token_table(ids: Sequence[int], labels: Sequence[int], tokenizer: PreTrainedTokenizerBase, width: int) -> list[str]:
    """Blocks of three lines, each within `width` columns: the tokens, their ids, and ● under those in the loss.

    `labels[i]` equals `ids[i]` if token i is supervised. Spaces and line ends are made visible; a token that is part of
    a character shows its bytes.
    """
    cells = [
        (_visible(tokenizer, token), str(token), "●" if label == token else "·")
        for token, label in zip(ids, labels, strict=True)
    ]
    blocks: list[list[str]] = []
    for column in cells:
        size = max(map(columns_of, column))
        if not blocks or columns_of(blocks[-1][0]) + 1 + size > width:
            blocks.append(["token", "id   ", "loss "])
        padded = (f" {text}{' ' * (size - columns_of(text))}" for text in column)
        blocks[-1] = [before + text for before, text in zip(blocks[-1], padded, strict=True)]
    return [line.rstrip() for block in blocks for line in (*block, "")][:-1]


def _visible(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token])
    if "\ufffd" in text:
        spelled = tokenizer.convert_ids_to_tokens(token)
        spelling = token_bytes(spelled)
        return spelled if spelling is None else "".join(f"\\x{byte:02x}" for byte in spelling)
    return printable("".join(VISIBLE.get(c, c) for c in text))
