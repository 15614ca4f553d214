"""Laws of reading CLUENER: inclusive ends become half-open, one source is taken, a download is whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qwen_ner.codec import Codec
from qwen_ner.data.datasets import read_dataset, read_texts
from qwen_ner.data.formats import cluener
from qwen_ner.data.formats.cluener import download, has_split, read
from qwen_ner.data.formats.errors import DataError
from qwen_ner.entities import CLUENER, Entity, Example, LabelSet, NerError

ROWS: dict[str, list[dict[str, object]]] = {
    "train": [
        {
            "text": "周小舟在渝北图书馆",
            "label": {"organization": {"渝北图书馆": [[4, 8]]}, "name": {"周小舟": [[0, 2]]}},
        },
        {"text": "渝北到渝北", "label": {"address": {"渝北": [[0, 1], [3, 4]]}}},
    ],
    "dev": [{"text": "周", "label": {"name": {"周": [[0, 0]]}}}],
    "test": [{"id": 5, "text": "渝北的雨"}, {"id": 6, "text": "周小舟的伞"}],
}


def content(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def zip_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return held.getvalue()


ZIP = zip_of(
    {f"{split}.json": content(rows) for split, rows in ROWS.items()}
    | {"cluener_predict.json": random.Random(0).randbytes(200_000)}
)
ZIP_SHA256 = hashlib.sha256(ZIP).hexdigest()


@pytest.fixture(autouse=True)
def no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what a test gives: an empty cache, no folder named, and an address that nobody answers at."""
    monkeypatch.delenv("QWEN_NER_DATA", raising=False)
    monkeypatch.setenv("QWEN_NER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(cluener, "URL", "http://127.0.0.1:9/cluener_public.zip")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for split, rows in ROWS.items():
        (tmp_path / "data" / f"{split}.json").write_bytes(content(rows))
    return tmp_path / "data"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "cluener_public.zip").write_bytes(ZIP)
    return tmp_path / "zipped" / "cluener_public.zip"


def read_split(split: str, data_dir: str | Path | None = None) -> list[Example]:
    return read_dataset("cluener", split, data_dir=data_dir)


def test_inclusive_ends_become_half_open(folder):
    first, second = read_split("train", folder)
    assert first.entities == (Entity("name", "周小舟", 0, 3), Entity("organization", "渝北图书馆", 4, 9))
    assert [entity.span for entity in second.entities] == [(0, 2), (3, 5)]
    assert [(e.id, e.source) for e in (first, second)] == [("1", "train.json:1"), ("2", "train.json:2")]
    assert read_split("dev", folder)[0].entities == (Entity("name", "周", 0, 1),)


def test_test_rows_have_their_ids_and_no_entities(folder):
    assert [(e.id, e.text, e.entities) for e in read_split("test", folder)] == [
        ("5", "渝北的雨", ()),
        ("6", "周小舟的伞", ()),
    ]


def test_a_test_set_with_labels_has_them_on_every_row(folder):
    labelled = ROWS["train"][0]
    (folder / "test.json").write_bytes(content([labelled, labelled]))
    assert all(len(example.entities) == 2 for example in read_split("test", folder))
    for rows, fault in (
        ([labelled, {"text": "雨"}], 'lacks "label"'),
        ([{"text": "雨"}, labelled], "the first row has none"),
    ):
        (folder / "test.json").write_bytes(content(rows))
        with pytest.raises(DataError) as error:
            read_split("test", folder)
        (told,) = error.value.faults
        assert told.startswith("test.json:2: ")
        assert fault in told


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        (
            {"name": {"周小舟": [[0, 1]]}},
            'the span [0, 1] holds "周小", the surface is "周小舟"',
        ),
        ({"address": {"渝北": [[0, 1]]}}, 'the surface is "渝北"; it stands at [4, 5]. CLUENER'),
        ({"name": {"周小舟": [[0, 3]]}}, "inclusive; if this file's are not, name it .jsonl"),
        ({"name": {"周小舟": [[0, 9]]}}, "leaves the text, which has 9 characters"),
        ({"name": {"周小舟": [[-1, 1]]}}, "the span [-1, 1] of name"),
        ({"name": {"周小舟": [[False, 2]]}}, "the span [false, 2] of name"),
        ({"nmae": {"周小舟": [[0, 2]]}}, 'did you mean "name"?'),
        (None, '"label" is null'),
    ],
)
def test_a_fault_in_the_file_is_told_with_its_line(folder, label, fault):
    bad = {"text": "周小舟在渝北图书馆", "label": label}
    (folder / "train.json").write_bytes(content([*ROWS["train"], bad]))
    with pytest.raises(DataError) as error:
        list(read(folder / "train.json", CLUENER))
    (told,) = error.value.faults
    assert told.startswith("train.json:3: ")
    assert fault in told


def test_rows_of_train_and_dev_need_a_label(folder):
    for split in ("train", "dev"):
        (folder / f"{split}.json").write_bytes(content(ROWS["test"]))
        with pytest.raises(DataError) as error:
            read_split(split, folder)
        assert error.value.place == str(folder / f"{split}.json")
        assert [fault.split(": ")[0] for fault in error.value.faults] == [f"{split}.json:1", f"{split}.json:2"]
        assert all('lacks "label"' in fault for fault in error.value.faults)


def test_entities_in_half_open_form_are_not_for_this_dialect(folder):
    (folder / "dev.json").write_bytes(content([{"text": "周", "entities": []}]))
    with pytest.raises(DataError, match='lacks "label"'):
        read_split("dev", folder)


def test_another_label_set_may_be_asked_for_or_none(folder):
    with pytest.raises(DataError) as error:
        list(read(folder / "train.json", LabelSet.of(["address"])))
    assert len(error.value.faults) == 2
    assert list(read(folder / "train.json")) == list(read(folder / "train.json", CLUENER))


def test_folder_folder_with_zip_and_zip_give_the_same(folder, archive, monkeypatch):
    for split in ROWS:
        wanted = read_split(split, folder)
        assert read_split(split, archive) == read_split(split, str(archive.parent)) == wanted
        monkeypatch.setenv("QWEN_NER_DATA", str(archive))
        assert read_split(split) == wanted
        monkeypatch.delenv("QWEN_NER_DATA")
        assert has_split(split, folder)
        assert has_split(split, archive)
    assert not has_split("validation", folder)
    assert not has_split("validation", archive)


def test_the_argument_goes_before_the_environment_and_a_wrong_one_is_no_reason_to_look_further(
    folder, archive, monkeypatch, tmp_path
):
    monkeypatch.setenv("QWEN_NER_DATA", str(tmp_path / "gone"))
    assert len(read_split("train", folder)) == 2
    with pytest.raises(NerError) as error:
        read_split("train")
    assert (error.value.place, error.value.value) == ("QWEN_NER_DATA", str(tmp_path / "gone"))
    monkeypatch.setenv("QWEN_NER_DATA", str(folder))
    for call in (read_split, has_split):
        with pytest.raises(NerError) as error:
            call("train", tmp_path / "gone")
        assert error.value.place == "data_dir"


def test_what_was_looked_for_is_named(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NerError, match=r"dev\.json nor a cluener_public\.zip") as error:
        read_split("dev", tmp_path / "empty")
    assert error.value.place == tmp_path / "empty"
    assert not has_split("dev", tmp_path / "empty")
    with pytest.raises(NerError) as error:
        read_dataset("cluener", "validation", data_dir=folder)
    assert (error.value.place, error.value.value) == ("cluener", "validation")
    assert "dev (the validation split)" in error.value.remedy


def test_a_zip_without_the_member_at_its_top_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "other.zip"
    path.write_bytes(zip_of({"cluener/train.json": content(ROWS["train"])}))
    with pytest.raises(NerError, match=r"train\.json") as error:
        read_split("train", path)
    assert error.value.place == path
    for broken in (b"no zip", ZIP[:-300]):
        path.write_bytes(broken)
        with pytest.raises(NerError, match="as a zip") as error:
            read_split("train", path)
        assert error.value.place == path


def test_a_member_with_damaged_bytes_is_refused(tmp_path):
    damaged = bytearray(ZIP)
    damaged[60:70] = bytes(10)
    (tmp_path / "damaged.zip").write_bytes(damaged)
    with pytest.raises(NerError, match="as a zip") as error:
        read_split("train", tmp_path / "damaged.zip")
    assert error.value.place == tmp_path / "damaged.zip"


class Server:
    """A web server on the loopback with one file. `cut` ends a reply after so many bytes."""

    def __init__(self, body: bytes) -> None:
        self.body, self.cut, self.requests, self.redirect = body, len(body), 0, ""
        server = self

        class Reply(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests += 1
                self.send_response(302 if server.redirect else 200)
                self.send_header("Content-Length", str(len(server.body)))
                if server.redirect:
                    self.send_header("Location", server.redirect)
                self.end_headers()
                self.wfile.write(server.body[: server.cut])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
        self.url = f"http://127.0.0.1:{self.http.server_port}/cluener_public.zip"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(ZIP)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(cluener, "URL", server.url)
    monkeypatch.setattr(cluener, "SHA256", ZIP_SHA256)
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def test_without_a_local_source_the_zip_is_fetched_once(server, tmp_path, folder, capfd):
    assert has_split("train")
    assert server.requests == 0
    for split in ROWS:
        assert read_split(split) == read_split(split, folder)
    assert server.requests == 1
    assert (tmp_path / "cache" / "cluener_public.zip").read_bytes() == ZIP
    assert os.listdir(tmp_path / "cache") == ["cluener_public.zip"]
    assert capfd.readouterr() == ("", "")


def test_a_local_source_is_never_supplemented_by_a_download(server, tmp_path, folder, monkeypatch):
    (folder / "dev.json").unlink()
    monkeypatch.setenv("QWEN_NER_DATA", str(folder))
    for data_dir in (folder, None):
        with pytest.raises(NerError) as error:
            read_split("dev", data_dir)
        assert error.value.place == folder
    assert server.requests == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("fault", ["cut", "other bytes", "file redirect"])
def test_what_is_not_the_file_is_refused_and_leaves_nothing(server, tmp_path, fault):
    (tmp_path / "secret.zip").write_bytes(ZIP)
    if fault == "cut":
        server.cut = len(ZIP) // 3
    elif fault == "other bytes":
        server.body = ZIP[:-1] + b"?"
    else:
        server.redirect = (tmp_path / "secret.zip").as_uri()
    with pytest.raises(NerError) as error:
        read_split("train")
    assert server.url in error.value.what
    assert error.value.place == tmp_path / "cache" / "cluener_public.zip"
    assert "QWEN_NER_DATA" in error.value.remedy
    assert os.listdir(tmp_path / "cache") == []
    server.cut, server.body, server.redirect = len(ZIP), ZIP, ""
    assert len(read_split("train")) == 2


def test_a_damaged_cache_is_fetched_again(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cluener_public.zip").write_bytes(b"damaged")
    assert len(read_split("train")) == 2
    assert server.requests == 1


def test_offline_or_without_a_place_to_write_the_way_around_is_named(server, tmp_path, monkeypatch):
    with pytest.raises(NerError) as error:
        download("http://127.0.0.1:9/x.zip", tmp_path / "x.zip", ZIP_SHA256)
    assert error.value.place == tmp_path / "x.zip"
    assert "data_dir or QWEN_NER_DATA" in error.value.remedy
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QWEN_NER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NerError) as error:
        read_split("train")
    assert error.value.place == tmp_path / "file" / "cache" / "cluener_public.zip"
    assert "QWEN_NER_DATA" in error.value.remedy


def test_threads_that_start_together_all_read_the_whole_file(server, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: len(read_split("train")), range(4))) == [2] * 4
    assert os.listdir(tmp_path / "cache") == ["cluener_public.zip"]


DATA = os.environ.get("QWEN_NER_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="QWEN_NER_DATA does not name a folder with CLUENER2020")


@needs_data
@pytest.mark.parametrize(("split", "rows", "mentions", "surfaces"), [
    ("train", 10_748, 23_971, 23_338),
    ("dev", 1_343, 3_072, 2_982),
    ("test", 1_345, 0, 0),
])  # fmt: skip
def test_the_real_splits_have_their_published_counts(split, rows, mentions, surfaces):
    examples = read_split(split, DATA)
    assert len(examples) == rows
    assert sum(len(example.entities) for example in examples) == mentions
    assert sum(len(example.surfaces) for example in examples) == surfaces
    first = 0 if split == "test" else 1  # test.json has ids of its own
    assert [example.id for example in examples] == [str(number) for number in range(first, first + rows)]


@needs_data
def test_every_real_target_decodes_to_what_it_was_made_from():
    codec = Codec(CLUENER)
    for example in [*read_split("train", DATA), *read_split("dev", DATA)]:
        decoded = codec.decode(example.text, codec.encode(example))
        assert decoded.problems == ()
        assert set(decoded.surfaces) == set(example.surfaces)
        assert {(e.label, e.text) for e in decoded.entities} == set(example.surfaces)


@needs_data
def test_the_real_zip_is_the_pinned_one_and_equals_the_folder(monkeypatch):
    archive = Path(DATA) / "cluener_public.zip"
    if not archive.is_file():
        pytest.skip("QWEN_NER_DATA holds no cluener_public.zip")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == cluener.SHA256
    for split in ("train", "dev", "test"):
        assert read_split(split, archive) == read_split(split, DATA)


def test_rows_without_ids_are_numbered_as_texts_to_predict_are(tmp_path: Path) -> None:
    """So that `evaluate` finds the rows of what `predict` wrote of the same file."""
    path = tmp_path / "dev.json"
    path.write_bytes(content(ROWS["train"]) + b"\n" + content(ROWS["dev"]))
    again = tmp_path / "again.json"
    cluener.write(again, read(path))
    for file in (path, again):
        texts = read_texts(file.read_bytes().splitlines(keepends=True), file.name)
        assert [(row.id, row.text) for row in read(file)] == [(row.id, row.text) for row in texts]
