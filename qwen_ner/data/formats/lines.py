"""Lines of text files as UTF-8, however they are written, and back.

In: a path. Out: lines of bytes. Knows nothing of formats.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from ...entities import NerError
from .errors import LineFault

warn_once = cache(logging.getLogger(__name__).warning)  # a file is looked through several times

MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
         (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
"""Byte order marks of encodings other than UTF-8; the mark of UTF-16 begins that of UTF-32."""

HEAD = 1 << 16
"""Bytes at the beginning of a file that tell its encoding."""

CHINESE = {"gb18030": "GB18030", "cp950": "Big5"}
"""Encodings of Chinese other than UTF-8, and what people call them; GBK is a part of GB18030."""

FOREIGN = 0.3
"""The share of bytes beyond ASCII that cannot be UTF-8, from which a file is taken for another encoding. One wrong byte
in a file of UTF-8 is a fault of its line."""

COMMON = 0.4
"""The share of common characters among those beyond ASCII from which a text is Chinese."""

KOREAN = 20
"""Hangul, if nothing else, from which a file is taken for Korean: each could be a common Chinese character."""


def lines_of(path: str | Path) -> Iterator[bytes]:
    """The lines of a file, read as they are needed, split at line feeds only. Raises `NerError` if it cannot be read.

    A byte order mark tells UTF-16; what is not UTF-8 but Chinese in GB18030 (GBK) or Big5, as Excel saves it, is
    logged. Their lines come as UTF-8. `str.splitlines` would also split at a U+2028 inside a text.
    """
    try:
        with io.BufferedReader(Path(path).expanduser().open("rb", buffering=0), HEAD) as lines:
            mark = lines.peek(HEAD)  # not read: a pipe cannot be wound back
            encoding = next((name for start, name in MARKS if mark.startswith(start)), None)
            if encoding is None and b"\0" in mark[:4]:
                raise NerError("looks like UTF-16 without its mark", place=path, remedy="save the file as UTF-8")
            if encoding is None and (encoding := chinese_encoding(mark)):
                told = "%s is read as %s, which it is written in instead of UTF-8."
                warn_once(told, str(path), CHINESE[encoding])
            if encoding is None:
                yield from lines
            else:
                yield from (line.encode() for line in io.TextIOWrapper(lines, encoding, newline="\n"))
    except UnicodeDecodeError as error:
        what = f"begins like {error.encoding.upper()}, but is not written in it ({error.reason})"
        raise NerError(what, place=path, remedy="save the file as UTF-8") from error
    except OSError as error:
        remedy = f"check the path, relative to {Path.cwd()}"
        raise NerError(f"cannot be read ({error.strerror})", place=path, remedy=remedy) from error


def chinese_encoding(head: bytes) -> str | None:
    """The one of `CHINESE` that this beginning of a file is written in, rather than UTF-8.

    GB18030 decodes much else too, but to rare characters, Japanese and Korean to common ones.

    >>> chinese_encoding("三星在北京".encode("gbk")), chinese_encoding("三星在北京".encode("big5"))
    ('gb18030', 'cp950')
    >>> chinese_encoding("三星在北京".encode()), chinese_encoding("Müller".encode("cp1252"))
    (None, None)
    """
    beyond = sum(byte > 0x7F for byte in head)
    if not beyond or head.decode(errors="replace").count("\ufffd") < FOREIGN * beyond:
        return None
    hangul = len(re.findall("[가-힣]", head.decode("euc_kr", "replace")))
    if b"\0" in head or hangul > max(KOREAN, 0.45 * beyond):  # or UTF-16
        return None
    shares = dict[str, float]()
    for encoding in CHINESE:
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(encoding)().decode(head)  # may end amid a character
            chars = [char for char in text if char > "\x7f"]
            kana = sum("ぁ" <= char <= "ヿ" for char in chars)
            shares[encoding] = sum(map(_is_common, chars)) / len(chars) if 3 * kana < len(chars) else 0.0
    best = max(shares, key=lambda encoding: shares[encoding], default=None)
    return best if best and shares[best] >= COMMON else None


def _is_common(char: str) -> bool:
    """Whether this is among the common characters of GB2312 or of Big5, or a mark of theirs."""
    return b"" < char.encode("gb2312", "ignore") < b"\xd8" or b"" < char.encode("big5", "ignore") < b"\xc6\x7f"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 with line feeds, as they come."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def number_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines, without blank lines, line ends and byte order marks, which stand at the beginning of each
    file where files were put one after the other."""
    for number, line in enumerate(lines, start=1):
        line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line.rstrip(b"\r\n")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbers and lines of a text file, without blank ones. Raises `NerError` for one that is not UTF-8."""
    for number, raw in number_lines(lines_of(path)):
        try:
            yield number, decode_line(raw)
        except LineFault as fault:
            raise NerError(fault.what, place=f"{path}:{number}", remedy=fault.remedy) from None


def decode_line(raw: bytes) -> str:
    """The line as text. Raises `LineFault` if it is not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        fault = f"byte 0x{raw[error.start]:02x} at offset {error.start} of the line is not UTF-8"
        raise LineFault(fault, remedy="save the file as UTF-8 (from GBK: iconv -f GB18030 -t UTF-8)") from error
