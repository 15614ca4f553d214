"""The pages of a server: one to try its model on, and one that describes its API.

In: what is to be said of the model, the OpenAPI document. Out: HTML that loads nothing from anywhere else, and the
policy that holds a browser to it. What a text contains is only ever shown as text. Knows nothing of HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ..evaluation.report import templates


@dataclass(frozen=True, slots=True)
class Page:
    """HTML, and the Content-Security-Policy under which it works."""

    html: str
    policy: str


def page(
    model: str,
    labels: Mapping[str, str],
    *,
    version: str,
    scores: Mapping[str, Any] | None,
    characters: int,
    examples: Sequence[str],
) -> Page:
    """The page to try a model on. `characters` are the most of a text, `examples` sentences that can be clicked."""
    about = {
        "model": model,
        "labels": dict(labels),
        "version": version,
        "scores": scores,
        "characters": characters,
        "examples": list(examples),
    }
    return _page("page.html.j2", script=_file("page.js"), about=about)


def documentation(document: Mapping[str, Any]) -> Page:
    """The page that describes what is in an OpenAPI `document`: paths, bodies, statuses, examples."""
    calls = [
        {
            "method": method.upper(),
            "path": path,
            "summary": call.get("description", ""),
            "asked": _examples(call.get("requestBody", {})),
            "answers": [
                {"status": status, "why": answer.get("description", ""), "examples": _examples(answer)}
                for status, answer in call["responses"].items()
            ],
        }
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    ]
    return _page("docs.html.j2", document=document, calls=calls)


def _examples(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(media type, example) of a request's or answer's body."""
    found = ((kind, content.get("example")) for kind, content in body.get("content", {}).items())
    return [
        (kind, example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, indent=2))
        for kind, example in found
        if example
    ]


def _page(template: str, script: str = "", **values: Any) -> Page:
    from markupsafe import Markup

    style = _file("page.css")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    html = (
        templates("qwen_ner.serving")
        .get_template(template)
        .render(style=Markup(style), script=Markup(script), **values)
    )
    return Page(html, policy)


def _file(name: str) -> str:
    return files("qwen_ner.serving").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    """`content` as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" if content else "'none'"
