import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from rows import EIGHT

from qwen_ner.codec import Decoded
from qwen_ner.data.datasets import TextRow, read_texts
from qwen_ner.entities import CLUENER, Entity, NerError
from qwen_ner.inference import batch_predict
from qwen_ner.inference.batch_predict import stream
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.output_file import META, model_fingerprint, open_output

RECORD = {"model": "outputs/a", "fingerprint": "1111", "format": "json", "min_score": 0.0, "thresholds": "none"}
TEXTS = [gold.text for gold in EIGHT]


class Marked(Extractor):
    """Says that the first character of every text is a name, and remembers what it was asked."""

    class config:
        labels = CLUENER
        window = 0

    def __init__(self):
        self.asked = []

    def predict(self, texts, **options):
        self.asked += texts
        return [Decoded((Entity("name", text[0], 0, 1),) if text else (), ()) for text in texts]


def write(file, rows, record=RECORD, extractor=None, **options):
    with open_output(file, record) as output:
        return stream(extractor or Marked(), rows, output, **options)


def rows_of(*texts):
    return read_texts([text.encode() + b"\n" for text in texts], "in.txt")


@pytest.mark.parametrize(
    ("key", "other"), [("fingerprint", "2222"), ("format", "cluener"), ("min_score", 0.5), ("thresholds", "auto")]
)
def test_lines_of_another_model_or_setting_are_not_gone_on_with(tmp_path, key, other):
    file = tmp_path / "out.jsonl"
    write(file, rows_of(*TEXTS[:3]))
    before = file.read_bytes()
    with pytest.raises(NerError) as caught:
        write(file, rows_of(*TEXTS), {**RECORD, key: other})
    assert caught.value.place == file
    assert f"{key} {RECORD[key]}, not {other}" in caught.value.what
    assert "remove the file" in caught.value.remedy
    assert file.read_bytes() == before
    assert json.loads((tmp_path / f"out.jsonl{META}").read_text()) == RECORD
    file.unlink()  # the remedy
    write(file, rows_of(*TEXTS), {**RECORD, key: other})
    assert json.loads((tmp_path / f"out.jsonl{META}").read_text())[key] == other


def test_a_model_that_was_moved_is_the_same_and_its_files_say_so(tiny, tmp_path):
    here = shutil.copytree(tiny, tmp_path / "here")
    there = shutil.copytree(here, tmp_path / "there")
    assert model_fingerprint(here) == model_fingerprint(there) == model_fingerprint(tiny)
    (there / "metrics.json").write_text("{}")
    assert model_fingerprint(here) == model_fingerprint(there)
    with (there / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x7f")
    assert model_fingerprint(here) != model_fingerprint(there)
    file = tmp_path / "out.jsonl"
    write(file, rows_of(*TEXTS[:3]))
    assert write(file, rows_of(*TEXTS[:4]), {**RECORD, "model": "elsewhere"}) == 0


def test_a_full_disk_does_not_take_the_record_of_finished_lines(tmp_path, monkeypatch):
    file = tmp_path / "out.jsonl"
    write(file, rows_of(*TEXTS[:3]))
    with monkeypatch.context() as full, contextlib.suppress(OSError):
        full.setattr("json.dump", Mock(side_effect=OSError(28, "No space left on device")))
        write(file, rows_of(*TEXTS[:4]))
    assert write(file, rows_of(*TEXTS)) == 0
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(TEXTS)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files there")
def test_the_old_lines_are_closed_before_they_are_replaced(tmp_path, monkeypatch):
    """Windows replaces no open file."""
    file = tmp_path / "out.jsonl"
    write(file, rows_of(*TEXTS[:3]))
    replace, opened = os.replace, []

    def checked(part, path):
        opened.extend(os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())
        replace(part, path)

    monkeypatch.setattr("os.replace", checked)
    write(file, rows_of(*TEXTS))
    assert opened
    assert str(file) not in opened


def test_lines_without_a_record_are_refused(tmp_path):
    file = tmp_path / "out.jsonl"
    write(file, rows_of(*TEXTS[:3]))
    for wrong in ("", "[1]", '{"model": '):
        (tmp_path / f"out.jsonl{META}").write_text(wrong)
        for content in (file.read_bytes(), b"a user's notes without a line end"):
            file.write_bytes(content)
            with pytest.raises(NerError) as caught:
                write(file, rows_of(*TEXTS))
            assert caught.value.place == file
            assert file.read_bytes() == content


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_mended_text_is_read_and_takes_the_place_of_its_error(tmp_path, monkeypatch, size):
    """Wherever the errors are, the file becomes what one run over the mended texts writes."""
    monkeypatch.setattr(batch_predict, "ROWS", size)
    good = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS[:6]]
    bad = [b"{\n", *good[1:3], b"\xff\n", b"{\n", good[5]]
    file, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    assert write(file, read_texts(bad, "in.jsonl")) == 3
    os.chmod(file, 0o600)
    extractor = Marked()
    mended = [good[0], *bad[1:4], *good[4:], *good[:2]]
    assert write(file, read_texts(mended, "in.jsonl"), extractor=extractor) == 1
    write(whole, read_texts(mended, "in.jsonl"))
    assert file.read_bytes() == whole.read_bytes()
    assert sorted(filter(None, extractor.asked)) == sorted([TEXTS[0], TEXTS[4], *TEXTS[:2]])
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert len(os.listdir(tmp_path)) == 4, "and nothing else is left"


def test_a_submission_is_gone_on_with_by_its_ids(tmp_path):
    def texts(*rows):
        return iter([TextRow(identity, text, "test.json") for identity, text in rows])

    file = tmp_path / "cluener_predict.json"
    write(file, texts(("07", "李明"), ("8", "王芳")), submission=True)
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [7, 8]
    assert write(file, texts(("07", "李明"), ("8", "王芳")), submission=True) == 0
    with pytest.raises(NerError) as caught:
        write(file, texts(("07", "李明"), ("9", "王芳")), submission=True)
    assert caught.value.place == f"{file}:2"


HOLD = """
import sys
from pathlib import Path
from pathlib import Path
from qwen_ner.inference.output_file import open_output
with open_output(Path(sys.argv[1]), {}):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_one_file(tmp_path):
    file = tmp_path / "out.jsonl"
    link = tmp_path / "link.jsonl"
    link.symlink_to(file)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        for path in (file, link):
            with pytest.raises(NerError) as caught, open_output(path, RECORD):
                pass
            assert caught.value.place == file
            assert "wait" in caught.value.remedy
        holder.stdin.close()
    assert write(file, rows_of("一")) == 0


def test_a_pipe_and_a_device_take_lines_as_they_come(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True) as reader:
        write(pipe, rows_of("一", "二"))
        assert [json.loads(line)["text"] for line in reader.stdout] == ["一", "二"]
    assert os.listdir(tmp_path) == ["pipe"]
    with pytest.raises(OSError, match="No space left"):
        write(Path("/dev/full"), rows_of("一"))


def test_standard_output_by_another_name_is_not_read_back(tmp_path):
    code = """
import sys; from pathlib import Path; from qwen_ner.inference.output_file import open_output
with open_output(Path("/dev/stdout"), {}) as out: print(out is sys.stdout)
"""
    for _ in range(2):
        with (tmp_path / "out.txt").open("a") as out:
            subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out.txt").read_text() == "True\n" * 2
    with open_output(None, {}) as out:
        assert out is sys.stdout
