"""On two nodes made on this machine: a result for each row, the results of `predict`, whatever dies amid the work."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from rows import EIGHT, ROOT
from warm_python import warm_python

ray = pytest.importorskip("ray")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from qwen_ner import cli  # noqa: E402
from qwen_ner.data.datasets import read_texts  # noqa: E402
from qwen_ner.entities import NerError  # noqa: E402
from qwen_ner.files import install_line  # noqa: E402
from qwen_ner.inference import ray as on_ray  # noqa: E402
from qwen_ner.inference.batch_predict import stream  # noqa: E402
from qwen_ner.inference.extractor import Extractor  # noqa: E402
from qwen_ner.inference.ray import extract_dataset, predict_files  # noqa: E402
from qwen_ner.inference.ray import files as ray_files  # noqa: E402

ROWS = 240


def test_what_a_system_writes_beside_its_files_is_not_read(tmp_path):
    for name in ("a.txt", "_SUCCESS", "date=1/b.txt", "date=1/_SUCCESS", "date=1/.b.txt.crc", "_temporary/0/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("三星")
    found = ray_files.find_files([str(tmp_path)])
    assert sorted(Path(file.name).name for file in found) == ["a.txt", "b.txt"]


def test_a_file_elsewhere_that_was_corrected_without_a_change_of_length_is_another(monkeypatch):
    """Each file system has names of its own for what changes."""
    import fsspec

    memory, told = fsspec.filesystem("memory"), []
    for text in ("三星在北京", "苹果在上海"):
        memory.pipe("/ner/texts.txt", text.encode())
        told += [ray_files.files_fingerprint(ray_files.find_files(["memory://ner/texts.txt"])) for _ in range(2)]
    info = memory.info("/ner/texts.txt")
    for look in range(2):  # what changes with each look says nothing
        more = {"url": f"http://signed/{look}", "accessTime": look, "ETag": "a", "Last-Modified": "b"}
        monkeypatch.setattr(type(memory), "info", lambda *_, more=more, **__: info | more)
        told.append(ray_files.files_fingerprint(ray_files.find_files(["memory://ner/texts.txt"])))
    monkeypatch.undo()
    assert told.pop() == told.pop() != told[-1]
    memory.rm("/ner/texts.txt")
    assert told[0] == told[1] != told[2] == told[3]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of two CPUs each; this process is connected to them."""
    if os.environ.get("QWEN_NER_RAY_TESTS") != "1":
        pytest.skip("takes minutes: QWEN_NER_RAY_TESTS=1")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        made.add_node(num_cpus=2)
        ray.init(made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(on_ray, "BLOCK", 4_000)
    monkeypatch.setattr(ray_files, "PART", 20)


@pytest.fixture(scope="module")
def extractor(trained):
    return Extractor.from_pretrained(trained["full"])


def sentences(count):
    return [f"{i}{EIGHT[i % 6].text}" for i in range(count)]


def write_texts(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def expected(extractor, path, tmp_path, name=None):
    """The lines that `predict` writes, by id."""
    out = tmp_path / "expected.jsonl"
    out.unlink(missing_ok=True)
    stream(extractor, read_texts(path.open("rb"), name or str(path)), out)
    return {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}


def written(folder):
    lines = [json.loads(line) for path in Path(folder).iterdir() for line in path.read_text().splitlines()]
    assert set(Counter(line["id"] for line in lines).values()) <= {1}
    return {line["id"]: line for line in lines}


def replicas():
    """The processes of this cluster that hold an extractor."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "_Replica" in " ".join(process.cmdline()):
                found.append(process)
    return found


def finished(folder):
    """The checkpoints of files that are whole."""
    place = Path(f"{folder}.job", "checkpoint")
    return [path for path in place.glob("*.parquet") if not path.name.endswith(".pending.parquet")]


def wait_for_results(folder):
    end = time.monotonic() + 300
    while not finished(folder) and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
def test_results_are_those_of_predict_though_an_actor_is_killed(cluster, trained, extractor, tmp_path):
    """A row each, none twice; called again it writes nothing more, and other settings are refused."""
    path, out = write_texts(tmp_path / "in.txt", sentences(ROWS)), tmp_path / "out"
    killed = []

    def kill():
        wait_for_results(out)
        killed.extend(replicas()[:1])
        for process in killed:
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert predict_files(str(trained["full"]), [str(path)], str(out), replicas=2) == (ROWS, 0)
    killer.join()
    assert killed
    assert written(out) == expected(extractor, path, tmp_path)

    parts = {path: path.read_bytes() for path in out.iterdir()}
    assert len(parts) > 2
    assert predict_files(str(trained["full"]), [str(path)], str(out)) == (ROWS, 0)
    assert {path: path.read_bytes() for path in out.iterdir()} == parts

    with pytest.raises(NerError) as caught:
        predict_files(str(trained["full"]), [str(path)], str(out), min_score=0.5)
    assert caught.value.place == str(out)
    assert f"{out}.job" in caught.value.remedy


@pytest.mark.slow
def test_a_job_whose_driver_was_killed_goes_on_with_what_is_finished(cluster, trained, extractor, tmp_path):
    path, out = write_texts(tmp_path / "in.txt", sentences(ROWS)), tmp_path / "out"
    code = f"""
from qwen_ner.inference import ray
from qwen_ner.inference.ray import files as ray_files
ray.BLOCK, ray_files.PART = 4_000, 20
ray.predict_files({str(trained["full"])!r}, [{str(path)!r}], {str(out)!r}, address={cluster.address!r}, replicas=1)
"""
    with warm_python.start([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as driver:
        wait_for_results(out)
        driver.kill()
    committed = {path.stem: (out / f"{path.stem}.jsonl").read_bytes() for path in finished(out)}
    assert 0 < len(committed) < ROWS // 20
    assert predict_files(str(trained["full"]), [str(path)], str(out)) == (ROWS, 0)
    assert written(out) == expected(extractor, path, tmp_path)
    assert {name: (out / f"{name}.jsonl").read_bytes() for name in committed} == committed


@pytest.mark.slow
def test_a_file_that_cannot_be_read_ends_the_job(cluster, trained, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_texts(folder / "a.txt", sentences(40))
    pq.write_table(pa.table({"text": sentences(1200)}), folder / "b.parquet", row_group_size=600)
    whole = (folder / "b.parquet").read_bytes()
    middle = len(whole) * 3 // 4  # in the second group of rows: the first look at the file finds nothing
    (folder / "b.parquet").write_bytes(whole[:middle] + bytes(200) + whole[middle + 200 :])
    with pytest.raises(NerError) as caught:
        predict_files(str(trained["full"]), [str(folder)], str(out))
    assert caught.value.place == str(folder / "b.parquet")
    assert "the same command goes on" in caught.value.remedy
    (folder / "b.parquet").write_bytes(whole)
    with pytest.raises(NerError) as caught:  # another input than that of these results
        predict_files(str(trained["full"]), [str(folder)], str(out))
    assert caught.value.place == str(out)


@pytest.mark.slow
def test_rows_of_all_formats_have_a_result_with_their_id_or_their_error(cluster, trained, extractor, tmp_path):
    """Of several files the ids begin with the name of the file, as those of `predict` do."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    text = EIGHT[0].text
    (folder / "a.jsonl").write_text(json.dumps({"id": "x", "text": text}) + '\n{"id": "y"}\n', encoding="utf-8")
    pq.write_table(pa.table({"id": [7, None, 9], "text": [text, text, None]}), folder / "deep" / "b.parquet")
    (folder / "c.txt").write_bytes(text.encode() + b"\n\n\xff\n")
    (folder / "_SUCCESS").touch()
    assert predict_files(str(trained["full"]), [str(folder)], str(out)) == (7, 3)
    entities = expected(extractor, write_texts(tmp_path / "one.txt", [text]), tmp_path)["1"]["entities"]
    a, b, c = (folder / name for name in ("a.jsonl", "deep/b.parquet", "c.txt"))
    found = written(out)
    assert {name for name, line in found.items() if line.get("entities") == entities} == {
        f"{a}:x", f"{b}:7", f"{b}:2", f"{c}:1",
    }  # fmt: skip
    assert {name: line["error"].split(": ")[0] for name, line in found.items() if "error" in line} == {
        f"{a}:y": f"{a}:2", f"{b}:9": f"{b}:3", f"{c}:3": f"{c}:3",
    }  # fmt: skip

    table = tmp_path / "table"
    assert predict_files(str(trained["full"]), [str(folder)], str(table), form="parquet") == (7, 3)
    rows = pq.read_table(table).to_pylist()
    assert {row["id"]: row["error"] for row in rows} == {name: line.get("error") for name, line in found.items()}
    assert all(row["entities"] is None for row in rows if row["error"])


@pytest.mark.slow
def test_a_dataset_of_ones_own_keeps_its_columns(cluster, trained, extractor):
    texts = [EIGHT[0].text, None, " ", EIGHT[1].text]
    rows = [{"page": i, "text": text, "error": "no page" if i == 3 else None} for i, text in enumerate(texts)]
    found = sorted(extract_dataset(ray.data.from_items(rows), trained["full"]).take_all(), key=lambda row: row["page"])
    (right,) = extractor.extract(texts[:1])
    assert [(e["label"], e["start"], e["end"]) for e in found[0]["entities"]] == [
        (e.label, e.start, e.end) for e in right
    ]
    assert [row["entities"] for row in found[1:]] == [None] * 3
    assert [row["text"] for row in found] == texts
    assert found[0]["error"] is None
    assert found[1]["error"]
    assert found[2]["error"]
    assert found[3]["error"] == "no page"


@pytest.mark.slow
def test_what_a_cluster_draws_is_what_predict_draws(cluster, trained, extractor, tmp_path, capsys):
    texts, out = [gold.text for gold in EIGHT], tmp_path / "out"
    path = write_texts(tmp_path / "in.txt", texts)
    command = [
        "predict",
        str(trained["full"]),
        str(path),
        "--engine",
        "ray",
        "--output",
        str(out),
        "--temperature",
        "1.5",
    ]
    cli.main([*command, "--samples", "3"])
    lines = [json.loads(line) for file in out.iterdir() for line in file.read_text(encoding="utf-8").splitlines()]
    found = {line["text"]: [(e["text"], e["start"], e["score"]) for e in line["entities"]] for line in lines}
    expected = extractor.extract(texts, samples=3, temperature=1.5)
    assert found == {
        text: [(e.text, e.start, pytest.approx(e.score, abs=1e-4)) for e in own]
        for text, own in zip(texts, expected, strict=True)
    }
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--samples", "5"])
    assert "samples 3, not 5" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["absent", "another", "version"])
def test_a_node_without_the_jobs_model_or_package_ends_the_job(cluster, trained, tmp_path, monkeypatch, fault):
    """Its disk is imitated by a model that changes between the check here and the actors' start."""
    path, model = write_texts(tmp_path / "in.txt", sentences(4)), str(trained["full"])
    if fault == "version":
        monkeypatch.setattr(on_ray, "version", lambda _: "9.9")
    elif fault == "another":
        monkeypatch.setattr(on_ray, "model_fingerprint", lambda _: "0" * 16)
    else:
        monkeypatch.setattr(on_ray, "_shared_place", lambda *_: "/nowhere/ner")
    with pytest.raises(NerError) as caught:
        predict_files(model, [str(path)], str(tmp_path / "out"))
    assert os.uname().nodename in caught.value.place
    assert "9.9" in caught.value.remedy if fault == "version" else "all nodes share" in caught.value.remedy


def test_what_is_wrong_is_said_before_a_cluster_is_asked(trained, tmp_path, monkeypatch):
    model, path, out = str(trained["full"]), write_texts(tmp_path / "in.txt", ["三星"]), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"sentence": ["三星"]}), tmp_path / "other.parquet")
    (tmp_path / "array.json").write_text('[\n{"text": "a"}]')
    for name in ("nowhere.txt", "empty", "torn.parquet", "other.parquet", "array.json"):
        with pytest.raises(NerError) as caught:
            predict_files(model, [str(tmp_path / name)], out)
        assert caught.value.place == str(tmp_path / name)
        assert caught.value.remedy
    for url in ("s4://bucket/in.txt",):
        with pytest.raises(NerError) as caught:
            predict_files(model, [url], out)
        assert caught.value.place == url
    with pytest.raises(NerError) as caught:
        predict_files(model, [str(path), str(path)], out)
    assert caught.value.value == [str(path)]
    full = tmp_path / "full"
    full.mkdir()
    write_texts(full / "notes.txt", ["mine"])
    with pytest.raises(NerError) as caught:
        predict_files(model, [str(path)], str(full))
    assert caught.value.place == str(full)


def test_no_cluster_at_the_address_and_no_ray_are_told_at_once(trained, tmp_path, monkeypatch):
    path, out = write_texts(tmp_path / "in.txt", ["三星"]), str(tmp_path / "out")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(NerError) as caught:
        predict_files(str(trained["full"]), [str(path)], out, address="127.0.0.1:1")
    assert caught.value.place == "127.0.0.1:1"
    assert "ray start" in caught.value.remedy
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NerError) as caught:
        predict_files(str(trained["full"]), [str(path)], out)
    assert install_line("ray") in caught.value.remedy


def test_the_dtype_is_that_of_the_command_and_of_the_job(trained, tmp_path, monkeypatch):
    model, path = str(trained["full"]), write_texts(tmp_path / "in.txt", ["三星"])
    loaded = on_ray._load(model, None, on_ray.model_fingerprint(trained["full"]), version("qwen_ner"), 0, "bfloat16")
    assert str(loaded.model.dtype) == "torch.bfloat16"
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    command = ["predict", model, str(path), "--engine", "ray", "--output", str(tmp_path / "out")]
    for dtype, said in (("bfloat16", "no Ray cluster"), ("auto", "dtype bfloat16, not auto")):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, "--address", "127.0.0.1:1", "--dtype", dtype])
        assert said in str(caught.value)


def test_the_output_of_a_job_is_no_file(trained, tmp_path):
    path, out = write_texts(tmp_path / "in.txt", ["三星"]), write_texts(tmp_path / "out.jsonl", ["mine"])
    with pytest.raises(NerError) as caught:
        predict_files(str(trained["full"]), [str(path)], str(out))
    assert caught.value.place == str(out)
    assert out.read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize(
    ("more", "place"),
    [
        (["--engine", "ray", "--output", "out", "--text", "三星"], "--engine ray"),
        (["in.txt", "--engine", "ray"], "--engine ray"),
        (["in.txt", "--engine", "ray", "--output", "out", "--format", "cluener"], "--format"),
        (["in.txt", "--replicas", "2"], "--replicas"),
        (["in.txt", "--address", "auto"], "--address"),
        (["in.txt", "--output", "s3://bucket/out"], "s3://bucket/out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(trained, capsys, more, place):
    with pytest.raises(SystemExit) as caught:
        cli.main(["predict", str(trained["full"]), *more])
    assert str(caught.value).startswith(f"error: {place}: ")


def test_the_commands_of_the_page_are_understood():
    page = (ROOT / "docs/en/guides/many_sentences.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    ours = [shlex.split(line)[1:] for line in commands if line.startswith("qwen-ner")]
    assert len(ours) == 2
    assert all(cli.build_parser().parse_args(words).engine == "ray" for words in ours)
