"""Files that are written whole or not at all.

In: a path and what to write. Out: the file, or the old one untouched. Knows nothing of what is in it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
"""How the name of what is not whole yet ends, after a dot that hides it: a process that is killed leaves it behind."""


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, [json.dumps(values, ensure_ascii=False, indent=2) + "\n"])


def write_text(path: Path, pieces: Iterable[str]) -> None:
    """Write `pieces`, whole or not at all, so that a reader never meets half a file."""
    with beside(path) as part, part.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        file.writelines(pieces)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, of a name that nobody can foresee, which becomes `path` if all goes well.

    It is removed otherwise. Raises `OSError` where the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
