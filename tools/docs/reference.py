"""A hook of MkDocs that makes the reference from the code, so that the two cannot differ.

In: a page with a line `<!-- made from the code: NAME -->`. Out: the page with what the function of that name in `PARTS`
returns instead of the line. `python.md` needs none of this: mkdocstrings makes it from docstrings.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_MARK = re.compile(r"^<!-- made from the code: (\w+) -->$", re.MULTILINE)
_CHINESE_BREAK = re.compile(
    r"(?<=[，。；：、！？）》”])\n[ \t]*(?=[^\s|#>*+`-]|`(?!``))(?!\d+\. )"  # not before what begins a block
    r"|(?<=[\u4e00-\u9fff])\n[ \t]*(?=[\u4e00-\u9fff“《（])"
)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page of each language."""
    if page.file.src_uri.endswith("notebook.md"):
        notebook = Path(page.file.abs_src_path).with_suffix(".ipynb")
        return _MARK.sub(lambda _: notebook_page(json.loads(notebook.read_text(encoding="utf-8"))), markdown)
    return _MARK.sub(lambda found: PARTS[found[1]](), joined(markdown))


def joined(markdown: str) -> str:
    """Lines of Chinese joined, as HTML would make a space of the line feed between them. Code is left as it is.

    >>> joined("一，\\n二三\\n四 a\\nb。\\n1. 五\\n")
    '一，二三四 a\\nb。\\n1. 五\\n'
    >>> joined("```text\\n一\\n二\\n```\\n三\\n四")
    '```text\\n一\\n二\\n```\\n三四'
    """
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if index % 2 else _CHINESE_BREAK.sub("", part) for index, part in enumerate(parts))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; its cells have no line feeds, and bars in code alone.

    >>> print(table(["key", "type"], [["`a`", "`int | none`"]]))
    | key | type |
    |---|---|
    | `a` | `int | none` |
    <BLANKLINE>
    """
    lines = [f"| {' | '.join(line)} |" for line in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:], ""])


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """A help text as Markdown: what Markdown or HTML would take for their own is escaped, but not in code.

    >>> print(prose("`<a_b>` <x>"))
    `<a_b>` &lt;x>
    """
    return re.sub(r"(`[^`]*`)|(<)|([|*_\\\[\]{}])", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[1] or ("&lt;" if found[2] else f"\\{found[3]}")


@cache
def recipe() -> str:
    from qwen_ner.training.keys import GROUPS, recipe_keys, refused_keys

    parts = []
    for group in GROUPS:
        rows = [
            [f"{code(key.name)}{{ #{key.name} }}", code(key.type), code(key.default), prose(key.help)]
            for key in recipe_keys()
            if key.group == group
        ]
        parts += [f"## {group}\n", table(["key", "type", "default", "what it does"], rows)]
    rows = [[code(name), prose(why)] for name, why in refused_keys().items()]
    return "\n".join([*parts, "## Keys of TrainingArguments that are refused\n", table(["key", "why"], rows)])


@cache
def commands() -> str:
    from qwen_ner.cli import build_parser

    (action,) = build_parser()._subparsers._group_actions
    summaries = {choice.dest: choice.help for choice in action._choices_actions}
    rows = [[f"[`{name}`](#{name})", prose(summary)] for name, summary in summaries.items()]
    parts = [_command(name, summaries[name], parser) for name, parser in action.choices.items()]
    return "\n".join([table(["command", "what it does"], rows), *parts])


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=90)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    rows = []
    for action in parser._actions:
        if action.dest != "help":
            shown = ", ".join(action.option_strings) or action.metavar or action.dest
            takes = action.option_strings and action.nargs != 0
            value = formatter._format_args(action, action.dest.upper()) if takes else ""
            rows.append([code(f"{shown} {value}".strip()), prose((action.help or "").replace("%%", "%"))])
    description = (parser.description or "").strip()
    return "\n".join(
        [
            f"## {name}\n",
            f"{prose(summary)}.\n",
            *([prose(description) + "\n"] if description != f"{summary}." else []),
            f"```text\n{formatter.format_help().strip()}\n```\n",
            table(["argument", "what it is"], rows),
            *([prose(parser.epilog) + "\n"] if parser.epilog else []),
        ]
    )


@cache
def formats() -> str:
    from qwen_ner.data.formats import registry

    rows = [
        [prose(one.DESCRIPTION), *(" ".join(map(code, names)) for names in (one.SUFFIXES, registry.written_names(one)))]
        for one in registry.FORMATS
    ]
    parts = [table(["format", "file names", "`convert --to`"], rows)]
    for format in registry.FORMATS:
        summary, _, more = (inspect.getdoc(format) or "").partition("\n")
        parts += [f"## {format.NAME}\n", f"{prose(summary)}\n", _described(more) + "\n"]
    return "\n".join(parts)


def _described(docstring: str) -> str:
    """A module's docstring as a reader of files needs it: without what is made of them, examples in fences.

    >>> print(_described("In: such lines.\\n\\n    三/o\\n\\nOut: rows. Knows nothing of JSON.").replace("`", "'"))
    Such lines.
    <BLANKLINE>
    '''text
    三/o
    '''
    """
    text = re.sub(r"(?:Out:|Knows nothing of|`tagging` says|What is left out)\s[^.]*\.\s*", "", docstring)
    text = re.sub(r"In: (.)", lambda found: found[1].upper(), text).strip("\n")
    parts = []
    for examples, lines in _runs(text.splitlines()):
        part = "\n".join(lines).strip("\n")
        parts.append(f"```text\n{inspect.cleandoc(part)}\n```" if examples else prose(part))
    return "\n\n".join(part for part in parts if part)


def _runs(lines: Iterable[str]) -> Iterator[tuple[bool, list[str]]]:
    """The lines in runs of indented and other ones; an empty line goes with what is before it."""
    run: list[str] = []
    indented = False
    for line in lines:
        if line and line.startswith("    ") != indented:
            yield indented, run
            run, indented = [], not indented
        run.append(line)
    yield indented, run


@cache
def ner_config() -> str:
    from qwen_ner.contract import CALIBRATION_KEYS, KEYS, NER_CONFIG_NAME, NerConfig
    from qwen_ner.inference.calibration import Calibration

    def expected(keys: dict[str, Any]) -> str:
        return table(["key", "expected"], [[code(key), prose(what)] for key, (what, _) in keys.items()])

    example = json.loads((toy() / NER_CONFIG_NAME).read_text(encoding="utf-8"))
    return "\n".join(
        [
            expected(KEYS),
            prose((inspect.getdoc(NerConfig) or "").partition("\n\n")[2]) + "\n",
            "## calibration\n",
            expected(CALIBRATION_KEYS),
            prose(inspect.getdoc(Calibration) or "") + "\n",
            "## Example\n",
            "That of a toy, which is untrained and so has no calibration:\n",
            f"```json\n{json.dumps(example, ensure_ascii=False, indent=2)}\n```\n",
        ]
    )


@cache
def toy() -> Path:
    """The folder of a tiny model that can extract, made here."""
    from qwen_ner.codec import SYSTEM_PROMPT
    from qwen_ner.contract import NerConfig
    from qwen_ner.data.datasets import labels_of, read_dataset
    from qwen_ner.entities import fingerprint
    from qwen_ner.training.tiny import make_tiny, tiny_tokenizer

    rows = read_dataset("sample", "train")
    folder = make_tiny(Path(tempfile.mkdtemp(prefix="qwen_ner_docs_")) / "toy", layers=1)
    given = {"data_fingerprint": fingerprint(rows), "window": max(len(row.text) for row in rows)}
    NerConfig(labels_of(rows), SYSTEM_PROMPT, 128, (tiny_tokenizer().eos_token_id,), **given).save(folder)
    return folder


@cache
def http() -> str:
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.serving.app import create_app

    api = create_app(Extractor.from_pretrained(toy(), dtype="float32"), token="a" * 16).openapi()
    parts = []
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            anchor = path.strip("/").replace("/", "-")
            parts += [f"## {method.upper()} {path} {{ #{anchor} }}\n", *_operation(operation)]
    parts.append("## Objects\n")
    for name, schema in api["components"]["schemas"].items():
        if "properties" in schema:
            parts += [f"### {name} {{ #{name.lower()} }}\n", _properties(schema), *_example(schema)]
    return "\n".join(parts)


def _operation(operation: dict[str, Any]) -> Iterator[str]:
    yield prose(operation["description"]) + "\n"
    if body := operation.get("requestBody"):
        yield "**Request**\n"
        yield from _content(body)
    errors = []
    for status, response in operation["responses"].items():
        if status == "200":
            yield "**Response**\n"
            yield from _content(response)
        else:
            errors.append([code(status), prose(response["description"])])
    if errors:
        yield "**Errors**\n"
        yield table(["status", "when"], errors)


def _content(part: dict[str, Any]) -> Iterator[str]:
    for kind, content in part["content"].items():
        schema = content.get("schema", {})
        yield f"`{kind}`: {_type(schema)}\n"
        if "properties" in schema:
            yield _properties(schema)
        yield from _example(schema | content)


def _example(schema: dict[str, Any]) -> Iterator[str]:
    for example in (schema.get("example"), *schema.get("examples", ())):
        if isinstance(example, str):
            yield f"```text\n{example.strip()}\n```\n"
        elif example is not None:
            yield f"```json\n{json.dumps(example, ensure_ascii=False, indent=2)}\n```\n"


def _properties(schema: dict[str, Any]) -> str:
    rows = []
    for name, value in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else code(json.dumps(value.get("default")))
        rows.append([code(name), _type(value), default, prose(value.get("description", ""))])
    return table(["key", "type", "default", "what it is"], rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "any value"))


def notebook_page(notebook: dict[str, Any]) -> str:
    """The cells of a notebook with their outputs; a link to the notebook follows the first."""
    parts = [part for cell in notebook["cells"] for part in _cell(cell)]
    return "\n\n".join([*parts[:1], "[notebook.ipynb](notebook.ipynb)", *parts[1:]])


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "text/html" in data:  # on one line: an empty one would end it
            yield f"<div>{' '.join(''.join(data['text/html']).split())}</div>"
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield f"```text\n{text.rstrip()}\n```"


PARTS: dict[str, Callable[[], str]] = {
    "recipe": recipe,
    "commands": commands,
    "formats": formats,
    "ner_config": ner_config,
    "http": http,
}
