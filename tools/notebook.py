"""Run the notebook of the documentation from top to bottom and store what its cells print.

    python tools/notebook.py            # with qwen_ner installed; minutes on two cores

In: docs/en/notebook.ipynb, whose cells are Python and lines that begin with `!`, as Jupyter has them. Out: the same
with `outputs`, and its Chinese twin. There is no kernel: a cell is run in this process, which knows no `%` magics.
"""

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK, TWIN = (DOCS / language / "notebook.ipynb" for language in ("en", "zh"))

Shell = Callable[[str], str]
"""Runs a command line and returns what it printed, to both streams."""


def run(notebook: dict[str, Any], shell: Shell) -> dict[str, Any]:
    """The notebook with the outputs of its code cells, run in the current folder. Raises what a cell raises."""
    namespace: dict[str, Any] = {"__name__": "__main__", "_shell": lambda line: print(shell(line), end="")}
    cells = []
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            outputs = _run_cell("".join(cell["source"]), number, namespace)
            cell = {**cell, "execution_count": number, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def _run_cell(source: str, number: int, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    """What Jupyter would show: the printed text, and the value of a last expression."""
    code = re.sub(r"^( *)!(.*)$", lambda line: f"{line[1]}_shell(f{line[2]!r})", source, flags=re.MULTILINE)
    tree = ast.parse(code, f"cell {number}")
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if last:
            value = eval(compile(last, f"cell {number}", "eval"), namespace)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = _lines(value._repr_html_())
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _system(line: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    joined = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(line, shell=True, text=True, env={**os.environ, "PATH": path}, **joined)
    if done.returncode:
        sys.exit(f"! {line} exited with {done.returncode}\n{done.stdout}")
    return done.stdout


def with_outputs(twin: dict[str, Any], notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook in another language, with the outputs of the one that ran: their code differs in comments alone."""
    pairs = zip(twin["cells"], notebook["cells"], strict=True)
    ran = ("execution_count", "outputs")
    return {**twin, "cells": [{**cell, **{key: other[key] for key in ran if key in other}} for cell, other in pairs]}


def main() -> None:
    notebook, twin = (json.loads(path.read_text(encoding="utf-8")) for path in (NOTEBOOK, TWIN))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        notebook = run(notebook, _system)
        os.chdir("/")
    for path, whole in ((NOTEBOOK, notebook), (TWIN, with_outputs(twin, notebook))):
        path.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
