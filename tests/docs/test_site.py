"""The documentation as it is built: without a warning, complete, and without a request to another host."""

import doctest
import functools
import http.server
import importlib.util
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rows import ROOT
from serving.test_page import chromium  # noqa: F401  (fixture)

from qwen_ner.cli import build_parser
from qwen_ner.data.formats.registry import FORMATS
from qwen_ner.training.keys import recipe_keys

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason='needs pip install -e ".[docs]"'),
]


@pytest.fixture(scope="session")
def site(make_once):
    """The folder of the built site."""

    def build(folder: Path):
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder / "site"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")

    folder = make_once("docs", build)
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert (folder / "site" / "search" / "search_index.json").is_file(), log
    assert not [line for line in log.splitlines() if line.startswith(("WARNING", "ERROR"))], log
    return folder / "site"


def text_of(page: Path) -> str:
    """What a page shows, without its markup."""
    body = page.read_text(encoding="utf-8")
    article = body[body.index("<article") : body.index("</article>")]
    plain = re.sub(r"<[^>]+>", "", article)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'"), ("&amp;", "&")):
        plain = plain.replace(entity, character)
    return plain


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def test_every_page_is_in_both_languages(site):
    pages = {page.relative_to(site) for page in site.rglob("index.html") if "zh" not in page.relative_to(site).parts}
    assert len(pages) > 30
    assert pages == {page.relative_to(site / "zh") for page in (site / "zh").rglob("index.html")}


def test_every_key_of_a_recipe_is_explained(site):
    shown = plain(text_of(site / "reference" / "recipe" / "index.html"))
    page = (site / "reference" / "recipe" / "index.html").read_text(encoding="utf-8")
    for key in recipe_keys():
        assert f'id="{key.name}"' in page, key.name
        assert plain(f"{key.name} {key.type} {key.default} {key.help}") in shown, key.name


def test_every_command_is_explained_with_each_argument(site):
    shown = plain(text_of(site / "reference" / "commands" / "index.html"))
    (commands,) = build_parser()._subparsers._group_actions
    for name, parser in commands.choices.items():
        assert f"usage: qwen-ner {name}" in shown, name
        for action in parser._actions:
            assert action.dest == "help" or plain(action.help.replace("%%", "%")) in shown, (name, action.dest)


def test_an_option_that_has_a_default_tells_it():
    (commands,) = build_parser()._subparsers._group_actions
    silent = [
        f"{name} {action.option_strings[0]}"
        for name, parser in commands.choices.items()
        for action in parser._actions
        if action.option_strings
        and action.nargs != 0
        and action.default not in (None, [])
        and "default" not in action.help
    ]
    assert not silent


def test_every_format_every_path_and_every_public_name_has_its_place(site):
    formats = (site / "reference" / "formats" / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{format.NAME}"' in formats for format in FORMATS)
    assert "<label>text</label>" in text_of(site / "reference" / "formats" / "index.html")
    http_page = text_of(site / "reference" / "http" / "index.html")
    assert all(f"{path}" in http_page for path in ("POST /v1/extract", "GET /v1/model", "GET /healthz", "GET /metrics"))
    assert "min_score" in http_page
    assert "429" in http_page
    import qwen_ner

    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    public = [name for name in qwen_ner.__all__ if name != "CLUENER"]
    assert not [name for name in public if not re.search(rf'id="qwen_ner\.[\w.]*\b{name}"', python)]


def test_examples_of_docstrings_are_code(site):
    python = (site / "reference" / "python" / "index.html").read_text(encoding="utf-8")
    assert "doctest:" not in python
    assert "<blockquote>" not in python


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_notebook_is_shown_with_its_outputs(site, language):
    notebook = json.loads((ROOT / "docs" / language / "notebook.ipynb").read_text(encoding="utf-8"))
    folder = site / ("" if language == "en" else language)
    shown = text_of(folder / "notebook" / "index.html")
    assert json.loads((folder / "notebook.ipynb").read_text(encoding="utf-8")) == notebook
    for cell in notebook["cells"]:
        texts = [output.get("text", ()) for output in cell.get("outputs", ())]
        texts += [cell["source"]] if cell["cell_type"] == "code" else []
        assert all("".join(text).strip() in shown for text in texts)


@pytest.mark.parametrize("name", ["reference", "doctests"])
def test_the_tools_do_what_their_examples_say(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_site_is_read_searched_and_translated_without_another_host(chromium, address):  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: said.append(str(error)))
    for path in ("/", "/guides/data/", "/reference/recipe/", "/zh/"):
        tab.goto(address + path)
        tab.wait_for_load_state("networkidle")
    for path, query, found in (("/", "lora_r", "reference/recipe"), ("/zh/", "命名实体", "/zh/")):
        tab.goto(address + path)
        tab.wait_for_load_state("networkidle")  # the index is there
        tab.fill("[data-md-component=search-query]", query)
        tab.press("[data-md-component=search-query]", "End")  # it listens to keys
        tab.wait_for_selector(".md-search-result__item a")
        links = tab.eval_on_selector_all(".md-search-result__item a", "all => all.map((a) => a.href)")
        assert any(found in link for link in links), (query, links)
    tab.goto(f"{address}/reference/commands/")
    assert tab.get_attribute("a[hreflang=zh]", "href")
    tab.goto(tab.eval_on_selector("a[hreflang=zh]", "a => a.href"))
    assert tab.url == f"{address}/zh/reference/commands/"
    context.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not said
