"""Each command of the README: run on what the tests have trained, or as far as no GPU and no network is needed."""

import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys

import pytest
from rows import ROOT
from test_cli import data, recipe, trained  # noqa: F401  (fixtures)
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.data.datasets import read_dataset, read_jsonl, write_jsonl
from qwen_ner.inference.annotated import judge
from qwen_ner.inference.extractor import Extractor
from qwen_ner.sweep.sweep_file import read_sweep
from qwen_ner.training.recipe import load_recipe

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
LAUNCHED = "accelerate launch --config_file accelerate_configs/ddp_4gpu.yaml -m qwen_ner"  # as one process here
OURS = [
    line
    for line in COMMANDS
    if line.replace(LAUNCHED, "qwen-ner").startswith(("qwen-ner", "cat"))
    and line.replace(LAUNCHED, "qwen-ner").split()[1] not in ("train", "doctor", "sweep", "folds", "serve")
]
SERVING = [line for line in COMMANDS if line.startswith(("qwen-ner serve", "curl"))]
SWEEPS = [line for line in COMMANDS if "sweep" in line.split()]
TRAINING = [line for line in COMMANDS if "recipes/" in line and line not in SWEEPS]
BENCHMARKS = [line for line in COMMANDS if line.startswith(("python benchmarks/", "python experiments/"))]


def test_every_command_is_of_a_kind_that_is_tested_here():
    others = [line for line in COMMANDS if line not in OURS + TRAINING + SWEEPS + BENCHMARKS + SERVING]
    assert others == [
        "make quickstart",
        "make test",
        "python -m venv .venv && . .venv/bin/activate",
        "pip install -c constraints.txt -e .",
        'pip install -c constraints.txt -e ".[serve]"',
        "accelerate launch recipe.yaml",
        'pip install -c constraints.txt -e ".[bench]"',
    ]


@pytest.mark.parametrize("target", ["quickstart", "test"])
def test_make_knows_its_targets_and_they_do_what_the_plain_lines_do(target):
    shown = subprocess.run(["make", "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pip install -q -c constraints.txt -e ." in shown
    assert ("recipes/quickstart.yaml" if target == "quickstart" else "-m pytest") in shown


@pytest.mark.parametrize("line", TRAINING)
def test_a_training_command_names_files_that_are_there_and_keys_that_exist(line, tmp_path, monkeypatch):
    words = shlex.split(line)
    monkeypatch.chdir(ROOT)
    if "--config_file" in words:
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
    if "--accelerate_config" in words:  # the doctor's own
        at = words.index("--accelerate_config")
        assert (ROOT / words[at + 1]).is_file()
        del words[at : at + 2]
    at = next(i for i, word in enumerate(words) if word.startswith("recipes/"))
    load_recipe(words[at], [*words[at + 1 :], "--use_cpu", "--bf16", "false", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("line", SWEEPS)
def test_a_sweep_command_names_a_sweep_that_is_right(line, monkeypatch):
    """What such a command does is tested in training/test_sweep.py and training/test_wandb_sweep.py."""
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(line)
    assert program in ("qwen-ner", "wandb")
    given = cli.build_parser().parse_args(words)
    assert not read_sweep(given.sweep).local_faults


@pytest.mark.parametrize("line", BENCHMARKS)
def test_a_benchmark_command_names_a_script_and_options_that_exist(line):
    """Run on the toy they are in test_benchmarks.py."""
    words = [word for word in shlex.split(line.partition("#")[0])]
    shown = warm_python.run([sys.executable, ROOT / words[1], "--help"], check=True).stdout
    assert all(word in shown for word in words if word.startswith("--"))


@pytest.mark.slow
@pytest.mark.parametrize("line", OURS)
def test_a_command_of_ours_runs(line, trained, hub, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.txt").write_text("三星手机很好用\n快递太慢了\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "reviews.txt").read_bytes())))
    (tmp_path / "data" / "finance").mkdir(parents=True)
    (tmp_path / "data" / "finance" / "train.bio").write_text("平\tB-bank\n安\tI-bank\n好\tO\n", encoding="utf-8")
    write_jsonl(tmp_path / "data" / "medicine" / "train.jsonl", read_dataset("sample", "train")[:4])
    rows = [row.text for row in read_dataset("sample", "dev")[:2]]
    test = "".join(json.dumps({"id": n + 1, "text": text}) + "\n" for n, text in enumerate(rows))
    (tmp_path / "test.json").write_text(test, encoding="utf-8")
    first = "qwen-ner predict outputs/quickstart test.json --format cluener --output cluener_predict.json"
    if "evaluate cluener_predict.json" in line:
        cli.main([*shlex.split(first.replace("outputs/quickstart", str(trained[0])))[1:]])
    if "compare" in line:
        cli.main(["evaluate", str(trained[0]), "--data", "sample", "--limit", "20", "--report", "reports/quickstart"])
    line = line.replace("you/ner", "tester/ner")  # the Hub here is a stand-in, and its user the tester
    if "tester/ner" in line and "push" not in line:
        cli.main(["push", str(trained[0]), "tester/ner"])
    # What the README does with CLUENER is done here with the sample.
    line = re.sub(r"outputs/f1_budget/\S+ --data cluener", "outputs/quickstart --data sample", line)
    line = line.replace("convert cluener", "convert sample").replace("--data cluener", "--data sample")
    if "folds.jsonl" in line:
        (tmp_path / "outputs" / "folds").mkdir(parents=True)
        lines = judge(Extractor.from_pretrained(trained[0]), read_dataset("sample", "train")[:3])
        written = "".join(json.dumps(row) + "\n" for row in lines)
        (tmp_path / "outputs" / "folds" / "folds.jsonl").write_text(written, encoding="utf-8")
    if "--corrections" in line:
        cli.main(["audit", "--data", "sample", "--output", "proposed.jsonl"])
    line = line.split("|")[-1].replace(LAUNCHED, "qwen-ner")
    words = shlex.split(line.replace("outputs/quickstart", str(trained[0])))
    assert words[0] == "qwen-ner"
    cli.main(words[1:])
    out, err = capsys.readouterr()
    written = [
        path
        for path in (
            "scores.json",
            "entities.jsonl",
            "train.jsonl",
            "corrected.jsonl",
            "dev.bmes",
            "--output cluener_predict.json",
            "stats.json",
        )
        if path in line
    ]
    written = [path.removeprefix("--output ") for path in written]
    if "init" in line:  # what the line after it launches
        assert load_recipe("recipe.yaml").data.dataset == "data/medicine"
    assert all((tmp_path / path).stat().st_size for path in written)
    assert out or written or "findings in 2,000 rows" in err


@pytest.mark.slow
def test_the_python_lines_run(trained, tmp_path, monkeypatch, capsys):  # noqa: F811
    code, *_ = re.findall(r"```python\n(.*?)```", README, re.S)
    script = tmp_path / "readme.py"
    script.write_text(code.replace("outputs/quickstart", str(trained[0])), encoding="utf-8")
    runpy.run_path(str(script))


@pytest.mark.slow
def test_what_is_served_answers_as_the_readme_asks(trained, tmp_path, capsys):  # noqa: F811
    """The lines of `qwen-ner serve` are understood; the lines of curl and Python are answered by such a server."""
    pytest.importorskip("uvicorn")
    for line in SERVING:
        if line.startswith("qwen-ner"):
            cli.build_parser().parse_args(shlex.split(line)[1:])
    asking = [line for line in SERVING if line.startswith("curl")]
    _, *clients = re.findall(r"```python\n(.*?)```", README, re.S)
    if not asking + clients:
        return
    command = [sys.executable, "-m", "qwen_ner", "serve", str(trained[0]), "--port", "0"]
    with warm_python.start(command, stderr=subprocess.PIPE) as server:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        try:
            for line in asking if shutil.which("curl") else ():
                words = shlex.split(line.replace("http://127.0.0.1:8000", url))
                done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
                assert "error" not in done.stdout
                assert [json.loads(row) for row in done.stdout.splitlines()]
            for code in clients:
                (tmp_path / "client.py").write_text(code.replace("http://127.0.0.1:8000", url), encoding="utf-8")
                runpy.run_path(str(tmp_path / "client.py"))
        finally:
            server.terminate()


def test_the_json_forms_are_read_and_mean_the_same(tmp_path):
    (block,) = re.findall(r"```json\n(.*?)```", README, re.S)
    entities = []
    for line in block.splitlines():
        (tmp_path / "train.jsonl").write_text(line, encoding="utf-8")
        (row,) = read_jsonl(tmp_path / "train.jsonl")
        entities.append(row.entities)
    assert len(entities) == 3
    assert entities[0] == entities[1] == entities[2]
