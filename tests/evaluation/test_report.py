"""The report: its files say the same, nothing in it runs, and a browser shows it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from evaluation.cases import ABC, random_rows

from qwen_ner.codec import Codec
from qwen_ner.entities import CLUENER, Entity, Example
from qwen_ner.evaluation.report import page, pieces, write_report
from qwen_ner.evaluation.result import EvaluationResult
from qwen_ner.evaluation.scoring import Scores
from qwen_ner.evaluation.table import Contract

ATTACK = "<script>document.title='owned'</script>在北京<img src=x onerror=alert(1)>"
HISTORY = [
    {"step": 0, "eval_loss": 2.0, "eval_f1": 0.0},
    {"step": 10, "loss": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0},
    {"step": 20, "loss": 0.5, "learning_rate": 5e-4, "eval_loss": 0.6},
    {"step": 20, "eval_f1": 0.5, "eval_span_f1": 0.5, "eval_macro_f1": 0.4},
]


@pytest.fixture(scope="module")
def evaluated():
    gold, predicted = random_rows(0, rows=30)
    start = ATTACK.index("北京")
    gold.append(Example("attack", ATTACK, (Entity("a", "北京", start, start + 2),)))
    predicted.append(Codec(ABC).decode(ATTACK, '{"b":["<script>"],"</style><script>":["x"]}'))
    confidence = {
        "surfaces": 9, "calibration_error": 0.1, "precision_at_coverage": {1.0: 0.5}, "of": "some rows",
        "reliability": [(0.5, 0.2, 0.1), (0.5, 0.9, 0.8)],
    }  # fmt: skip
    contract = Contract("<b>model</b>", "own", "dev", len(gold), "f00d", "free")
    return EvaluationResult(contract, gold, predicted, ABC, random_rows(9)[0], confidence)


def test_the_files_agree(evaluated, tmp_path):
    write_report(evaluated, tmp_path, training={"steps": 3}, history=HISTORY)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert Scores.from_dict(metrics) == evaluated.scores
    assert metrics["training"] == {"steps": 3}
    assert metrics["contract"]["fingerprint"] == "f00d"
    errors = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    for kind, counts in metrics["errors"].items():
        of_kind = [error for row in errors for error in row["errors"] if error["kind"] == kind]
        assert counts["fn"] == sum("gold" in error for error in of_kind)
        assert counts["fp"] == sum("predicted" in error or "written" in error for error in of_kind)
    sizes = [sum(("gold" in e) + ("predicted" in e or "written" in e) for e in row["errors"]) for row in errors]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0
    html = (tmp_path / "report.html").read_text()
    for rate in (evaluated.scores.f1, evaluated.scores.span_f1, evaluated.scores.macro_f1, evaluated.tally.floor.f1):
        assert f"<b>{100 * rate:.2f}</b>" in html


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.stack, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value[:1] != "#"]
        self.links += [name for name, _ in attrs if name.startswith("on")]


def test_texts_are_shown_and_not_run_and_nothing_is_fetched(evaluated):
    html = page(evaluated, HISTORY)
    seen = Seen()
    seen.feed(html)
    assert seen.tags.count("script") == 1
    assert seen.tags.count("style") == 1 + seen.tags.count("svg")
    assert "img" not in seen.tags
    assert seen.links == []
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;model&lt;/b&gt;" in html
    assert not re.search(r"url\((?!#)|@import", html)
    assert seen.tags.count("svg") == 3 + 1
    assert page(evaluated, HISTORY) == html


def test_column_heads_of_chinese_labels_lie_on_their_side(evaluated):
    """Upright characters of vertical text were clipped away."""
    (rule,) = re.findall(r"\.turned \{(.*?)\}", page(evaluated))
    assert "text-orientation: sideways" in rule


def test_a_problem_has_the_name_that_it_has_in_the_table(evaluated):
    predicted = [Codec(ABC).decode(evaluated.gold[0].text, text) for text in ('{"a":""}', "不是")]
    html = page(EvaluationResult(evaluated.contract, evaluated.gold[:2], predicted, ABC))
    assert '<span class="tag">wrong type: &#34;&#34;</span>' in html
    assert '<span class="tag">not JSON: 不是</span>' in html


def test_a_surface_without_a_place_is_told_apart_from_one_of_another_label(evaluated):
    predicted = [Codec(ABC).decode(evaluated.gold[0].text, '{"a":["龘"],"city":["龘"]}'), evaluated.predicted[1]]
    html = page(EvaluationResult(evaluated.contract, evaluated.gold[:2], predicted, ABC))
    assert '<span class="tag">a 龘, not in text</span>' in html
    assert '<span class="tag">city 龘, unknown label</span>' in html


def test_what_there_is_nothing_of_is_not_drawn(evaluated):
    bare = EvaluationResult(evaluated.contract, evaluated.gold[:2], evaluated.predicted[:2], ABC)
    html = page(bare)
    assert html.count("<svg") == 0
    assert "floor" not in html
    assert "seen in train" not in html
    confidence = {
        "surfaces": 2,
        "calibration_error": 0.25,
        "precision_at_coverage": {1.0: 0.5},
        "reliability": [(1, 0.5, 0.5)],
    }
    html = page(
        EvaluationResult(evaluated.contract, evaluated.gold[:2], evaluated.predicted[:2], ABC, confidence=confidence)
    )
    assert html.count("<svg") == 1
    assert "Confidence of 2 surfaces: calibration error 0.250." in html


def test_pieces_are_the_text_again_and_cover_what_entities_cover():
    for seed in range(200):
        gold, _ = random_rows(seed, rows=1)
        example = gold[0]
        parts = pieces(example.text, example.entities)
        assert "".join(part.text for part in parts) == example.text
        assert all(part.text for part in parts)
        at = 0
        for part in parts:
            covering = {e.label for e in example.entities if e.start <= at < e.end}
            assert set(part.labels) == covering
            at += len(part.text)
        assert sum(len(part.ending) for part in parts) == len(example.entities)
    assert pieces("", ()) == []


BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not BROWSER, reason="no Chromium: install the package chromium")
def test_a_browser_shows_it_and_filters_it(evaluated, tmp_path):
    write_report(evaluated, tmp_path, history=HISTORY)
    path = tmp_path / "report.html"
    choose = """<script>
      kind.value = "missed"; kind.dispatchEvent(new Event("change"));
      const rows = [...document.querySelectorAll("article")].filter((row) => row.offsetHeight > 0);
      const text = [...document.querySelectorAll("article")].map((row) => row.textContent).join(" ");
      const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
      document.body.setAttribute("data-found", JSON.stringify({
        shown: rows.length, said: document.getElementById("shown").value, title: document.title, wide,
        missed: rows.every((row) => row.dataset.kinds.split("\\n").includes("missed")),
        script: text.includes("<script>document.title='owned'"),
      }));
    </script>"""
    probe = tmp_path / "probe.html"
    probe.write_text(path.read_text().replace("</body>", choose + "</body>"))
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    attribute = re.search(r'data-found="([^"]*)"', done.stdout)
    found = json.loads(attribute[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">"))
    expected = sum(any(error.kind == "missed" for error in row) for _, _, row in evaluated.worst_first())
    assert found == {
        "shown": expected, "said": str(expected), "title": "<b>model</b> on own dev", "wide": False, "missed": True,
        "script": True,
    }  # fmt: skip
    assert 0 < expected < len(evaluated.gold)


def test_a_page_of_cluener_labels_has_a_colour_for_each(evaluated):
    gold = [Example("0", "三星在北京", (Entity("company", "三星", 0, 2),))]
    html = page(EvaluationResult(evaluated.contract, gold, [Codec(CLUENER).decode(gold[0].text, "{}")], CLUENER))
    hues = re.findall(r'<mark style="--h: (\d+)">(\w+)</mark>', html)
    assert [name for _, name in hues] == list(CLUENER.names)
    assert len({hue for hue, _ in hues}) == len(CLUENER)
