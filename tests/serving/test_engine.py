"""`serve` as a front: the model runs in a server that others run."""

import asyncio
import shutil

import pytest
from fake_vllm import FakeVllm
from rows import EIGHT

from qwen_ner.codec import entity_row
from qwen_ner.contract import NerConfig
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.sampling import Sampling

pytest.importorskip("fastapi")

from qwen_ner.serving.run import serve

TEXTS = [gold.text for gold in EIGHT]


@pytest.fixture
def engine():
    engine = FakeVllm.of("grammar")
    yield engine
    engine.close()


@pytest.fixture
def front(tiny, tmp_path, engine):
    """The front's extractor: a folder without weights, and the engine's address."""
    shutil.copytree(tiny, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    NerConfig(CLUENER, "找出实体", 48, (2,)).save(tmp_path / "model")
    return Extractor.from_pretrained(tmp_path / "model", backend=engine.url)


def test_a_front_answers_with_the_entities_of_the_engine(front, serving):
    expected = [[entity_row(entity) for entity in found] for found in front.extract(TEXTS)]

    async def ask():
        async with serving(front) as client:
            return (await client.post("/v1/extract", json={"texts": TEXTS})).json()

    results = asyncio.run(ask())["results"]
    assert [row["entities"] for row in results] == expected
    assert sum(map(len, expected)) > 8


def test_a_front_that_should_draw_does_not_start(front, engine, tmp_path):
    with pytest.raises(NerError) as caught:
        serve(str(tmp_path / "model"), backend=engine.url, port=0, sampling=Sampling(3, 0.7))
    assert (caught.value.place, caught.value.value) == ("temperature", 0.7)


def test_while_the_engine_is_gone_requests_fail_at_once_and_then_they_do_not(front, engine, serving):
    """A batch is not halved to find the text that is to blame: none is."""
    right, asked = engine.answer, len(engine.asked)
    engine.answer = lambda path, request: (0, "")

    async def ask():
        async with serving(front) as client:
            failed = await client.post("/v1/extract", json={"texts": TEXTS})
            tries = len(engine.asked) - asked
            engine.answer = right
            return failed, tries, await client.post("/v1/extract", json={"texts": TEXTS})

    failed, tries, answered = asyncio.run(ask())
    assert failed.status_code == 500
    assert "try again later" in failed.text
    assert engine.url not in failed.text, "an address of the operator's"
    assert tries <= len(TEXTS)
    assert answered.status_code == 200
    assert not any("error" in row for row in answered.json()["results"])
