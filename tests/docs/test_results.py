"""The pages of results are made of the JSON of benchmarks and experiments, and of nothing else."""

import json
import re
import runpy
import shutil
from types import SimpleNamespace

import pytest
from rows import ROOT

RESULTS = runpy.run_path(str(ROOT / "tools/docs/results.py"))
SOURCES, write_pages = RESULTS["SOURCES"], RESULTS["write_pages"]
MACHINE = {"processor": "abacus", "cores": 2, "gpu": None, "python": "3.11", "torch": "2.13.0"}
RUN = {"date": "2031-04-05", "commit": "abc1234", "command": "python benchmarks/some.py --limit 7"}
HEAD = {"run": RUN, "machine": MACHINE, "claims": []}
WAY = {"dtype": "float32", "sentences/s": 1.0, "sentences/CPU s": 0.5, "GiB": 3.0, "grammar": 0.0, "same": 1.0}
LESS = {"value": -1.25, "low": -3.0, "high": 0.5, "p": None}
MADE = {
    "benchmarks/results/train_speed": {
        **HEAD,
        "settings": {"batch": 15, "steps": 3, "repeats": 2, "full": False, "bf16": False, "guideline": 300},
        "table": {
            "dynamic": {"rows/s": 0.5, "peak GiB": 11.6, "first loss": 1.4},
            "trl-packed": {"error": "killed for its memory"},
            "ours": {"rows/s": 1.75, "peak GiB": 4.7, "first loss": 1.2},
        },
        "exact": {"loss": 3e-7, "gradient": 4e-6, "gradient to float64": 4e-6, "rows' gradient to float64": 3e-6},
        "sweep": {"batch": [[1, "dynamic", 0.4], [4, "dynamic", 0.5], [1, "ours", 0.6]], "prefix": [[32, "ours", 1.7]]},
    },
    "benchmarks/results/extract_speed": {
        **HEAD,
        "settings": {"limit": 200, "single": 40, "batch": 32, "repeats": 2, "guideline": 300},
        "table": {
            "one": {**WAY, "p50": 2.21, "p95": 4.08},
            "batched": WAY,
            "continuous": {"error": "no such method"},
            "constrained": {**WAY, "sentences/s": 3.25, "grammar": 0.0312, "same": None},
        },
        "sweep": None,
    },
    "benchmarks/results/engines": {
        **HEAD,
        "settings": {"limit": 96, "repeats": 2, "sizes": [64, 512]},
        "table": {
            "ours float32": {"sentences/s": 4.5, "same": None, "scores": None},
            "ours bfloat16": {"sentences/s": 7.7, "same": None, "scores": None},
            "server float32": {"sentences/s": 3.0, "same": 1.0, "scores": 0.0002},
            "serve float32": {"sentences/s": 2.9, "same": 1.0, "scores": None, "p50": 9000.0, "p95": 12000.0,
                              "answers": {"right": 192}},
            "predict float32": {"sentences/s": 5.05, "same": None, "scores": None, "start": 14.2},
            "ray float32": {"sentences/s": 4.76, "same": 0.998, "scores": 0.0001, "start": 34.1},
        },
    },
    "benchmarks/results/serve_load": {
        **HEAD,
        "settings": {"limit": 96, "data": "cluener"},
        "load": [
            {"clients": n, "requests/s": 1.25 * n, "p50": 1000.0, "p95": 1900.0, "p99": 3900.0, "windows a batch": 1.0,
             "answers": {"right": 96}} for n in (1, 2)
        ],
        "malformed": {"4xx": 534, "closed": 466},
        "soak": {"seconds": 600, "MiB in its second quarter": 4836.0, "MiB in its last": 4735.0, "answers": {"right": 9}},
        "restart": {"seconds until it answered again": 7.3, "answers": {"right": 384}},
        "extract": {"sentences/s": [3.3, 3.5]},
    },
    "benchmarks/results/growth": {
        **HEAD,
        "table": {
            "predict": [{"rows": 600, "seconds": 3.7, "MiB": 411.0}, {"rows": 6000, "seconds": 26.6, "MiB": 453.0}],
            "train": [{"rows": 1000, "error": "out of memory"}],
        },
    },
    "experiments/few_rows": {
        **HEAD,
        "measured": {"dates": ["2031-04-05"], "commits": ["abc1234"]},
        "table": [
            {"split": split, "rows": rows, "system": system, "scored": 1343, "gpu": None,
             "settings": {"recipe": "lora", "swap": 3, "overrides": ["--lora_dropout", "0.1"]},
             "f1": {"value": f1, "low": f1 - 2, "high": f1 + 2}, "macro_f1": {"value": f1, "low": f1 - 2, "high": f1 + 2},
             "seeds": {"42": f1 - 1, "43": f1 + 1}, "training": {"wall": 9.0, "cpu": 8.0},
             "reading": {"wall": 5.0, "cpu": 4.0}, "crf": None if system == "crf" else LESS,
             "plain": LESS if "+" in system else None}
            for split, rows, system, f1 in (
                ("held-out", 50, "few-rows", 51.0), ("held-out", 50, "few-rows+dropout", 52.0), ("dev", 50, "crf", 30.0),
                ("dev", 50, "few-rows", 50.0), ("dev", 100, "crf", 40.0), ("dev", 100, "few-rows", 60.0),
            )
        ],
    },
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A checkout with the JSON of every page: what is measured in this one, and made up what may not be yet."""
    for source in {source for sources in SOURCES.values() for source in sources}:
        target = tmp_path / "root" / f"{source}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        if source in MADE:
            target.write_text(json.dumps(MADE[source]), encoding="utf-8")
        else:
            shutil.copy(ROOT / f"{source}.json", target)
    return tmp_path / "root"


@pytest.fixture
def without_pictures(monkeypatch):
    """The pages alone: their pictures take most of the time."""
    monkeypatch.setitem(write_pages.__globals__, "draw", lambda *_, **__: None)


def changed(path, *keys, value):
    report = json.loads(path.read_text(encoding="utf-8"))
    inner = report
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(report), encoding="utf-8")


def read(folder, language="en"):
    return {
        path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / language / "results").glob("*.md"))
    }


def test_a_page_for_each_json_in_both_languages(root, tmp_path):
    assert write_pages(tmp_path / "docs", root) == list(SOURCES)
    english, chinese = read(tmp_path / "docs"), read(tmp_path / "docs", "zh")
    assert english.keys() == chinese.keys() == SOURCES.keys()
    for pages in (english, chinese):
        for name, text in pages.items():
            assert text.removeprefix("---\nhide:\n  - toc\n---\n\n").startswith("# "), name
            pictures = [line.partition("](")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
            place = tmp_path / "docs" / ("en" if pages is english else "zh") / "results"
            drawn = [(place / picture).read_text(encoding="utf-8") for picture in pictures]
            assert all("<svg" in picture and "DejaVu" not in picture for picture in drawn), "in the reader's own font"
            tables = [line for line in text.splitlines() if line.startswith("|")]
            assert tables
            assert not [line for line in tables if not line.endswith("|")], "a row is one line"
    for name, text in english.items():
        figures = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
        others = [line for line in chinese[name].splitlines() if line.startswith("|") and "---" not in line]
        assert len(figures) == len(others), f"{name}: both languages have the same tables"


def test_every_page_says_when_where_and_how_it_was_measured(root, without_pictures, tmp_path):
    write_pages(tmp_path / "docs", root)
    for name, sources in SOURCES.items():
        report = json.loads((root / f"{sources[0]}.json").read_text(encoding="utf-8"))
        run = report["run"]
        if measured := report.get("measured"):
            run = {
                "date": measured["dates"][0],
                "commit": measured["commits"][0],
                "command": f"{sources[0]}.py",
            }
        machine = report["machine"]["gpu"] or report["machine"]["processor"]
        for language in ("en", "zh"):
            text = read(tmp_path / "docs", language)[name]
            for wanted in (run["date"], run["commit"], run["command"], machine, f"torch {report['machine']['torch']}"):
                assert wanted in text, (language, name, wanted)


@pytest.mark.parametrize(
    ("page", "source", "keys", "value", "shown"),
    [
        ("cluener", "experiments/f1_budget", ("table", 0, "span_f1", "value"), 12.34, "12.34 ("),
        ("cluener", "experiments/annotators", ("table", "f1", "value"), 12.34, "12.34 ("),
        ("levers", "experiments/f1_budget", ("table", -1, "f1", "value"), 12.34, "12.34 ("),
        ("few_rows", "experiments/few_rows", ("table", -1, "macro_f1", "value"), 12.34, "12.34 ("),
        ("few_rows", "experiments/few_rows", ("table", 1, "plain", "value"), 12.34, "+12.34 ("),
        ("training_speed", "benchmarks/results/train_speed", ("table", "ours", "rows/s"), 61.5, "123.0 ×"),
        (
            "extraction_speed",
            "benchmarks/results/extract_speed",
            ("table", "constrained", "grammar"),
            0.4321,
            "43.2\N{NO-BREAK SPACE}%",
        ),
        ("engines", "benchmarks/results/engines", ("table", "server float32", "sentences/s"), 12.34, "12.34"),
        ("engines", "benchmarks/results/engines", ("table", "ray float32", "start"), 43.2, "43.2"),
        ("serving", "benchmarks/results/serve_load", ("load", 1, "p95"), 4321.0, "4.32"),
        ("growth", "benchmarks/results/growth", ("table", "predict", 1, "seconds"), 432.1, "432.1"),
        ("gpu", "benchmarks/results/h100", ("training", "seconds"), 432.0, "54.0 s"),
    ],
)
def test_a_figure_of_the_json_is_the_figure_of_the_page(
    root, without_pictures, tmp_path, page, source, keys, value, shown
):
    write_pages(tmp_path / "docs", root)
    before = [read(tmp_path / "docs", language) for language in ("en", "zh")]
    changed(root / f"{source}.json", *keys, value=value)
    write_pages(tmp_path / "docs", root)
    for language, old in zip(("en", "zh"), before, strict=True):
        new = read(tmp_path / "docs", language)
        assert shown not in old[page]
        assert shown in new[page]
        touched = {name for name in new if new[name] != old[name]}
        assert page in touched
        assert touched <= {name for name, sources in SOURCES.items() if source in sources}


def test_a_page_without_its_json_is_not_made(root, without_pictures, tmp_path):
    (root / "benchmarks/results/growth.json").unlink()
    made = write_pages(tmp_path / "docs", root)
    assert set(made) == SOURCES.keys() - {"growth"}
    assert set(read(tmp_path / "docs")) == set(made)


def test_a_page_that_stays_the_same_is_left_alone(root, tmp_path):
    write_pages(tmp_path / "docs", root)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "docs").rglob("*.*")}
    write_pages(tmp_path / "docs", root)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "docs").rglob("*.*")} == files


def test_a_difference_that_may_be_chance_is_told_as_none():
    verdict = RESULTS["verdict"]
    assert verdict({"value": 2.9, "low": -0.1, "high": 6.0, "p": 0.06}) == "same"
    assert verdict({"value": 2.9, "low": 0.1, "high": 6.0, "p": 0.04}) == "better"
    assert verdict({"value": -2.9, "low": -6.0, "high": -0.1, "p": 0.0001}) == "worse"
    assert verdict({"value": 2.9, "low": 0.1, "high": 6.0, "p": None}) == "same"


def test_what_the_h100_printed_is_what_its_json_says():
    """Every figure of h100.json stands in the log of the machine."""
    log = (ROOT / "benchmarks/results/h100.log").read_text(encoding="utf-8")
    printed = {number(word) for word in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?%?", log)}
    report = json.loads((ROOT / "benchmarks/results/h100.json").read_text(encoding="utf-8"))
    parts = {key: report[key] for key in ("table", "train_speed", "extract_speed", "training")}
    assert {figure for figure in figures(parts) if figure not in printed} == set()


def number(word):
    return round(float(word[:-1]) / 100, 6) if word.endswith("%") else float(word)


def figures(inner):
    if isinstance(inner, dict):
        inner = list(inner.values())
    if isinstance(inner, list):
        return [figure for one in inner for figure in figures(one)]
    return [float(inner)] if isinstance(inner, int | float) and not isinstance(inner, bool) else []


def test_mkdocs_gets_the_pages_and_a_navigation_without_those_that_were_not_measured(
    root, without_pictures, tmp_path, monkeypatch
):
    (root / "benchmarks/results/growth.json").unlink()
    monkeypatch.setitem(RESULTS["on_config"].__globals__, "ROOT", root)
    docs = str(tmp_path / "docs")
    config = SimpleNamespace(
        docs_dir=docs, nav=["index.md", {"Results": [f"results/{name}.md" for name in SOURCES]}, {"N": "n.md"}]
    )
    wanted = [f"results/{name}.md" for name in SOURCES if name != "growth"]
    assert RESULTS["on_config"](config).nav == ["index.md", {"Results": wanted}, {"N": "n.md"}]
    assert set(read(tmp_path / "docs")) == SOURCES.keys() - {"growth"}
