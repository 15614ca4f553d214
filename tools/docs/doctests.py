"""A griffe extension: the `>>>` examples of docstrings become code blocks. Markdown takes them for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)
_FLAG = re.compile(r" *# doctest: .*")


class Doctests(griffe.Extension):
    """Loaded by mkdocstrings, by the path in mkdocs.yml."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """`docstring` with each example in a fence, without flags for doctest.

    >>> print(fenced("Add.\\n\\n>>> 1 + 1  # doctest: +SKIP\\n2").replace("`", "'").replace(">", "."))
    Add.
    <BLANKLINE>
    '''pycon
    ... 1 + 1
    2
    '''
    """
    return _EXAMPLE.sub(lambda found: f"```pycon\n{_FLAG.sub('', found[0])}\n```", docstring)
