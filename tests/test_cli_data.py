"""`qwen-ner stats` and `qwen-ner audit` as a user types them."""

import io
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from rows import EIGHT, example

from qwen_ner import cli
from qwen_ner.data.datasets import read_dataset, write_jsonl


@pytest.fixture
def folder(tmp_path):
    """Eleven rows of train of which the last one omits what the others annotate, and two of dev."""
    rows = [example(f"第{n}次在北京", ("address", "北京"), id=str(n)) for n in range(10)]
    write_jsonl(tmp_path / "train.jsonl", [*rows, example("她去北京了", id="omits")])
    write_jsonl(tmp_path / "dev.jsonl", [rows[0], example("第三次在上海", ("address", "上海"), id="new")])
    return tmp_path


def call(capsys, *argv):
    try:
        cli.main([str(arg) for arg in argv])
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code, *capsys.readouterr()


def test_stats(capsys, folder):
    code, out, _ = call(capsys, "stats", "--data", folder, "--json", folder / "s.json", "--plots", folder / "plots")
    assert code == 0
    assert out.splitlines()[0] == str(folder)
    assert "rows without entities" in out
    assert "tokens of tiny" in out
    assert out.splitlines()[-3:] == [
        str(folder / "plots" / name) for name in ("labels.png", "lengths.png", "limits.png")
    ]
    written = json.loads((folder / "s.json").read_text(encoding="utf-8"))
    assert written["splits"]["train"]["empty_rows"] == 1
    assert written["splits"]["train"]["lengths"]["row"]["longest"] > 20
    assert [found["likeness"] for found in written["duplicates"] if found["splits"] == ["train", "dev"]][:1] == [
        "identical"
    ]


@pytest.mark.parametrize("locale", ["cp1252", "gbk"])
def test_what_is_piped_is_utf_8_whatever_the_locale_is(tmp_path, monkeypatch, locale):
    """As on Windows, whose pipes have the code page of the system."""
    write_jsonl(
        tmp_path / "train.jsonl", [example(f"😀在{place}", ("地址", "😀"), id=place) for place in ("北京", "上海")]
    )
    piped = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(piped, encoding=locale))
    cli.main(["init", str(tmp_path), "--output", str(tmp_path / "recipe.yaml")])
    assert "😀" in piped.getvalue().decode("utf-8")


def test_stats_of_some_labels_say_what_is_left_out(capsys, tmp_path, caplog):
    rows = [example("张伟在北京", ("name", "张伟"), ("address", "北京"), id=str(n)) for n in range(3)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    with caplog.at_level(logging.INFO):
        code, _, _ = call(capsys, "stats", "--data", tmp_path, "--labels", "name", "--json", tmp_path / "s.json")
    assert code == 0
    assert "left out: address 3 in 3 rows" in caplog.text
    counted = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["splits"]["train"]
    assert (counted["rows"], counted["entities"], [*counted["labels"]]) == (3, 3, ["name"])
    code, _, _ = call(capsys, "stats", "--data", tmp_path, "--labels", "name", "adress")
    assert 'did you mean "address"?' in code


def test_tags_out_of_order_are_read_if_asked_for_and_counted(capsys, tmp_path, caplog):
    sentence = "张\tI-name\n伟\tI-name\n在\tO\n{}\tO\n\n李\tB-name\n四\tI-name\n{}\tO\n\n"
    text = "".join(sentence.format(chr(0x4E00 + n), chr(0x5E00 + n)) for n in range(12))
    (tmp_path / "train.bio").write_text(text, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: tiny\ndataset: {tmp_path}\nuse_cpu: true\nreport_to: none\nmax_steps: 1\n"
        f"eval_strategy: no\nsave_strategy: no\nmax_new_tokens: 4\noutput_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    for command in (
        ["stats", "--data", tmp_path],
        ["doctor", tmp_path / "recipe.yaml"],
        ["train", tmp_path / "recipe.yaml"],
    ):
        code, out, err = call(capsys, *command)
        assert code != 0
        assert "read it with --repair" in f"{code}{out}{err}"
        caplog.clear()
        _, out, _ = call(capsys, *command, "--repair")
        assert (caplog.text + out).count("tags out of order, read as conlleval does: 12 (train.bio:1") == 1, command


def test_stats_counts_with_the_prompt_of_a_trained_folder(capsys, folder, tiny, codec, tmp_path):
    import shutil

    from qwen_ner.contract import NerConfig

    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    NerConfig(codec.labels, "找" * 100, 64, (1,)).save(model)
    code, _, _ = call(capsys, "stats", "--data", folder, "--model", model, "--json", folder / "s.json")
    assert code == 0
    long = json.loads((folder / "s.json").read_text(encoding="utf-8"))["splits"]["train"]["lengths"]["prompt"][
        "longest"
    ]
    assert long > 100


def test_audit(capsys, folder):
    code, out, err = call(capsys, "audit", "--data", folder)
    assert code == 0
    assert out.startswith("train.jsonl:11  0.6")
    assert "omitted: nothing → address 北京 [2, 4)  (北京: address in 10 of 11 places)" in out
    assert "1 finding in 11 rows: 1 omitted" in err
    code, out, _ = call(capsys, "audit", "--data", folder, "--output", folder / "f.jsonl", "--split", "train")
    assert (code, out) == (0, "")
    assert [json.loads(line)["id"] for line in (folder / "f.jsonl").read_text(encoding="utf-8").splitlines()] == [
        "omits"
    ]


def test_audit_of_clean_data_and_with_predictions(capsys, folder):
    assert call(capsys, "audit", "--data", "sample", "--split", "dev")[:2] == (0, "")
    write_jsonl(folder / "eight.jsonl", [replace(row, id=str(n)) for n, row in enumerate(EIGHT)])
    (folder / "p.jsonl").write_text(
        json.dumps(
            {
                "id": "1",
                "text": EIGHT[2].text,
                "entities": [{"label": "company", "text": "快递", "start": 2, "end": 4, "score": 0.8}],
            }
        )
        + "\n",
        encoding="utf-8",
    )
    code, out, _ = call(capsys, "audit", "--data", folder / "eight.jsonl", "--predictions", folder / "p.jsonl")
    assert code == 0
    assert out == "eight.jsonl:3  0.80  predicted: nothing → company 快递 [2, 4)  (1 of 1 models write it, with 0.80)\n"
    given = ["audit", "--data", folder / "eight.jsonl", "--predictions", folder / "p.jsonl", "--limit"]
    assert call(capsys, *given, "1")[1] == out
    assert call(capsys, *given, "-1")[0] == 2


def test_corrections_are_proposed_read_and_applied(capsys, folder):
    """What models are sure of becomes a line; a line that is left becomes a change of its row, and of nothing else."""
    rows = read_dataset(str(folder), "train")
    sure = {"label": "address", "text": "北京", "start": 2, "end": 4, "score": 0.97}
    doubted = {**sure, "start": 4, "end": 6, "score": 0.02}  # of row 9, 第9次在北京
    other = {**doubted, "label": "scene", "score": 0.99}
    lines = [{"text": rows[10].text, "entities": [sure], "annotated": []}]
    lines += [{"text": rows[9].text, "entities": [other], "annotated": [doubted]}]
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    given = ["audit", "--data", folder, "--predictions", folder / "p.jsonl", "--sure"]
    code, out, err = call(capsys, *given, "--output", folder / "proposed.jsonl")
    assert (code, out) == (0, "")
    assert "2 findings in 11 rows: 1 label, 1 added" in err
    proposed = (folder / "proposed.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert [json.loads(line)["kind"] for line in proposed] == ["label", "added"]
    (folder / "proposed.jsonl").write_text(proposed[1], encoding="utf-8")  # the first is rejected
    out = folder / "corrected.jsonl"
    code, _, _ = call(capsys, "convert", folder, out, "--split", "train", "--corrections", folder / "proposed.jsonl")
    assert code == 0
    corrected = read_dataset(str(out), "train")
    assert [(e.id, e.text, e.entities) for e in corrected[:10]] == [(e.id, e.text, e.entities) for e in rows[:10]]
    assert corrected[10].surfaces == (("address", "北京"),)


def test_sure_needs_predictions_that_judge_the_annotation(capsys, folder):
    code, _, _ = call(capsys, "audit", "--data", folder, "--sure")
    assert "qwen-ner folds" in code
    line = {"text": "她去北京了", "entities": []}
    (folder / "p.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    code, _, _ = call(capsys, "audit", "--data", folder, "--predictions", folder / "p.jsonl", "--sure")
    assert "qwen-ner folds" in code


def test_where_to_write_and_what_to_read_are_checked_first(capsys, tmp_path):
    (tmp_path / "in.jsonl").write_text("no data")
    out = tmp_path / "missing" / "out"
    for command in (["stats", "--json", out], ["audit", "--output", out]):
        code, _, _ = call(capsys, *command, "--data", tmp_path / "in.jsonl")
        assert str(code).startswith(f"error: {out}: cannot be written")
    os.mkfifo(tmp_path / "pipe")
    for command in (["stats", "--data", tmp_path / "pipe"], ["convert", tmp_path / "pipe", tmp_path / "out.jsonl"]):
        assert str(call(capsys, *command)[0]).startswith(f"error: {tmp_path / 'pipe'}: is a pipe")


WINDOWS = "import select; del select.poll; from qwen_ner.cli import main"


def audit(folder, *python, **options):
    command = [sys.executable, *(python or ("-m", "qwen_ner")), "audit", "--data", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("python", [(), ("-u", "-m", "qwen_ner"), ("-c", f"{WINDOWS}; main()")], ids=" ".join)
def test_a_reader_that_goes_away_ends_a_command_in_silence(folder, python):
    with audit(folder, *python, stdout=subprocess.PIPE) as process:
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert "rror" not in err


def test_a_full_disk_is_told_from_a_missing_file(capsys, folder):
    with open("/dev/full", "w") as full, audit(folder, stdout=full) as process:
        err = process.stderr.read()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: No space left on device; free space or write elsewhere"
    code, _, _ = call(capsys, "audit", "--data", folder, "--output", folder / "no" / "f.jsonl")
    assert code.startswith("error: ")
    assert str(folder / "no") in code
    assert "No such file or directory" in code
    assert "free space" not in code


def test_no_control_character_of_the_data_reaches_the_terminal(capsys, tmp_path):
    evil = "\x1b]0;x\x07\x9b31m\u202e\r\n"
    rows = [example(f"第{n}句张\x1b[31m伟", (f"{evil}{n % 2}", "张\x1b[31m伟"), id=str(n)) for n in range(4)]
    write_jsonl(tmp_path / "train.jsonl", [*rows, example("张\x1b[31m伟", id="omits")])
    bad = {"text": f"a{evil}", "entities": [{"label": evil, "start": 0, "end": 99}]}
    (tmp_path / "bad.jsonl").write_text(json.dumps(bad))
    for command in (
        ["stats", "--data", tmp_path / "train.jsonl"],
        ["audit", "--data", tmp_path / "train.jsonl"],
        ["stats", "--data", tmp_path / "bad.jsonl"],
        ["convert", tmp_path / "train.jsonl", tmp_path / "out.bio"],
    ):
        shown = "".join(map(str, call(capsys, *command)))
        assert shown.strip("0"), command
        assert not set(shown) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}, command


def test_labels_name_the_columns_of_a_sheet_where_they_cannot_be_told(capsys, tmp_path, caplog):
    """Mood may be a label with typing errors, or none."""
    rows = [
        f"第{n}次去{place}，{'很好' if n < 2 else '不错'},{place},很好" for n, place in enumerate(["北京", "上海"] * 3)
    ]
    sheet, out = tmp_path / "own.csv", tmp_path / "out.jsonl"
    sheet.write_text("\n".join(["点评内容,place,mood", *(row.replace("，", " ") for row in rows)]), encoding="utf-8")
    code, _, _ = call(capsys, "convert", sheet, out)
    assert "own.csv:1: " in code
    assert '"mood"' in code
    assert not out.exists()
    with caplog.at_level(logging.INFO):
        code, _, _ = call(capsys, "convert", sheet, out, "--labels", "place")
    assert code == 0
    assert "own.csv: mood" in caplog.text
    assert [entity.label for row in read_dataset(str(out), "train") for entity in row.entities] == ["place"] * 6
    code, _, _ = call(capsys, "init", sheet, "--output", tmp_path / "r.yaml", "--model", "tiny", "--labels", "place")
    assert code == 0
    recipe = (tmp_path / "r.yaml").read_text(encoding="utf-8")
    assert "mood" not in recipe.partition("labels:")[2]
    code, _, _ = call(capsys, "convert", sheet, out, "--labels", "plaec", "--to", "jsonl")
    assert 'did you mean "place"?' in code
    assert len(read_dataset(str(out), "train")) == 6, "the old file is kept"


def test_columns_that_a_table_of_entities_has_beside_are_listed(capsys, tmp_path, caplog):
    (tmp_path / "own.csv").write_text(
        "text,label,entity,批次\n在北京,place,北京,三\n在上海,place,上海,四\n", encoding="utf-8"
    )
    with caplog.at_level(logging.INFO):
        code, _, _ = call(capsys, "convert", tmp_path / "own.csv", tmp_path / "out.jsonl")
    assert code == 0
    assert 'the column "批次": 2' in caplog.text
