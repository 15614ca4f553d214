"""The files that the pages speak of, made in an empty folder when a command first needs them.

`outputs/quickstart` is a trained toy, `you/ner` a repository on a stand-in Hub, which has a toy for each model of Qwen's.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fake_hub import TOKEN, FakeHub
from rows import EIGHT, ROOT, example
from warm_python import warm_python

from qwen_ner import cli
from qwen_ner.codec import entity_row
from qwen_ner.data.datasets import read_dataset, write_jsonl
from qwen_ner.inference.annotated import prediction_lines
from qwen_ner.inference.extractor import Extractor

MEDICINE = [
    example(f"{n}号病人{when}吃了{drug},{symptom}{how}", ("drug", drug), ("symptom", symptom), id=str(n))
    for n, (when, drug, symptom, how) in enumerate(
        (when, drug, symptom, how)
        for when in ("早上", "晚上")
        for how in ("好多了", "没有好")
        for drug in ("阿司匹林", "布洛芬", "头孢")
        for symptom in ("头痛", "发烧", "咳嗽")
    )
]


class Cast:
    """The folder that a page is run in. Like a reader's, it is the checkout's: recipes/, benchmarks/ and so on are there."""

    def __init__(self, folder: Path, trained: Path, tiny: Path) -> None:
        self.folder, self.trained, self.tiny, self.made, self.server = folder, trained, tiny, set(), None
        self.hub = FakeHub({TOKEN: "you"})
        for name in ("recipes", "accelerate_configs", "benchmarks", "experiments", "tests", "docs", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)

    def close(self) -> None:
        self.hub.close()
        if self.server:
            self.server.terminate()
            self.server.wait()

    def provide(self, text: str) -> None:
        """Make what `text`, a command or code, names and is not there yet."""
        for name in re.findall(r"Qwen/Qwen[\w.-]+", text):
            if name not in self.hub.repos:
                files = {path.name: path.read_bytes() for path in self.tiny.iterdir()}
                self.hub.create(name, files=files)
        for name, make in MAKERS.items():
            missing = name not in self.hub.repos if name == "you/ner" else not (self.folder / name).exists()
            if missing and re.search(rf"(?<![\w/]){re.escape(name)}(?![\w.])", text):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                make(self)
                self.made.add(name)

    def clear(self, name: str) -> None:
        """Take away what was made only because a command named it: the command is about to write it."""
        if name in self.made:
            self.made.remove(name)
            self.hub.repos.pop(name, None)
            place = self.folder / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)

    def pretend_to_train(self, output_dir: str) -> None:
        """Put the toy where a training, which was checked and not run, would have put its model."""
        if not (self.folder / output_dir).exists():
            shutil.copytree(self.trained, self.folder / output_dir)

    def pretend_to_fold(self, output_dir: str, dataset: str) -> None:
        """The file of `qwen-ner folds`: of the sample what the toy says of some rows, and a sure model of one; of other
        data that all is right."""
        if (self.folder / output_dir).exists():
            return
        if dataset in ("cluener", "sample"):
            *some, other = read_dataset("sample", "train")[:4]
            sure = [{"label": "name", "start": 0, "end": 1, "score": 0.99}]
            doubted = [{**entity_row(e), "score": 0.01} for e in other.entities]
            lines = [
                *prediction_lines(Extractor.from_pretrained(self.trained), some),
                {"id": other.id, "text": other.text, "entities": sure, "annotated": doubted},
            ]
        else:
            lines = (
                {"id": row.id, "text": row.text, "entities": [{"label": e.label, "start": e.start, "end": e.end} for e in row.entities]}
                for row in read_dataset(dataset, "train")
            )  # fmt: skip
        (self.folder / output_dir).mkdir(parents=True)
        written = "".join(json.dumps(row) + "\n" for row in lines)
        (self.folder / output_dir / "folds.jsonl").write_text(written, encoding="utf-8")

    def url(self) -> str:
        """The address of a server of the toy."""
        if self.server is None:
            command = [sys.executable, "-m", "qwen_ner", "serve", self.trained, "--port", "0"]
            self.server = warm_python.start(command, stderr=subprocess.PIPE)
            found = (re.search(r"http://127\.0\.0\.1:\d+", line) for line in self.server.stderr)
            self._url = next(match[0] for match in found if match)
        return self._url


def _write_sheet(cast: Cast) -> None:
    from openpyxl import Workbook

    book = Workbook()
    book.active.append(["text", "label", "entity", "start", "end"])
    for row in MEDICINE:
        for entity in row.entities:
            book.active.append([row.text, entity.label, entity.text, entity.start, entity.end])
    book.save(cast.folder / "data" / "annotations.xlsx")


def _write_medicine(cast: Cast) -> None:
    write_jsonl(cast.folder / "data" / "medicine" / "train.jsonl", MEDICINE[:28])
    write_jsonl(cast.folder / "data" / "medicine" / "dev.jsonl", MEDICINE[28:])


def _write_test(cast: Cast) -> None:
    rows = enumerate(read_dataset("sample", "dev")[:2], 1)
    text = "".join(json.dumps({"id": number, "text": row.text}) + "\n" for number, row in rows)
    (cast.folder / "test.json").write_text(text, encoding="utf-8")


def _write_recipe(cast: Cast) -> None:
    cast.provide("data/medicine")
    cli.main(["init", "data/medicine"])


def _push(cast: Cast) -> None:
    cli.main(["push", str(cast.trained), "you/ner"])


def _export(cast: Cast) -> None:
    cli.main(["export", str(cast.trained), "outputs/merged", "--merge"])


def _write_text(name: str, text: str):
    return lambda cast: (cast.folder / name).write_text(text, encoding="utf-8")


MAKERS = {
    "outputs/quickstart": lambda cast: shutil.copytree(cast.trained, cast.folder / "outputs" / "quickstart"),
    "outputs/merged": _export,
    "data/medicine": _write_medicine,
    "data/annotations.xlsx": _write_sheet,
    "data/finance/train.bio": _write_text("data/finance/train.bio", "平\tB-bank\n安\tI-bank\n好\tO\n"),
    "recipe.yaml": _write_recipe,
    "exported.jsonl": lambda cast: write_jsonl(cast.folder / "exported.jsonl", MEDICINE[:3]),
    "reviews.txt": _write_text("reviews.txt", "".join(f"{row.text}\n" for row in EIGHT[:3])),
    "test.json": _write_test,
    "you/ner": _push,
}
