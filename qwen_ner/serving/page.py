"""The page to try a model on.

In: what it says of the model. Out: HTML that makes no third-party requests, and the Content-Security-Policy that holds
the browser to that. Texts are only ever shown as text. Knows nothing of HTTP.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from ..evaluation.report import templates

SCRIPT = ("_words", "_input", "_view", "_result", "")
"""The parts of the script, in the order in which they need each other: page_words.js, …, page.js."""


def render_page(**about: Any) -> tuple[str, str]:
    """The HTML, and the Content-Security-Policy under which it works.

    `about` is what the script reads: model, labels, version, scores, characters and texts (the most of a request), and
    examples (sentences to click on).
    """
    from markupsafe import Markup

    folder = files("qwen_ner.serving")
    style = folder.joinpath("page.css").read_text("utf-8")
    script = "\n".join(folder.joinpath(f"page{part}.js").read_text("utf-8") for part in SCRIPT)
    template = templates("qwen_ner.serving").get_template("page.html.j2")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return template.render(style=Markup(style), script=Markup(script), about=about), policy


def _hash(content: str) -> str:
    """`content` as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
