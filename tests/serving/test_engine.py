"""`serve` as a front: the model runs in a server that others run."""

import asyncio
import json
import shutil
import threading

import pytest
from fake_vllm import FakeVllm
from rows import EIGHT

from qwen_ner.codec import entity_row
from qwen_ner.contract import NerConfig
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.sampling import Sampling

pytest.importorskip("fastapi")

from qwen_ner.serving.limits import Limits
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
    assert (failed.status_code, failed.headers["retry-after"]) == (503, "1")
    assert "try again later" in failed.text
    assert engine.url not in failed.text, "an address of the operator's"
    assert tries <= len(TEXTS)
    assert answered.status_code == 200
    assert not any("error" in row for row in answered.json()["results"])


def of(text, request):
    return bool(request) and text in json.dumps(request, ensure_ascii=False)


def test_an_engine_that_dies_amid_a_request_has_answered_what_it_has_answered(front, engine, serving):
    right, done = engine.answer, threading.Semaphore(0)

    def dying(path, request):
        if any(of(text, request) for text in TEXTS[:3]):
            done.release()
            return right(path, request)
        for _ in range(3):
            assert done.acquire(timeout=20)
        for _ in range(3):
            done.release()
        return 0, ""

    engine.answer = dying

    async def ask():
        async with serving(front) as client:
            return await client.post("/v1/extract", json={"texts": TEXTS})

    answered = asyncio.run(ask())
    assert answered.status_code == 200
    engine.answer = right
    expected = [[entity_row(entity) for entity in found] for found in front.extract(TEXTS[:3])]
    assert [row.get("entities") for row in answered.json()["results"]] == [*expected, *[None] * (len(TEXTS) - 3)]
    assert answered.json()["refused"] == len(TEXTS) - 3


def test_a_text_that_the_engine_is_slow_with_is_late_and_others_pass_it(front, engine, serving):
    right, go = engine.answer, threading.Event()
    engine.answer = lambda path, request: (not of(TEXTS[0], request) or go.wait(20)) and right(path, request)

    async def ask():
        async with serving(front, limits=Limits(deadline=1.0)) as client:
            late = asyncio.create_task(client.post("/v1/extract", json={"texts": TEXTS[:1]}))
            while client.app.state.service.batcher.waiting or not client.app.state.service.open:
                await asyncio.sleep(0.01)
            quick = await client.post("/v1/extract", json={"texts": TEXTS[1:2]})
            assert not late.done()
            late = await late
            go.set()
            return late, quick, await client.post("/v1/extract", json={"texts": TEXTS[:1]})

    late, quick, after = asyncio.run(ask())
    assert (late.status_code, quick.status_code, after.status_code) == (504, 200, 200)
    assert "try again later" in late.text
    assert [row["label"] for row in after.json()["results"][0]["entities"]]


@pytest.mark.parametrize(
    ("status", "said"), [(404, "--served-model-name"), (401, "VLLM_API_KEY"), (502, "log"), (503, "log"), (429, "log")]
)
def test_an_engine_that_no_longer_takes_requests_is_down_and_its_operator_reads_why(
    front, engine, serving, caplog, status, said
):
    engine.answer = lambda path, request: (status, {"error": {"message": "The model `toy` does not exist."}})
    asked = len(engine.asked)

    async def ask():
        async with serving(front) as client:
            return await client.post("/v1/extract", json={"texts": TEXTS})

    failed = asyncio.run(ask())
    assert failed.status_code == 503
    assert len(engine.asked) - asked <= len(TEXTS), "no text is tried again alone"
    assert said in caplog.text
    assert engine.url in caplog.text
    assert engine.url not in failed.text


def test_one_answer_that_is_none_costs_its_own_text_alone(front, engine, serving, caplog):
    right = engine.answer
    engine.answer = lambda path, request: (500, "a traceback") if of(TEXTS[2], request) else right(path, request)

    async def ask():
        async with serving(front) as client:
            whole = await client.post("/v1/extract", json={"texts": TEXTS})
            return whole, await client.post("/v1/extract", json={"texts": TEXTS[2:3]})

    whole, alone = asyncio.run(ask())
    assert [i for i, row in enumerate(whole.json()["results"]) if "error" in row] == [2]
    assert (whole.status_code, alone.status_code) == (200, 500)
    for answer in (whole, alone):
        assert engine.url not in answer.text
        assert "traceback" not in answer.text
    assert "a traceback" in caplog.text
