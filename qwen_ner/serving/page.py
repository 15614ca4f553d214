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


def render_page(**about: Any) -> tuple[str, str]:
    """The HTML, and the Content-Security-Policy under which it works.

    `about` is what page.js reads: model, labels, version, scores, characters (the most of a text), and examples
    (sentences to click on).
    """
    from markupsafe import Markup

    style, script = (files("qwen_ner.serving").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    template = templates("qwen_ner.serving").get_template("page.html.j2")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return template.render(style=Markup(style), script=Markup(script), about=about), policy


def _hash(content: str) -> str:
    """`content` as a source of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
