"""Valid files, broken a little: what a fuzzer finds most with.

In: valid contents. Out: hypothesis strategies of contents near them. Knows nothing of who reads them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 3, 7, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", " ", "\n", "三星", "company",
    "address", "\ud83d", "\udc00", "\u0000", "\ufeff", "😀", '"', "\\", "<|im_end|>", [], {}, [[]], [0, 2], [[0, 2]], [2, 0],
    [[0, 2, "company"]], {"三星": [[0, 2]]}, {"company": ["三星"]}, {"": ""}, ["三星", "三星"], [{}], [[[[[[[[]]]]]]]],
]  # fmt: skip
"""Values that stand in for another one."""

WORDS = [
    b"", b"\n", b"\r\n", b"\r", b"\t", b" ", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xc0\x80", b"\xed\xa0\x80", "\u2028".encode(), "\x85".encode(),
    '"', "{", "}", "[", "]", ",", ":", "\\", "\\u", "\\ud800", "\\udc00", "null", "NaN", "1e999", "-1", "9" * 5000, "[" * 3000, '{"a":' * 3000,
    '"id"', '"text"', '"label"', '"entities"', '"company"', "三", "星", "😀", "B-", "I-", "E-", "S-", "M-", "O", "-DOCSTART-", "#", "B-company", "\tO\n",
    "!!python/object/apply:os.system ['true']", "&a", "*a", "<<: ", "- ", "? ", "'", "|", ">", "%YAML 1.1\n", "---\n", "$HOME", "$$", "${", "${NOT_SET}",
]  # fmt: skip
"""What is put into the bytes of a file."""

_WORDS = [word if isinstance(word, bytes) else word.encode() for word in WORDS]

PLACES = 1 << 16
"""A place in a file is drawn as one of so many parts of it."""

SIZE = 7
"""Bytes that say one operation: which, two places of two bytes each, a byte and a word."""


def mutated(*bases: bytes, whole_trees: bool = False) -> st.SearchStrategy[bytes]:
    """One of `bases`, changed in up to five places: bytes, pieces, or values inside of its lines of JSON.

    With `whole_trees` the file is one JSON value over several lines. What is drawn is one string of bytes that says
    what to do: hypothesis takes longer to draw many values than a reader takes to read them.
    """

    def broken(plan: bytes) -> bytes:
        data, other = bases[plan[0] % len(bases)], bases[plan[1] % len(bases)]
        for at in range(2, len(plan) - SIZE + 1, SIZE):
            kind, a, b, byte, word = struct.unpack(">BHHBB", plan[at : at + SIZE])
            data = _OPERATIONS[kind % len(_OPERATIONS)](data, other, whole_trees, a, b, byte, word)
        return data

    return st.binary(min_size=2, max_size=2 + 5 * SIZE).map(broken)


def mutated_text(*bases: str) -> st.SearchStrategy[str]:
    """As `mutated`, for what is text by the time it is read: bytes that are none become lone surrogates."""
    encoded = mutated(*(base.encode("utf-8", "surrogatepass") for base in bases), whole_trees=True)
    return encoded.map(lambda data: data.decode("utf-8", "surrogateescape"))


Operation = Callable[[bytes, bytes, bool, int, int, int, int], bytes]


def _cut(data: bytes, start: int, length: int) -> tuple[int, int]:
    at = start * (len(data) + 1) // PLACES
    return at, min(len(data), at + length * 40 // PLACES)


def _set_byte(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    at = _cut(data, a, 0)[0]
    return data[:at] + bytes([byte]) + data[at + 1 :]


def _flip_bit(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    at = _cut(data, a, 0)[0]
    return data if at == len(data) else data[:at] + bytes([data[at] ^ (1 << byte % 8)]) + data[at + 1 :]


def _insert(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    at = _cut(data, a, 0)[0]
    return data[:at] + _WORDS[word % len(_WORDS)] + data[at:]


def _delete(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    start, end = _cut(data, a, b)
    return data[:start] + data[end:]


def _double(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    start, end = _cut(data, a, b)
    return data[:end] + data[start:]


def _truncate(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    return data[: _cut(data, a, 0)[0]]


def _splice(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    return data[: _cut(data, a, 0)[0]] + other[_cut(other, b, 0)[0] :]


def _shuffle_lines(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    lines = data.split(b"\n")
    one, two = a * len(lines) // PLACES, b * len(lines) // PLACES
    lines[one], lines[two] = lines[two], lines[one]
    return b"\n".join(lines)


def _change_value(data: bytes, other: bytes, tree: bool, a: int, b: int, byte: int, word: int) -> bytes:
    """Put an odd value into a JSON value, or take one out, or put one in twice."""
    lines = [data] if tree else data.split(b"\n")
    at = a * len(lines) // PLACES
    try:
        root = [json.loads(lines[at])]
    except (ValueError, RecursionError):
        return data
    places = list(_places(root))
    holder, key = places[b * len(places) // PLACES]
    if byte < 200:
        holder[key] = ODD[word % len(ODD)]
    elif isinstance(holder, dict):
        if byte < 230:
            holder[ODD[word % len(ODD)] if isinstance(ODD[word % len(ODD)], str) else "odd"] = holder.pop(key)
        else:
            del holder[key]
    elif holder is not root:
        if byte < 230:
            holder.insert(key, holder[key])
        else:
            del holder[key]
    lines[at] = json.dumps(root[0], ensure_ascii=byte % 2 == 0).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _places(value: Any) -> Any:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


_OPERATIONS: list[Operation] = [
    _set_byte, _flip_bit, _insert, _delete, _double, _truncate, _splice, _shuffle_lines, _change_value, _change_value,
]  # fmt: skip
