"""What a request carries so that a server can make the constraint of its answer again.

In: a text and labels. Out: the values of the request. Knows nothing of HTTP, tokens or models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

TEXT, LABELS, TARGET = "qwen_ner_text", "qwen_ner_labels", "qwen_ner_target"
"""The names in `vllm_xargs` that `vllm.GrammarProcessor` reads."""

LEAST_TOKENS = 3
"""The lowest limit of an answer: an empty one is spelled with two tokens at most, and ended."""

BITS = 64
"""Labels that llguidance can keep apart; further ones may come twice."""


def constraint_arguments(text: str, labels: Sequence[str], target: str) -> dict[str, Any]:
    """The values of `vllm_xargs`; earlier versions know no target but JSON, and do not name it.

    >>> constraint_arguments("三星在北京", ["company"], "json")
    {'qwen_ner_text': '三星在北京', 'qwen_ner_labels': ['company']}
    """
    return {TEXT: text, LABELS: list(labels)} | ({} if target == "json" else {TARGET: target})


def lark(text: str, labels: Sequence[str]) -> str:
    """The JSON that `text` allows as a grammar for llguidance, for a server without our logits processor.

    It has each label once, with substrings of the text, but says neither that no surface comes twice nor that the
    answer ends in time: a general grammar cannot. There is none for inline answers: a rule for each character of the
    text overflows the stack where texts are long, and a lexer takes a space in a mark for the beginning of a label.
    """
    if not text or not labels:
        return 'start: "{}"'
    chunks = json.dumps([json.dumps(character, ensure_ascii=False)[1:-1] for character in text], ensure_ascii=False)
    keys = (json.dumps(json.dumps(label, ensure_ascii=False) + ":[", ensure_ascii=False) for label in labels)
    entries = (
        f'{key} list "]" more::set_bit({n}) %if bit_clear({n})' if n < BITS else f'{key} list "]" more::_'
        for n, key in enumerate(keys)
    )
    rules = (
        'start: "{}" | "{" entries::0x0',
        f"entries::_: {' | '.join(entries)}",
        'more::_: "}" | "," entries::_',
        r'list: "\"" SUB "\"" (",\"" SUB "\"")*',
        f'SUB: %regex {{"substring_chunks": {chunks}}} & /(?s:.+)/',
    )
    return "\n".join(rules) + "\n"
