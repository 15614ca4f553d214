"""Each benchmark runs on the toy model. Claims about equality are checked; claims about speed are not."""

import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from fake_vllm import FakeVllm
from rows import EIGHT, ROOT
from warm_python import warm_python

from qwen_ner.codec import Codec
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.data.tokenize import build_dataset
from qwen_ner.entities import CLUENER
from qwen_ner.inference.backends import decoding

pytestmark = pytest.mark.bench


def constants():
    """Those of the package's modules that are loaded: the decoder among them."""
    assert decoding.__name__ in sys.modules
    return {
        (module.__name__, name): repr(value)
        for module in list(sys.modules.values())
        if module.__name__.startswith("qwen_ner.")
        for name, value in vars(module).items()
        if name.isupper()
    }


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """`run(script, *options)`: the report and what was printed. The Pythons that the script starts are forks."""

    start, run_one = subprocess.Popen, subprocess.run
    threads, before = torch.get_num_threads(), constants()

    def fork(command, *, env=None, text=True, **streams):
        return warm_python.start(command, **streams)

    def fork_and_wait(command, **options):
        if command[0] != sys.executable:
            with monkeypatch.context() as patch:
                patch.setattr(subprocess, "Popen", start)
                return run_one(command, **options)
        return warm_python.run(command, check=options.get("check", False), timeout=400)

    def run(script, *options):
        command = [script, "--model", "tiny", "--quick", "--json", tmp_path / "out.json", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        monkeypatch.setattr(subprocess, "run", fork_and_wait)
        monkeypatch.setattr(subprocess, "Popen", fork)
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
        return json.loads((tmp_path / "out.json").read_text(encoding="utf-8")), capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)
    after = constants()
    assert {name: after[name] for name in before} == before, "a later test would find the package changed"


def test_train_speed(run, tmp_path):
    report, printed = run("train_speed.py", "--seconds", "1", "--sweep")
    plain = {"static", "dynamic", "trl-padded", "trl-padding-free", "trl-packed", "ours"}
    assert report["table"].keys() == plain
    ran = {name: values for name, values in report["table"].items() if "error" not in values}
    assert {"static", "dynamic", "ours"} <= ran.keys(), report
    assert ran["static"]["first loss"] == pytest.approx(ran["dynamic"]["first loss"], rel=1e-5)
    assert ran["ours"]["first loss"] < ran["static"]["first loss"], "over the tokens of the rows alone"
    assert all(values["rows/s"] > 0 and 0 < values["of matrix peak"] < 1 for values in ran.values())
    exact = report["exact"]
    assert max(exact["loss"], exact["gradient"]) <= 1e-5
    assert exact["gradient to float64"] <= 2 * exact["rows' gradient to float64"], "float32 rounds the rows as much"
    assert sum(claim["name"].startswith("rows one by one") for claim in report["claims"]) == 3
    assert "useful tok/s" in printed
    assert {(x, name) for x, name, _ in report["sweep"]["batch"]} == {(1, "dynamic"), (1, "ours")}
    assert (tmp_path / "out.png").is_file()


def test_extract_speed(run, tmp_path):
    ways = ("one", "batched", "free", "constrained", "constrained-one", "batched-guide", "free-guide")
    report, printed = run("extract_speed.py", "--limit", "12", "--dtype", "float32", "--sweep", "--ways", *ways)
    table = report["table"]
    assert not any("error" in values for values in table.values()), report
    for way in ("batched", "free", "free-guide"):
        assert table[way]["same"] == 1.0
    assert table["one"]["p50"] <= table["one"]["p95"]
    assert 0 < table["constrained"]["grammar"] < 1
    assert {"value", "bound", "holds", "name"} == report["claims"][0].keys()
    assert "sentences/s" in printed
    assert {(x, way) for x, way, _ in report["sweep"]["prefix"]} == {(32, "batched"), (32, "free")}
    assert (tmp_path / "out.png").is_file()


def test_rivals_compute_in_the_precision_that_ours_does(run):
    report, _ = run("extract_speed.py", "--limit", "2", "--dtype", "bfloat16", "--ways", "batched", "free")
    assert {values["dtype"] for values in report["table"].values()} == {"bfloat16"}
    assert report["settings"]["dtype"] == "bfloat16"


def test_host_time(run):
    report, printed = run("host_time.py", "--rows", "16", "40")
    assert report["table"].keys() == {"16"}, "quick"
    assert all(value > 0 for value in report["table"]["16"].values())
    assert [claim["holds"] for claim in report["claims"] if claim["name"].startswith("answers")] == [True]
    assert {claim["bound"] for claim in report["claims"]} == {10, 0.1, 1}
    assert "µs a row and step" in printed


def test_growth(run):
    tasks = ("convert", "train", "predict", "report")
    report, printed = run("growth.py", "--tasks", *tasks)
    assert report["table"].keys() == set(tasks)
    for task, (small, large) in report["table"].items():
        assert "error" not in small | large, (task, small, large)
        assert large["rows"] == 10 * small["rows"]
    assert len(report["claims"]) == 2 * len(tasks)
    assert "rows/s" in printed


def test_serve_load(run):
    pytest.importorskip("uvicorn")
    options = ("--limit", "16", "--clients", "1", "32", "--malformed", "60", "--soak", "2")
    report, printed = run("serve_load.py", *options)
    claims = {claim["name"]: claim for claim in report["claims"]}
    for name in ("answers of another text", "answers lost or refused", "malformed requests answered 5xx",
                 "malformed requests that hang"):  # fmt: skip
        assert claims[name]["holds"], report
    alone, together = report["load"]
    assert alone["windows a batch"] == 1
    assert together["windows a batch"] > 2
    assert report["restart"]["answers"]["asked again"]
    assert sum(report["malformed"].values()) == 60
    assert "requests/s" in printed


def test_engines(run, trained, tokenizer, tmp_path):
    """A stand-in answers what vLLM answered, with the weights of the same training."""
    pytest.importorskip("uvicorn")
    fake = FakeVllm.of("grammar")
    right, ids = fake.answer, [*tokenizer("{}", add_special_tokens=False)["input_ids"], 2]
    top = {"token_logprobs": [-0.1] * len(ids), "top_logprobs": [{f"token_id:{token}": -0.1} for token in ids]}
    nothing = {"choices": [{"prompt_token_ids": [], "token_ids": ids, "logprobs": top}]}

    def answer(path, request):
        """What `serve` asks when it starts was not recorded."""
        return (
            (200, nothing) if request and '"北京"' in json.dumps(request, ensure_ascii=False) else right(path, request)
        )

    fake.answer = answer
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "dev.jsonl", [replace(gold, id=str(n)) for n, gold in enumerate(EIGHT)])
    more = ("--model", trained["full"], "--data", tmp_path / "data", "--dtypes", "float32")
    report, printed = run("engines.py", *more, "--server", f"float32={fake.url}", "--sizes")
    fake.close()
    table = report["table"]
    assert list(table) == ["ours float32", "server float32", "serve float32"]
    assert all(row["sentences/s"] > 0 for row in table.values())
    assert table["ours float32"]["same"] is None
    assert table["server float32"]["same"] >= 6 / 8
    assert 0 <= table["server float32"]["scores"] <= 1
    assert table["serve float32"]["same"] == table["server float32"]["same"]
    assert sum(table["serve float32"]["answers"].values()) == len(EIGHT)
    claims = {claim["name"]: claim for claim in report["claims"]}
    assert claims["sentences/s of ours against the server, float32"]["bound"] == 1.3
    assert claims["answers lost, refused or of another text, serve float32"]["holds"]
    assert "sentences/s" in printed


def test_engines_agree_in_sentences_and_their_scores_and_a_rate_knows_no_start(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from engines import agreement, beyond_start

    ours = [[("name", 0, 1, 0.5), ("game", 2, 4, 0.75)], [("name", 0, 1, 0.9)], [("name", 3, 4, None)], []]
    theirs = [[("name", 0, 1, 0.25), ("game", 2, 4, 0.625)], [("name", 0, 2, 0.1)], [("name", 3, 4, 0.1)], []]
    assert agreement(ours, theirs) == {"same": 3 / 4, "scores": 0.25}
    assert agreement([[]], [[]]) == {"same": 1.0, "scores": None}
    assert beyond_start({512: 142.0, 64: 30.0}) == (4.0, 14.0)


@pytest.mark.slow
def test_engines_on_ray(run, trained):
    if os.environ.get("QWEN_NER_RAY_TESTS") != "1":
        pytest.skip("takes minutes: QWEN_NER_RAY_TESTS=1")
    report, _ = run("engines.py", "--model", trained["full"], "--dtypes", "float32", "--limit", "2")
    assert list(report["table"]) == ["ours float32", "predict float32", "ray float32"]
    assert report["table"]["ray float32"]["same"] == 1.0
    assert report["table"]["ray float32"]["scores"] < 1e-4
    assert report["settings"]["sizes"] == [8, 16]
    assert {claim["bound"] for claim in report["claims"]} == {0.9, 0.99}


def test_a_server_that_is_gone_is_told_before_anything_is_measured(run):
    with pytest.raises(SystemExit) as caught:
        run("engines.py", "--server", "float32=http://127.0.0.1:1/v1", "--sizes")
    assert "http://127.0.0.1:1/v1" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [["--server", "http://127.0.0.1:1/v1"], ["--server", "float16=http://127.0.0.1:1/v1"], ["--sizes", "8", "8"],
     ["--server", "float32=http://127.0.0.1:1/v1", "float32=http://127.0.0.1:2/v1"]],
)  # fmt: skip
def test_engines_that_cannot_be_compared_are_refused_before_any_is_asked(run, capsys, wrong):
    with pytest.raises(SystemExit) as caught:
        run("engines.py", *wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("rival", ["static", "trl-padding-free"])
def test_a_rival_that_was_stopped_goes_on_to_the_same_weights(monkeypatch, tiny, tokenizer, tmp_path, rival):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    if rival != "static":
        pytest.importorskip("trl")
    import argparse

    from train_rivals import LORA, train_static, train_trl

    from qwen_ner.training.model import load_model

    rows = build_dataset(EIGHT, Codec(CLUENER), tokenizer).to_list()[:2] * 21

    def trained(folder, *stops):
        for steps in stops:
            torch.manual_seed(0)
            model = load_model(str(tiny), lora=LORA)
            options = argparse.Namespace(
                model=tiny, steps=steps - 1, batch=2, seconds=float("inf"), bf16=False, learning_rate=1e-3,
                scheduler="constant", warmup_steps=0, folder=tmp_path / folder,
            )  # fmt: skip
            log = []
            (train_static if rival == "static" else train_trl)(rival, model, rows[: 2 * steps], options, log)
        return len(log), {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}

    steps, whole = trained("whole", 21)
    after, resumed = trained("resumed", 20, 21)
    assert (steps, after) == (21, 1)
    for name, weights in whole.items():
        torch.testing.assert_close(resumed[name], weights)


def test_on_gpu(tmp_path):
    """A CPU checks exactness; speed, and what takes CUDA, needs a GPU."""
    command = [
        sys.executable,
        ROOT / "benchmarks/on_gpu.py",
        "--tiny",
        "--seconds",
        "400",
        "--json",
        tmp_path / "out.json",
    ]
    done = warm_python.run(command, timeout=400, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert not [line for line in report["table"] if "failed" in line]
    assert {line["check"] for line in report["table"]} == {"env", "exact", "shapes", "step", "decode", "graph"}
    claims = {claim["name"]: claim["holds"] for claim in report["claims"]}
    exact = [f"{attention}{of}, float32: {what} off" for attention in ("sdpa", "eager") for of in ("", ", LoRA")
             for what in ("loss", "gradients")]  # fmt: skip
    assert {*exact, "static decoding: tokens that differ"} <= claims.keys()
    assert all(claims.values()), report["claims"]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert [json.loads(line) for line in lines] == report["table"], "each result is printed as soon as it is there"


def test_a_check_of_on_gpu_skips_what_its_time_does_not_allow(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/on_gpu.py", "env", "graph", "--tiny", "--seconds", "0"]
    done = warm_python.run(command, timeout=400, cwd=tmp_path)
    assert done.stdout.count('"check": "env"') == done.stdout.count('"check": "graph"') == 1
    assert "graph took more than 0 s; its remaining cases are skipped" in done.stdout
