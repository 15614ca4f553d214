"""The commands as a user types them, each in a process of its own where that is what is tested."""

import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import types

import pytest
from rows import EIGHT, ROOT
from safetensors.torch import load_file
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.inference.backends.torch import TorchBackend, default_dtype

ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
CONFIGS = ROOT / "accelerate_configs"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data set of our own, with a dev split that train has seen: what a run learns shows."""
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(
        folder / "train.jsonl",
        [type(gold)(f"{i}-{k}", gold.text, gold.entities) for k in range(5) for i, gold in enumerate(EIGHT)],
    )
    write_jsonl(
        folder / "dev.jsonl", [type(gold)(str(i), gold.text, gold.entities) for i, gold in enumerate(EIGHT[:7])]
    )
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, data, tiny):
    """The quickstart with a smaller model and data set: the same file but for some keys."""
    text = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    for key, value in {
        "model_name_or_path": tiny, "dataset": data, "validation_rows": 8, "num_train_epochs": 8,
        "per_device_train_batch_size": 4, "learning_rate": "1e-2", "logging_steps": 10, "early_stopping_patience": 20,
    }.items():  # fmt: skip
        old = next(line for line in text.splitlines() if line.startswith(f"{key}:"))
        text = text.replace(old, f"{key}: {value}")
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run(*command, check=True, **options):
    if command[: len(ACCELERATE)] == (*ACCELERATE,):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, **options)
    else:
        done = warm_python.run(command, **options)
    if check and done.returncode:
        raise AssertionError(f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def in_process(capsys, *argv):
    code = 0
    try:
        cli.main([str(arg) for arg in argv])
    except SystemExit as stopped:
        if isinstance(stopped.code, str):  # what the interpreter does with it
            print(stopped.code, file=sys.stderr)
        code = stopped.code if isinstance(stopped.code, int) else 1
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="session")
def trained(recipe, make_once):
    """(folder, what was printed) of the literal command: `accelerate launch recipes/X.yaml --key value`."""

    def make(folder):
        done = run(*ACCELERATE, "--config_file", CONFIGS / "cpu.yaml", recipe, "--output_dir", folder / "out")
        (folder / "printed.txt").write_text(done.stdout, encoding="utf-8")

    folder = make_once("launched", make)
    return folder / "out", (folder / "printed.txt").read_text(encoding="utf-8")


def table_of(printed):
    """The lines of the score table, without its title."""
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:3] == ["precision", "recall", "f1"])
    end = next(i for i, line in enumerate(lines) if line.startswith("floor"))
    return lines[start : end + 1]


@pytest.mark.slow
def test_a_launched_recipe_trains_and_says_how_well(trained):
    folder, printed = trained
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["training"]["steps"] > 0
    assert metrics["metrics"]["f1"] > 0.5, printed
    assert metrics["rows"] == 7
    assert metrics["contract"]["split"] == "dev"
    assert metrics["training"]["seconds"] > 0
    assert "Loss over steps" in (folder / "report.html").read_text()
    assert len((folder / "predictions.jsonl").read_text().splitlines()) == 7
    assert "step 0/" in printed, "f1 before the first step"
    assert "三星WCG2011北京赛区魔兽争霸3最终名次" in printed
    for name in (
        "model.safetensors",
        "ner_config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ):
        assert (folder / name).is_file()


@pytest.mark.slow
def test_evaluate_prints_the_table_that_training_printed(trained, data, capsys, tmp_path):
    folder, printed = trained
    code, out, _ = in_process(capsys, "evaluate", folder, "--data", data, "--json", tmp_path / "scores.json")
    assert code == 0
    assert table_of(out) == table_of(printed)
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["free"]["metrics"] == metrics["metrics"]
    assert not any(scores["constrained"]["problems"].values())
    assert "dev: 7 rows, fingerprint " in out
    assert "constrained decoding" in out
    code, out, _ = in_process(capsys, "evaluate", folder, "--data", data, "--decoding", "constrained")
    assert "free" not in out.splitlines()[0]
    assert "dev: 3 rows" in in_process(capsys, "evaluate", folder, "--data", data, "--limit", "3")[1].splitlines()[0]


@pytest.mark.slow
def test_predictions_are_scored_again_and_compared(trained, data, capsys, tmp_path):
    folder, _ = trained
    code, _, _ = in_process(capsys, "evaluate", folder, "--data", data, "--report", tmp_path / "report")
    assert code == 0
    for decoding in ("free", "constrained"):
        report = tmp_path / "report" / decoding
        assert {path.name for path in report.iterdir()} == {
            "metrics.json", "errors.jsonl", "predictions.jsonl", "report.html",
        }  # fmt: skip
        metrics = json.loads((report / "metrics.json").read_text())
        code, out, _ = in_process(
            capsys, "evaluate", report / "predictions.jsonl", "--data", data, "--json", tmp_path / "again.json"
        )
        assert code == 0
        assert "given decoding" in out
        assert json.loads((tmp_path / "again.json").read_text())["given"]["metrics"] == metrics["metrics"]
    free, constrained = (
        [json.loads(line) for line in (tmp_path / "report" / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("free", "constrained")
    )
    sound = [n for n, line in enumerate(free) if "problems" not in line]
    assert sound
    for n in sound:  # a constraint that nothing runs into changes nothing
        places = [[(e["label"], e["start"], e["end"]) for e in lines[n]["entities"]] for lines in (free, constrained)]
        assert places[0] == places[1]
    code, out, _ = in_process(capsys, "compare", tmp_path / "report" / "free", tmp_path / "report" / "constrained")
    assert code == 0
    assert "rows better in B" in out
    code, out, _ = in_process(capsys, "compare", folder, str(tmp_path / "report" / "*"))
    assert "B 2 runs" in out
    assert "±" in out
    code, _, err = in_process(capsys, "compare", folder, tmp_path / "nothing")
    assert code == 1
    assert "no such file or folder" in err


@pytest.mark.slow
def test_clauses_without_entities_are_read_beside_the_rows_and_change_no_score(trained, data, capsys, tmp_path):
    folder, _ = trained
    scores = {}
    for name, more in (("without", []), ("with", ["--negatives"])):
        code, out, _ = in_process(
            capsys, "evaluate", folder, "--data", data, "--decoding", "constrained", "--json", tmp_path / name, *more
        )
        assert code == 0
        scores[name] = json.loads((tmp_path / name).read_text())["constrained"]
    assert "cut out of the rows)" in out
    assert scores["with"]["spurious"]["added"] >= 1
    assert scores["with"]["spurious"]["sentences"] == 1 + scores["with"]["spurious"]["added"]
    assert scores["without"]["spurious"] == {**scores["without"]["spurious"], "sentences": 1, "added": 0}
    assert scores["with"]["metrics"] == scores["without"]["metrics"]


@pytest.mark.slow
def test_a_submission_has_cluener_s_form_and_is_read_back(trained, data, capsys, tmp_path):
    folder, _ = trained
    submission = tmp_path / "cluener_predict.json"
    rows = [{"id": i, "text": gold.text} for i, gold in enumerate(EIGHT[:7])]
    (tmp_path / "test.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, _ = in_process(
        capsys, "predict", folder, tmp_path / "test.json", "--format", "cluener", "--output", submission
    )
    assert code == 0
    lines = [json.loads(line) for line in submission.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(7))
    for gold, line in zip(EIGHT, lines, strict=False):
        for surfaces in line["label"].values():
            for surface, spans in surfaces.items():
                assert all(gold.text[start : last + 1] == surface for start, last in spans)
    before = submission.read_bytes()
    again = in_process(capsys, "predict", folder, tmp_path / "test.json", "--format", "cluener", "--output", submission)
    assert again[0] == 0
    assert submission.read_bytes() == before
    other = tmp_path / "other" / "test.json"
    other.parent.mkdir()
    other.write_text("".join(json.dumps({**row, "text": "好"}) + "\n" for row in rows))
    code, _, err = in_process(capsys, "predict", folder, other, "--format", "cluener", "--output", submission)
    assert (code, submission.read_bytes()) == (1, before)
    assert "was written with input" in err
    code, _, _ = in_process(capsys, "evaluate", submission, "--data", data, "--json", tmp_path / "given.json")
    assert code == 0
    _, _, _ = in_process(capsys, "evaluate", folder, "--data", data, "--json", tmp_path / "model.json")
    given, model = (json.loads((tmp_path / name).read_text()) for name in ("given.json", "model.json"))
    assert given["given"]["span"] == model["constrained"]["span"]


@pytest.mark.slow
def test_the_best_checkpoint_is_what_is_kept(trained):
    folder, _ = trained
    state = json.loads((folder / "trainer_state.json").read_text())
    scores = {entry["step"]: entry["eval_f1"] for entry in state["log_history"] if "eval_f1" in entry}
    assert 0 in scores
    assert state["best_metric"] == max(scores.values())
    best = folder / f"checkpoint-{state['best_global_step']}"
    assert (best / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_predict_streams_offsets_and_loses_no_bad_line(trained, capsys, tmp_path):
    folder, _ = trained
    file = tmp_path / "texts.jsonl"
    long = "很" * 5000
    file.write_bytes(b'{"id": "a", "text": "%s"}\nbroken\n{"text": "%s"}\n{"no": 1}\n{"text": "%s"}\n'
                     % (EIGHT[0].text.encode(), long.encode(), EIGHT[1].text.encode()))  # fmt: skip
    code, _, err = in_process(capsys, "predict", folder, file, "--output", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert code == 1
    assert "2 texts were refused" in err
    assert [("error" in line) for line in lines] == [False, True, False, True, False]
    assert lines[0]["id"] == "a"
    assert "texts.jsonl:2" in lines[1]["error"]
    assert "texts.jsonl:4" in lines[3]["error"]
    assert lines[2]["text"] == long, "read in windows, not cut"
    for line in (lines[0], lines[2], lines[4]):
        for entity in line["entities"]:
            assert line["text"][entity["start"] : entity["end"]] == entity["text"]


@pytest.mark.slow
def test_two_ranks_predict_what_one_predicts_and_in_order(trained, tmp_path):
    folder, _ = trained
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(gold.text for gold in [*EIGHT, *EIGHT[:3]]), encoding="utf-8")
    predict = ["-m", "qwen_ner", "predict", folder, texts, "--output"]
    run(sys.executable, *predict, tmp_path / "one.jsonl")
    warm_python.launch(CONFIGS / "cpu_2proc.yaml", [*predict, tmp_path / "two.jsonl"]).check_returncode()
    one, two = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("one.jsonl", "two.jsonl")
    )
    assert [line["text"] for line in two] == texts.read_text(encoding="utf-8").splitlines()
    for first, second in zip(one, two, strict=True):
        for entity, other in zip(first["entities"], second["entities"], strict=True):
            assert other == {**entity, "score": pytest.approx(entity["score"], abs=2e-4)}


@pytest.mark.slow
def test_predict_reads_standard_input_and_the_command_line(trained, capsys, monkeypatch):
    folder, _ = trained
    code, out, _ = in_process(capsys, "predict", folder, "--text", EIGHT[0].text)
    assert code == 0
    assert json.loads(out)["text"] == EIGHT[0].text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("第一句\n\n第二句\r\n".encode())))
    code, out, _ = in_process(capsys, "predict", folder)
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["第一句", "第二句"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_the_dtype_of_the_command_is_what_the_model_computes_in(trained, data, capsys, monkeypatch, dtype):
    folder, _ = trained
    computed, complete = set(), TorchBackend.complete

    def watched(self, *args, **options):
        computed.add(str(self.model.dtype).removeprefix("torch."))
        return complete(self, *args, **options)

    monkeypatch.setattr(TorchBackend, "complete", watched)
    for command in (["predict", folder, "--text", "三星在北京"], ["evaluate", folder, "--data", data]):
        assert in_process(capsys, *command, "--dtype", dtype)[0] == 0
    assert computed == {default_dtype("cpu") if dtype == "auto" else dtype}


@pytest.mark.slow
def test_predict_goes_on_only_with_what_the_same_model_and_settings_wrote(trained, capsys, tmp_path):
    folder, _ = trained
    texts, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts.write_text("\n".join(gold.text for gold in EIGHT[:3]), encoding="utf-8")
    command = ["predict", folder, texts, "--output", out]
    assert in_process(capsys, *command)[0] == 0
    before = out.read_bytes()
    moved = shutil.copytree(folder, tmp_path / "moved", ignore=shutil.ignore_patterns("checkpoint-*"))
    assert in_process(capsys, "predict", moved, *command[2:])[0] == 0
    with (moved / "ner_config.json").open("a") as config:
        config.write("\n")
    for other in (
        ["predict", moved, *command[2:]],
        [*command, "--min-score", "0.5"],
        [*command, "--thresholds", "auto"],
        [*command, "--dtype", "bfloat16"],
    ):
        code, _, err = in_process(capsys, *other)
        assert code == 1
        assert f"{out}: was written with " in err
        assert "remove the file" in err
    assert out.read_bytes() == before


VOTE = ("--samples", "4", "--temperature", "1", "--top-p", "0.9")


@pytest.mark.slow
def test_drawn_answers_are_the_same_each_time_and_scored_by_their_share(trained, capsys, tmp_path):
    folder, _ = trained
    texts, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts.write_text("\n".join(gold.text for gold in EIGHT), encoding="utf-8")
    command = ["predict", folder, texts, "--output", out]
    assert in_process(capsys, *command, *VOTE, "--min-score", "0.25")[0] == 0
    whole = out.read_text(encoding="utf-8").splitlines()
    scores = [entity["score"] for line in whole for entity in json.loads(line)["entities"]]
    assert {0.25, 0.75} <= set(scores) <= {0.25, 0.5, 0.75, 1.0}
    out.write_text("".join(line + "\n" for line in whole[:3]), encoding="utf-8")
    assert in_process(capsys, *command, *VOTE, "--min-score", "0.25", "--batch-tokens", "300")[0] == 0
    assert out.read_text(encoding="utf-8").splitlines() == whole, "the rest of an interrupted run is drawn as before"
    for other in ([], ["--temperature", "1"], [*VOTE], [*VOTE, "--min-score", "0.25", "--top-p", "1"]):
        code, _, err = in_process(capsys, *command, *other)
        assert code == 1
        assert f"{out}: was written with " in err
    _, printed, _ = in_process(capsys, "predict", folder, texts, *VOTE)
    kept = [[e for e in json.loads(line)["entities"] if e["score"] >= 0.5] for line in whole]
    assert [json.loads(line)["entities"] for line in printed.splitlines()] == kept, "of half the answers by default"


@pytest.mark.slow
def test_a_score_of_drawn_answers_says_how_they_were_drawn(trained, data, capsys, tmp_path):
    folder, _ = trained
    report = tmp_path / "report"
    code, out, _ = in_process(capsys, "evaluate", folder, "--data", data, *VOTE, "--report", report)
    assert code == 0
    for decoding in ("free", "constrained"):
        said = f"{decoding} decoding (4 answers a text, temperature 1, top_p 0.9), min score 0.5"
        assert said in out
        assert said in (report / decoding / "report.html").read_text(encoding="utf-8")
    predictions = report / "constrained" / "predictions.jsonl"
    lines = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    texts = [option for line in lines for option in ("--text", line["text"])]
    _, printed, _ = in_process(capsys, "predict", folder, *texts, *VOTE)
    assert [json.loads(line)["entities"] for line in printed.splitlines()] == [line["entities"] for line in lines]
    code, _, err = in_process(capsys, "evaluate", predictions, "--data", data, *VOTE)
    assert code == 1
    assert "temperature" in err


@pytest.mark.parametrize(
    "command", [["predict", "nowhere", "--text", "三星"], ["evaluate", "nowhere", "--data", "sample"]]
)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--samples", "5"], "samples: 5: greedy answers are all the same"),
        (["--temperature", "nan"], "temperature: nan"),
        (["--top-p", "0.9"], "top_p: 0.9"),
        (["--temperature", "1", "--top-p", "0"], "top_p: 0.0"),
        (["--temperature", "1", "--thresholds", "auto"], "thresholds: auto"),
    ],
)
def test_a_draw_that_makes_no_sense_is_refused_before_the_model_is_loaded(capsys, command, options, said):
    code, out, err = in_process(capsys, *command, *options)
    assert (code, out) == (1, "")
    assert said.split(":")[0] in err
    assert said.split(": ")[1] in err
    assert "no such folder" not in err


def test_predictions_are_not_written_under_the_name_of_a_table(capsys):
    """Excel would call the file damaged."""
    code, _, err = in_process(capsys, "predict", "nowhere", "--text", "三星", "--output", "found.xlsx")
    assert code == 1
    assert "`qwen-ner convert found.jsonl found.xlsx`" in err


def test_beams_bring_what_the_model_almost_wrote(trained, capsys):
    folder, _ = trained
    command = ["predict", folder, "--text", EIGHT[0].text]
    _, plain, _ = in_process(capsys, *command)
    code, printed, _ = in_process(capsys, *command, "--beams", "8", "--min-score", "0")
    assert code == 0
    greedy, searched = ({(e["label"], e["text"]) for e in json.loads(out)["entities"]} for out in (plain, printed))
    assert len(searched) > len(greedy)
    code, out, err = in_process(capsys, "predict", "nowhere", "--text", "三星", "--beams", "8", "--temperature", "1")
    assert (code, out) == (1, "")
    assert err.startswith("error: beams: ")
    assert "got 8" in err


@pytest.mark.slow
def test_predict_answers_a_pipe_as_its_lines_come_and_ends_behind_them(trained, tmp_path):
    folder, _ = trained
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "qwen_ner", "predict", folder, pipe]
    with warm_python.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with pipe.open("w", encoding="utf-8") as lines:
            for gold in EIGHT[:3]:
                print(gold.text, file=lines, flush=True)
                assert json.loads(process.stdout.readline())["text"] == gold.text
            process.terminate()
            assert process.wait(60) == 128 + signal.SIGTERM
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_of_several_files_each_id_names_its_file(trained, capsys, tmp_path, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("一\n\n二\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"id": 1, "text": "三"}\n', encoding="utf-8")
    code, out, _ = in_process(capsys, "predict", folder, "a.txt", "b.jsonl")
    assert code == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["a.txt:1", "a.txt:3", "b.jsonl:1"]
    for more in (
        ["a.txt", "./a.txt"],
        ["a.txt", "b.jsonl", "--format", "cluener"],
        ["a.txt", "no.txt"],
        ["a.txt", "--output", "a.txt"],
    ):
        assert in_process(capsys, "predict", folder, *more)[:2] == (1, "")


@pytest.mark.slow
def test_a_sentence_of_the_command_line_is_a_text_whatever_it_looks_like(trained, capsys):
    folder, _ = trained
    given = ['{"text": "一"}', "  ", "二"]
    code, out, _ = in_process(capsys, "predict", folder, *(part for text in given for part in ("--text", text)))
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [line.get("text") for line in lines] == [given[0], None, given[2]]
    assert "empty" in lines[1]["error"]


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            ["--limit", "-298"],
            ["--limit", "0"],
            ["--min-score", "nan"],
            ["--min-score", "2"],
            ["--batch-tokens", "-1"],
            ["--dtype", "int8"],
        ),
        ["--split", os.fsdecode(b"\xff")],
    ],
)
def test_numbers_out_of_range_and_bytes_that_are_no_text_are_wrong_arguments(capsys, wrong):
    code, out, err = in_process(capsys, "evaluate", "x", "--data", "sample", *wrong)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_what_cannot_be_written_is_said_before_the_work(capsys, tmp_path):
    """Before the model is looked for, even."""
    (tmp_path / "file").touch()
    place, file, pipe = tmp_path / "no" / "x", tmp_path / "file" / "x", tmp_path / "pipe"
    os.mkfifo(pipe)
    evaluate = ["evaluate", "nowhere", "--data", "sample"]
    for command, path in [
        *(([*evaluate, "--json"], path) for path in (place, file, tmp_path, pipe)),
        *((["predict", "nowhere", "--text", "一", "--output"], path) for path in (place, file, tmp_path)),
        ([*evaluate, "--report"], tmp_path / "file"),
    ]:
        code, _, err = in_process(capsys, *command, path)
        assert code == 1
        assert err.startswith(f"error: {path}")
        assert "; " in err, "a remedy"
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_ctrl_c_at_any_moment_ends_without_a_traceback(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupted)
    assert in_process(capsys, "predict", "x") == (130, "", "interrupted\n")


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one(trained, recipe, data, tmp_path, capsys):
    """Training on 2 × 2 rows is training on 1 × 4; and both score the same rows, each once."""
    options = [
        "--max_steps",
        "20",
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "10",
        "--save_strategy",
        "steps",
        "--save_steps",
        "10",
    ]
    # Adam's usual epsilon would make a whole step of a rounding error.
    sequential = ["--train_sampling_strategy", "sequential", "--learning_rate", "1e-2", "--adam_epsilon", "1e-3"]
    one, two = tmp_path / "one", tmp_path / "two"
    warm_python.launch(CONFIGS / "cpu.yaml", [recipe, *options, *sequential, "--output_dir", one]).check_returncode()
    typed = ["-m", "qwen_ner", "train", recipe, *options, *sequential, "--per_device_train_batch_size", "2"]
    warm_python.launch(CONFIGS / "cpu_2proc.yaml", [*typed, "--output_dir", two]).check_returncode()
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (one, two))
    for key in ("surface", "span", "problems", "intervals", "errors"):
        assert first[key] == second[key]
    assert first["training"]["validation"] == second["training"]["validation"]
    assert first["training"]["train_loss"] == pytest.approx(second["training"]["train_loss"], rel=1e-4)
    one_weights, two_weights = (load_file(folder / "checkpoint-20" / "model.safetensors") for folder in (one, two))
    assert max(float((weight - two_weights[name]).abs().max()) for name, weight in one_weights.items()) <= 1e-5
    code, _, _ = in_process(capsys, "evaluate", two / "checkpoint-20", "--data", data)
    assert code == 0
    code, out, _ = in_process(capsys, "predict", two / "checkpoint-20", "--text", EIGHT[0].text)
    assert json.loads(out)["text"] == EIGHT[0].text


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_the_same_command_goes_on(recipe, tmp_path):
    out = tmp_path / "out"
    command = [*ACCELERATE, "--config_file", CONFIGS / "cpu.yaml", recipe, "--output_dir", out, "--num_train_epochs", "6",
               "--eval_on_start", "false", "--logging_steps", "1"]  # fmt: skip
    process = subprocess.Popen(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("step 3/"):
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "Stopping after this step with a checkpoint" in rest, "".join(said) + rest
    (checkpoint,) = out.glob("checkpoint-*")
    step = int(checkpoint.name.rsplit("-", 1)[1])
    assert 3 <= step < 10
    assert not (out / "metrics.json").exists()
    done = warm_python.launch(CONFIGS / "cpu.yaml", command[len(ACCELERATE) + 2 :])
    assert f"Resuming from {checkpoint}" in done.stderr
    assert json.loads((out / "metrics.json").read_text())["training"]["steps"] == 60


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "nowhere.yaml"], "cannot read the recipe"),
        (["evaluate", "nowhere", "--data", "sample"], "no such folder"),
        (["predict", "nowhere", "--text", "三星"], "no such folder"),
    ],
)
def test_an_error_is_one_message_and_exit_1(capsys, argv, said):
    code, _, err = in_process(capsys, *argv)
    assert code == 1
    assert err.startswith("error: ")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_process_that_does_not_know_of_the_others_stops(recipe, tmp_path):
    """What a launch of two CPU processes without use_cpu comes to: each sees itself alone."""
    alone = os.environ | {"WORLD_SIZE": "2"}
    command = [
        sys.executable,
        "-m",
        "qwen_ner",
        "train",
        recipe,
        "--use_cpu",
        "false",
        "--output_dir",
        tmp_path / "out",
    ]
    done = run(*command, check=False, env=alone)
    assert done.returncode == 1
    # The second is what accelerate 1.12 itself says, and earlier.
    assert (
        "WORLD_SIZE is 2, but this process sees itself alone" in done.stderr
        or "`MASTER_ADDR` env was not set" in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_written_is_told_before_anything_is_read(recipe, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = in_process(
        capsys, "train", recipe, "--output_dir", tmp_path / "file" / "out", "--dataset", "nowhere"
    )
    assert code == 1
    assert "cannot be written" in err
    assert "--output_dir" in err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_an_error_with_a_remedy_and_no_half_file(recipe, capsys, small_disk):
    code, _, err = in_process(capsys, "train", recipe, "--output_dir", small_disk / "out", "--max_steps", "4",
                              "--eval_on_start", "false")  # fmt: skip
    assert code == 1
    assert "the disk under" in err
    assert "is full" in err
    assert "free space and run the same command again" in err
    assert not (small_disk / "out" / "metrics.json").exists()


@pytest.mark.slow
def test_a_disk_that_may_not_be_written(recipe, capsys, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, _, err = in_process(capsys, "train", recipe, "--output_dir", small_disk / "out")
    assert code == 1
    assert "Read-only file system" in err
    assert "--output_dir" in err


@pytest.mark.slow
def test_an_adapter_by_recipe_alone_with_its_curves(recipe, data, capsys, tmp_path, monkeypatch):
    """LoRA on the embedded model, logged to TensorBoard and (offline) to wandb; the folder extracts by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    out = tmp_path / "out"
    code, printed, err = in_process(
        capsys, "train", recipe, "--output_dir", out, "--model_name_or_path", "tiny", "--lora_r", "4", "--max_steps", "8",
        "--eval_strategy", "steps", "--eval_steps", "4", "--save_strategy", "steps", "--save_steps", "4", "--logging_steps", "2",
        "--report_to", "tensorboard", "wandb", "--max_new_tokens", "24",
    )  # fmt: skip
    assert code == 0, err
    assert (out / "adapter_model.safetensors").is_file()
    assert not (out / "model.safetensors").exists()
    assert list(out.glob("runs/*/events.out.tfevents.*"))
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    code, again, _ = in_process(capsys, "evaluate", out, "--data", data)
    assert table_of(again) == table_of(printed)


@pytest.mark.slow
def test_patience_ends_a_training_that_no_longer_gets_better(recipe, trained, capsys, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    code, _, _ = in_process(capsys, "train", recipe, "--output_dir", out, "--model_name_or_path", trained[0],
                            "--learning_rate", "0", "--early_stopping_patience", "2", "--num_train_epochs", "30")  # fmt: skip
    assert code == 0
    training = json.loads((out / "metrics.json").read_text())["training"]
    assert (training["steps"], training["validation"]["step"]) == (30, 10), "the first of three equals, 10 steps each"
    assert training["validation"]["best"] > 0
    assert "Early stopping ends the training at step 30 of 300" in caplog.text


def test_unknown_arguments_are_refused_where_there_is_no_recipe(capsys):
    code, _, err = in_process(capsys, "predict", "x", "--txt", "三星")
    assert code == 2
    assert "unrecognized arguments" in err


def test_a_command_is_one_module_and_one_name(monkeypatch, capsys):
    def run(options, rest):
        print(options.times * 2, rest)

    toy = types.ModuleType("qwen_ner.cli.toy", "Double a number.\n\nOnly the first.\n")
    toy.add_arguments = lambda parser: parser.add_argument("times", type=int)
    toy.run = run
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "toy"))
    assert in_process(capsys, "toy", 21)[:2] == (0, "42 []\n")
    assert re.search(r"^ +toy +Double a number$", in_process(capsys, "--help")[1], re.MULTILINE)
    assert "Only the first." in in_process(capsys, "toy", "--help")[1]
