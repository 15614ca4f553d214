import asyncio
import json
from dataclasses import asdict
from itertools import pairwise

import pytest
from rows import EIGHT

from qwen_ner.codec import Decoded, entity_row
from qwen_ner.entities import Entity, LabelSet
from qwen_ner.inference.backends.base import EngineDown

pytest.importorskip("fastapi")

from qwen_ner.inference.sampling import Sampling
from qwen_ner.serving.limits import Limits
from qwen_ner.serving.schemas import ExtractRequest, ExtractResponse, ModelInfo

TEXTS = [gold.text for gold in EIGHT]
DOCUMENT = "".join(TEXTS) * 3
NDJSON = {"accept": "application/x-ndjson"}


async def asked(client, texts, **more):
    return await client.post("/v1/extract", json={"texts": texts, **more})


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not within 10 s")


def rows_of(entities):
    return [entity_row(entity) for entity in entities]


def test_the_answer_equals_extract(extractor, serving):
    texts = [*TEXTS, DOCUMENT, "", " \n"]
    expected = [rows_of(found) for found in extractor.extract(texts)]

    async def main():
        async with serving(extractor) as client:
            plain = await asked(client, texts)
            lines = await client.post("/v1/extract", json={"texts": texts}, headers=NDJSON)
            return plain, lines

    plain, lines = asyncio.run(main())
    assert plain.status_code == lines.status_code == 200
    answer = plain.json()
    assert [row["entities"] for row in answer["results"]] == expected
    assert sum(map(len, expected)) > 20
    assert answer["problems"] == {}
    assert answer["refused"] == 0
    ExtractResponse.model_validate(answer)
    streamed = [json.loads(line) for line in lines.text.splitlines()]
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert streamed == [{"index": i} | row for i, row in enumerate(answer["results"])]


def test_a_server_that_draws_answers_what_extract_draws_and_says_so(extractor, hold, serving):
    sampling, budget = Sampling(4, 0.05, 0.9), 800
    texts = [*TEXTS, DOCUMENT]
    hold.go.set()
    expected = [rows_of(found) for found in extractor.extract(texts, **asdict(sampling))]
    few = [rows_of(found) for found in extractor.extract(TEXTS, min_score=0.25, **asdict(sampling))]
    hold.asked.clear()

    async def main():
        async with serving(extractor, sampling=sampling, limits=Limits(batch_tokens=budget)) as client:
            told = (await client.get("/v1/model")).json()
            alone = [await asked(client, [text]) for text in texts[:2]]
            low = await asked(client, TEXTS, min_score=0.25)
            return told, alone, await asked(client, texts), await asked(client, texts, min_score=0.8), low

    told, alone, all_of, sure, low = asyncio.run(main())
    assert [row["entities"] for row in low.json()["results"]] == few
    assert {entity["score"] for own in few for entity in own} == {0.25, 0.5, 0.75, 1.0}
    assert told["sampling"] == {"samples": 4, "temperature": 0.05, "top_p": 0.9}
    found = [row["entities"] for row in all_of.json()["results"]]
    assert found == expected
    assert [answer.json()["results"][0]["entities"] for answer in alone] == expected[:2]
    assert {entity["score"] for own in found for entity in own} == {0.5, 0.75, 1.0}
    kept = [[entity for entity in own if entity["score"] >= 0.8] for own in expected]
    assert [row["entities"] for row in sure.json()["results"]] == kept
    sizes = [sum(4 * (12 + 4 + len(text)) for text in call) for call in hold.asked]
    assert budget / 2 < max(sizes) <= budget, "a batch has room for four answers to each text"


def test_label_and_score_filters_are_per_request(extractor, serving):
    """Three requests in one batch."""
    texts = [*TEXTS, DOCUMENT]
    found = extractor.extract(texts)
    label = next(entities for entities in found if entities)[0].label
    ranked = sorted(entity.score for entities in found for entity in entities)
    low, high = max(pairwise(ranked), key=lambda pair: pair[1] - pair[0])
    middle = (low + high) / 2

    async def main():
        async with serving(extractor) as client:
            wanted = ({}, {"labels": [label]}, {"min_score": middle})
            return await asyncio.gather(*(asked(client, texts, **more) for more in wanted))

    def spans(keep):
        return [[(e.label, e.start, e.end) for e in entities if keep(e)] for entities in found]

    everything, some, sure = (
        [[(e["label"], e["start"], e["end"]) for e in row["entities"]] for row in one.json()["results"]]
        for one in asyncio.run(main())
    )
    assert everything == spans(lambda entity: True)
    assert some == spans(lambda entity: entity.label == label)
    assert sure == spans(lambda entity: entity.score >= middle)
    assert 0 < sum(map(len, sure)) < sum(map(len, everything)) > sum(map(len, some)) > 0


def test_an_invalid_text_gets_an_error_and_the_others_their_entities(extractor, serving):
    extractor.config = type(extractor.config)(extractor.config.labels, "找出实体", 12, (2, 0))  # no windows
    texts = ["三星在北京", 7, None, ["a"], "half \ud83d", "很" * 5000, "三星\x00在北京"]
    body = json.dumps({"texts": texts})

    async def main():
        async with serving(extractor) as client:
            headers = {"content-type": "application/json"}
            return await client.post("/v1/extract", content=body, headers=headers), await asked(client, texts[:1])

    answer, alone = (one.json() for one in asyncio.run(main()))
    assert answer["refused"] == 5
    first, number, null, array, half, long, nul = answer["results"]
    assert first == alone["results"][0]
    assert first["entities"]
    assert nul["entities"]
    refused = (number, "a number"), (null, "null"), (array, "an array"), (half, "character 5"), (long, "4084")
    for row, said in refused:
        assert list(row) == ["error"]
        assert said in row["error"]


def test_a_text_that_crashes_the_model_does_not_affect_the_others(extractor, serving, caplog):
    serve = extractor.serve

    def failing(feed, **options):
        def take(tokens):
            given = feed(tokens)
            if any("😀" in part.text for part in given):
                raise RuntimeError("CUDA error: device-side assert triggered")
            return given

        serve(take, **options)

    extractor.serve = failing
    document = "三星" * 40 + "😀" + "北京" * 60

    async def main():
        async with serving(extractor) as client:
            return await asyncio.gather(
                asked(client, TEXTS), asked(client, [document, "北京"]), asked(client, ["上海"])
            )

    first, second, third = (one.json() for one in asyncio.run(main()))
    failed = {"error": "the model failed on this text (RuntimeError); see the server's log"}
    assert [i for i, row in enumerate(first["results"]) if row == failed] == [6]
    assert second["results"][0] == failed
    assert "entities" in second["results"][1]
    assert third["refused"] == 0
    assert "device-side assert" in caplog.text


@pytest.mark.parametrize("others", [[], [""], [7], ["", 7, "三" * 2000]])
def test_texts_that_no_engine_is_asked_for_do_not_hide_that_it_is_down(extractor, serving, monkeypatch, others):
    """A client that tries again on 503 would keep errors for texts that are well."""

    def down(feed, **_):
        feed(300)
        raise EngineDown("no answer", place="http://localhost:1/v1")

    monkeypatch.setattr(extractor, "serve", down)

    async def main():
        async with serving(extractor) as client:
            return await asked(client, ["三星", "北京", *others])

    answer = asyncio.run(main())
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_entities_without_scores_are_not_passed_off_as_above_min_score(extractor, serving, monkeypatch):
    """As of a vLLM server without our processor."""

    def unscored(feed, **_):
        while given := feed(300):
            for one in given:
                found = [Entity("company", "三星", 0, 2)] if one.text.startswith("三星") else []
                one.answer(Decoded(tuple(found), tuple((e.label, e.text) for e in found)), 1)

    monkeypatch.setattr(extractor, "serve", unscored)

    async def main():
        async with serving(extractor) as client:
            return [
                await client.post("/v1/extract", json={"texts": texts} | more)
                for texts in (["三星"], ["三星", "北京"])
                for more in ({}, {"min_score": 0}, {"min_score": 0.9})
            ]

    free, zero, refused, *_, mixed = asyncio.run(main())
    assert [answer.status_code for answer in (free, zero, refused, mixed)] == [200, 200, 422, 200]
    assert "leave min_score out" in refused.json()["error"]
    assert ["error" in result for result in mixed.json()["results"]] == [True, False]


def test_a_model_that_reads_nothing_any_more_is_not_alive_until_it_does(extractor, serving, monkeypatch):
    """As of a CUDA error, which stays; one text that crashes the model is not reason enough to restart."""
    serve, read, states = extractor.serve, extractor.read, []

    def failing(feed, **options):
        def take(tokens):
            if (given := feed(tokens)) and states[-1] in ("fails on a text", "fails"):
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return given

        serve(take, **options)

    def read_or_fail(texts, **options):
        if states[-1] == "fails":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return read(texts, **options)

    monkeypatch.setattr(extractor, "serve", failing)
    monkeypatch.setattr(extractor, "read", read_or_fail)

    async def main():
        seen = []
        async with serving(extractor) as client:
            for state in ("works", "fails on a text", "fails", "fails on a text", "fails", "works"):
                states.append(state)
                answer = await asked(client, ["三星"])
                seen.append((answer.status_code, (await client.get("/healthz")).status_code))
        return seen

    assert asyncio.run(main()) == [(200, 200), (500, 200), (500, 503), (500, 200), (500, 503), (200, 200)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_never_leaves(extractor, serving, score):
    """Of damaged weights, say. JSON has no NaN: JavaScript and most other readers refuse it."""
    decode = extractor._decode

    def broken(text, *rest):
        return Decoded((Entity("company", "三星", 0, 2, score),)) if "三星" in text else decode(text, *rest)

    extractor._decode = broken

    async def main():
        async with serving(extractor) as client:
            lines = await client.post("/v1/extract", json={"texts": ["三星", "北京"]}, headers=NDJSON)
            return await asked(client, ["三星", "三星在北京"]), await asked(client, ["三星", "北京"]), lines

    failed, half, lines = asyncio.run(main())
    assert failed.status_code == 500
    assert "not finite" in failed.json()["error"]
    assert half.status_code == 200
    for rows in (half.json()["results"], [json.loads(line) for line in lines.text.splitlines()]):
        assert ["not finite" in row.get("error", "") for row in rows] == [True, False]


LIMITS = Limits(max_texts=20, max_characters=400)
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"", JSON, 422, "not valid JSON"),
        (b"{", JSON, 422, "not valid JSON"),
        (b'{"texts": ["\xff"]}', JSON, 422, "can't decode byte 0xff"),
        (b"[1]", JSON, 422, "valid dictionary"),
        (b"{}", JSON, 422, "texts: Field required"),
        (b'{"texts": "a"}', JSON, 422, "valid list"),
        (b'{"texts": [], "texts": []}', JSON, 422, '"texts" appears twice'),
        (b'{"texts": [], "more": 1}', JSON, 422, "more: "),
        (b'{"texts": [], "\\ud800": 1}', JSON, 422, "valid string"),
        (b'{"texts": [], "min_score": NaN}', JSON, 422, "NaN"),
        (b'{"texts": [], "min_score": 1e999}', JSON, 422, "min_score: "),
        (b'{"texts": [], "min_score": ' + b"9" * 4000 + b"}", JSON, 422, "min_score"),
        (b'{"texts": [], "min_score": ' + b"9" * 5000 + b"}", JSON, 422, "JSON"),
        (b'{"texts": [], "min_score": "0.5"}', JSON, 422, "min_score: "),
        (b'{"texts": [], "labels": ["drug"]}', JSON, 422, "'drug'; the model has address, book"),
        (b'{"texts": [], "labels": ["\\ud800"]}', JSON, 422, "unknown label"),
        (b'{"texts": [], "labels": []}', JSON, 422, "labels"),
        (b"[" * 4000, JSON, 422, "not valid JSON"),
        (json.dumps({"texts": ["a"] * 21}).encode(), JSON, 413, "limit of 20"),
        (json.dumps({"texts": ["a" * 401]}).encode(), JSON, 413, "limit of 400"),
        (b" " * (LIMITS.body + 1), JSON, 413, f"{LIMITS.body:,} bytes"),
        (b'{"texts": []}', {}, 415, "send application/json"),
        (b'{"texts": []}', {"content-type": "text/plain"}, 415, "text/plain"),
        (b'{"texts": []}', JSON | {"content-encoding": "gzip"}, 415, "compressed"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_invalid_request_is_refused_with_the_reason(extractor, serving, body, headers, status, said):
    async def chunks():
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]

    async def main():
        async with serving(extractor, limits=LIMITS) as client:
            return [await client.post("/v1/extract", content=content, headers=headers) for content in (body, chunks())]

    for answer in asyncio.run(main()):
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]


def test_a_request_at_the_limits_is_accepted(extractor, serving):
    escaped = "".join(f"\\u{ord(half):04x}" for half in "\ud83d\ude00") * 400

    async def main():
        async with serving(extractor, limits=LIMITS) as client:
            many = await asked(client, ["字" * 20] * 20)
            longest = await client.post("/v1/extract", content=f'{{"texts": ["{escaped}"]}}', headers=JSON)
            nothing = await asked(client, [])
            return many, longest, nothing

    many, longest, nothing = asyncio.run(main())
    assert (many.status_code, longest.status_code) == (200, 200)
    assert nothing.json() == {"results": [], "problems": {}, "refused": 0}


def test_deeply_nested_values_do_no_harm(extractor, serving):
    body = b'{"texts": [' + b"[" * 900 + b"]" * 900 + b"]}"

    async def main():
        async with serving(extractor) as client:
            return await client.post("/v1/extract", content=body, headers=JSON)

    answer = asyncio.run(main())
    assert answer.status_code in (200, 422)


def test_unknown_paths_and_methods_get_404_and_405(extractor, serving):
    async def main():
        async with serving(extractor) as client:
            return await client.get("/nowhere"), await client.get("/v1/extract"), await client.post("/healthz")

    nowhere, get, post = asyncio.run(main())
    assert (nowhere.status_code, get.status_code, post.status_code) == (404, 405, 405)
    assert nowhere.json() == {"error": "Not Found"}
    assert get.headers["allow"] == "POST"


def test_a_full_queue_says_when_to_retry(extractor, hold, serving):
    async def main():
        async with serving(extractor, limits=Limits(max_waiting=400)) as client:
            first = asyncio.create_task(asked(client, TEXTS[:1]))
            await until(lambda: hold.asked)
            waiting = asyncio.create_task(asked(client, TEXTS))
            await until(lambda: client.app.state.service.batcher.tokens)
            full = await asked(client, TEXTS)
            hold.go.set()
            answers = await asyncio.gather(first, waiting)
            again = await asked(client, TEXTS)
            return full, [*answers, again]

    full, answers = asyncio.run(main())
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert "limit 400" in full.json()["error"]
    assert [answer.status_code for answer in answers] == [200, 200, 200]


def test_no_more_requests_wait_than_connections_are_held_for(extractor, hold, serving):
    async def main():
        async with serving(extractor, limits=Limits(max_requests=3)) as client:
            tasks = [asyncio.create_task(asked(client, TEXTS[:1]))]
            await until(lambda: hold.asked)
            tasks += [asyncio.create_task(asked(client, TEXTS[:1])) for _ in range(3)]
            await until(lambda: len(client.app.state.service.batcher.waiting) == 3)
            full, nothing = await asked(client, TEXTS[:1]), await asked(client, ["", " "])
            hold.go.set()
            return full, [nothing, *await asyncio.gather(*tasks)]

    full, answers = asyncio.run(main())
    assert full.status_code == 429
    assert int(full.headers["retry-after"]) >= 1
    assert "3 requests" in full.json()["error"]
    assert [answer.status_code for answer in answers] == [200] * 5


def test_the_deadline_ends_a_request_and_drops_what_is_queued(extractor, hold, serving):
    async def main():
        async with serving(extractor, limits=Limits(deadline=2.0, batch_tokens=60)) as client:
            first = asyncio.create_task(asked(client, TEXTS[:1]))
            await until(lambda: hold.asked)
            late, lines = await asyncio.gather(
                asked(client, TEXTS[1:3]), client.post("/v1/extract", json={"texts": TEXTS[3:5]}, headers=NDJSON)
            )
            await first
            assert not client.app.state.service.batcher.waiting
            assert not client.app.state.service.batcher.tokens
            hold.go.set()
            return await first, late, lines, await asked(client, TEXTS[5:6])

    first, late, lines, after = asyncio.run(main())
    assert first.status_code == late.status_code == 504
    assert "within 2 s" in late.json()["error"]
    assert lines.status_code == 200
    rows = [json.loads(line) for line in lines.text.splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert all("within 2 s" in row["error"] for row in rows)
    assert after.status_code == 200
    assert hold.texts == [TEXTS[0], TEXTS[5]]


@pytest.mark.parametrize("headers", [JSON, JSON | NDJSON])
def test_the_texts_of_a_client_that_leaves_are_not_read(extractor, hold, serving, headers):
    async def leaving(app):
        """A client that sends its request and leaves once it waits."""
        service = app.state.service
        body = json.dumps({"texts": TEXTS[1:3]}).encode()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if messages:
                return messages.pop()
            await until(lambda: service.batcher.waiting)
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/extract", "headers": raw, "query_string": b"",
                 "scheme": "http", "server": ("server", 80), "http_version": "1.1"}  # fmt: skip
        await app(scope, receive, send)

    async def main():
        async with serving(extractor, limits=Limits(batch_tokens=60)) as client:
            first = asyncio.create_task(asked(client, TEXTS[:1]))
            await until(lambda: hold.asked)
            await asyncio.wait_for(leaving(client.app), 10)
            last = asyncio.create_task(asked(client, TEXTS[4:5]))
            hold.go.set()
            metrics = await client.get("/metrics")
            return await first, await last, metrics.text

    first, last, metrics = asyncio.run(main())
    assert first.status_code == last.status_code == 200
    assert hold.texts == [TEXTS[0], TEXTS[4]]
    assert 'qwen_ner_requests_total{path="/v1/extract",status="' in metrics


def test_concurrent_requests_share_a_batch(extractor, hold, serving):
    async def main():
        async with serving(extractor) as client:
            first = asyncio.create_task(asked(client, TEXTS[:1]))
            await until(lambda: hold.asked)
            others = [asyncio.create_task(asked(client, [text])) for text in TEXTS[1:]]
            await until(lambda: len(client.app.state.service.batcher.waiting) == 7)
            hold.go.set()
            await asyncio.gather(first, *others)

    asyncio.run(main())
    assert hold.asked == [TEXTS[:1], TEXTS[1:]]


def test_a_long_document_does_not_block_a_sentence(extractor, hold, serving):
    async def main():
        async with serving(extractor, limits=Limits(batch_tokens=150)) as client:
            document = asyncio.create_task(asked(client, [DOCUMENT]))
            await until(lambda: hold.asked)
            sentence = asyncio.create_task(asked(client, TEXTS[:1]))
            await until(lambda: len(client.app.state.service.batcher.waiting) == 2)
            hold.go.set()
            await sentence
            return document.done(), await document

    done, answer = asyncio.run(main())
    assert not done
    assert TEXTS[0] in [*hold.asked[1], *hold.asked[2]], "they take turns"
    assert answer.json()["results"][0]["entities"] == rows_of(extractor.extract([DOCUMENT])[0])


def test_a_stream_reports_progress_before_its_results(extractor, serving):
    body = {"texts": [DOCUMENT, "三星"], "progress": True}

    async def main():
        async with serving(extractor, limits=Limits(batch_tokens=100)) as client:
            return await client.post("/v1/extract", json=body, headers=NDJSON), await asked(client, body["texts"])

    lines, plain = asyncio.run(main())
    rows = [json.loads(line) for line in lines.text.splitlines()]
    told = [row["progress"] for row in rows if "progress" in row]
    assert len(told) > 3
    assert [one["read"] for one in told] == sorted(one["read"] for one in told)
    assert told[0]["read"] == 0
    assert {one["of"] for one in told} == {len(extractor.windows(DOCUMENT)) + 1}
    found = [row for row in rows if "index" in row]
    assert [row["index"] for row in found] == [0, 1]
    assert [[e["text"] for e in row["entities"]] for row in found] == [
        [e["text"] for e in row["entities"]] for row in plain.json()["results"]
    ]


def test_a_request_joins_others_and_one_that_leaves_makes_room(extractor, hold, serving):
    """While a document is read, sentences come and go: each gets its own answer, and the queue empties."""
    expected = {text: rows_of(found) for text, found in zip(TEXTS, extractor.extract(TEXTS), strict=True)}

    async def main():
        async with serving(extractor, limits=Limits(batch_tokens=400)) as client:
            batcher = client.app.state.service.batcher
            document = asyncio.create_task(asked(client, [DOCUMENT]))
            await until(lambda: hold.asked)
            calls = [batcher.submit([text]) for text in TEXTS]
            for job in calls[::2]:
                batcher.cancel(job)
            sentences = [asyncio.create_task(asked(client, [text])) for text in TEXTS]
            await until(lambda: len(batcher.waiting) == 13)
            hold.go.set()
            answers = await asyncio.gather(*sentences)
            left = batcher.submit([DOCUMENT])
            await until(lambda: left.read)
            batcher.cancel(left)
            last = await document, *await asyncio.gather(*(asked(client, [text]) for text in TEXTS))
            assert left.read < left.windows
            assert not batcher.waiting
            assert not batcher.tokens
            return answers, calls[1::2], last

    answers, kept, (document, *again) = asyncio.run(main())
    assert [answer.json()["results"][0]["entities"] for answer in answers] == list(expected.values())
    assert [answer.json()["results"][0]["entities"] for answer in again] == list(expected.values())
    assert [rows_of(job.outcomes[0].entities) for job in kept] == list(expected.values())[1::2]
    assert document.json()["results"][0]["entities"] == rows_of(extractor.extract([DOCUMENT])[0])


def test_answers_are_not_mixed_up_in_a_burst(extractor, serving):
    """200 requests over 16 connections, each text with its own number."""
    texts = [f"{i:03d}号客户在{TEXTS[i % 8]}" for i in range(200)]
    expected = [rows_of(found) for found in extractor.extract(texts)]

    async def main():
        async with serving(extractor) as client:
            connections = asyncio.Semaphore(16)

            async def one(text):
                async with connections:
                    return await asked(client, [text])

            return await asyncio.gather(*map(one, texts)), (await client.get("/metrics")).text

    answers, metrics = asyncio.run(main())
    for text, row, answer in zip(texts, expected, answers, strict=True):
        found = answer.json()["results"][0]["entities"]
        assert all(text[e["start"] : e["end"]] == e["text"] for e in found)
        assert [(e["label"], e["start"], e["end"]) for e in found] == [(e["label"], e["start"], e["end"]) for e in row]
        assert [e["score"] for e in found] == pytest.approx([e["score"] for e in row], abs=1e-3)
    counted = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    assert float(counted['qwen_ner_requests_total{path="/v1/extract",status="200"}']) == 200
    assert float(counted["qwen_ner_batch_windows_sum"]) == sum(len(extractor.windows(text)) for text in texts)
    assert float(counted["qwen_ner_batch_windows_count"]) < 100
    assert float(counted["qwen_ner_tokens_total"]) > 200
    assert float(counted["qwen_ner_queue_tokens"]) == 0


def test_only_requests_with_the_token_are_answered(extractor, serving):
    async def main():
        async with serving(extractor, token="s3cret") as client:
            tried = {}
            for given in (None, "Bearer s3cret", "bearer s3cret", "Bearer s3cre", "Bearer ", "s3cret", "Basic s3cret"):
                headers = {} if given is None else {"authorization": given}
                for path in ("/v1/model", "/metrics", "/nowhere"):
                    tried[given, path] = await client.get(path, headers=headers)
            open_ = [await client.get(path) for path in ("/healthz", "/readyz", "/openapi.json")]
            return tried, open_, await asked(client, ["三星"])

    tried, open_, refused = asyncio.run(main())
    for (given, path), answer in tried.items():
        right = given in ("Bearer s3cret", "bearer s3cret")
        assert answer.status_code == ({"/nowhere": 404}.get(path, 200) if right else 401), (given, path)
    assert tried[None, "/v1/model"].headers["www-authenticate"] == "Bearer"
    assert [answer.status_code for answer in open_] == [200, 200, 200]
    assert refused.status_code == 401


def test_without_the_token_nothing_is_told_of_the_model(extractor, serving):
    extractor.config = type(extractor.config)(LabelSet.of(["secret_label"]), "找出实体", 12, (2, 0))

    async def main(token):
        async with serving(extractor, scores={"f1": 0.87654}, token=token) as client:
            return [(await client.get(path)).text for path in ("/", "/openapi.json", "/docs", "/healthz", "/readyz")]

    for text in asyncio.run(main("0123456789abcdef")):
        assert not {word for word in ("0.87654", "secret_label") if word in text}
    page, document, *_ = asyncio.run(main(None))
    assert "0.87654" in page
    assert "secret_label" in document


def test_head_is_answered_as_get_without_a_body(extractor, serving):
    paths = ("/", "/healthz", "/readyz", "/metrics", "/v1/model", "/docs", "/openapi.json", "/nowhere")

    async def main():
        async with serving(extractor) as client:
            both = [(await client.head(path), await client.get(path)) for path in paths]
            return both, await client.head("/v1/extract"), (await client.get("/metrics")).text

    both, extract, metrics = asyncio.run(main())
    for head, get in both:
        assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
        assert head.content == b""
    assert (extract.status_code, extract.headers["allow"]) == (405, "POST")
    assert 'qwen_ner_requests_total{path="/healthz",status="200"} 2.0' in metrics


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("LOCALHOST:8000", 200), ("localhost.", 200), ("ner.localhost", 200), ("127.0.0.1", 200),
     ("127.8.9.1:80", 200), ("[::1]:8000", 200), ("ner.example", 200), ("Ner.Example:443", 200), (None, 200),
     ("evil.example", 421), ("localhost.evil.example", 421), ("localhost:80.evil.example", 421), ("evillocalhost", 421),
     ("evil.example@localhost", 421), ("evil.example/localhost", 421), ("localhost evil.example", 421), ("", 421),
     ("[::1]evil.example", 421), ("[::2]", 421), ("192.168.0.7", 421), ("ner.example.evil.example", 421)],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/model"])
def test_only_hosts_of_this_machine_or_named_ones_are_answered(app_for_named, host, status, path):
    """Else a page of another site whose name comes to lead to this machine could read the answers."""
    assert app_for_named(path, host) == status


@pytest.fixture(scope="module")
def app_for_named(asked_folder):
    """Asks an app for local names and ner.example: the status of GET `path` with the header Host `host`."""
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.serving.app import create_app

    app = create_app(Extractor.from_pretrained(asked_folder), hosts={"ner.example"})

    def status_of(path, host):
        said = []

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            said.append(message.get("status"))

        headers = [] if host is None else [(b"host", host.encode())]
        app.state.service.reader = asyncio.new_event_loop().create_future()
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b"",
                 "scheme": "http", "server": ("server", 80), "http_version": "1.1"}  # fmt: skip
        asyncio.run(app(scope, receive, send))
        return said[0]

    return status_of


def test_the_texts_of_accepted_requests_are_counted(extractor, serving):
    async def main():
        async with serving(extractor, limits=LIMITS) as client:
            for texts in (TEXTS, ["", 7], [], ["a"] * 21):
                await asked(client, texts)
            return (await client.get("/metrics")).text

    assert "qwen_ner_texts_total 10.0" in asyncio.run(main())


def test_a_long_list_is_cut_in_a_message_and_the_rest_counted(extractor, serving):
    labels = LabelSet.of([f"label_{n:04d}" for n in range(1200)])
    extractor.config = type(extractor.config)(labels, "找出实体", 12, (2, 0))

    async def main():
        async with serving(extractor) as client:
            wrong = [await asked(client, [], labels=given) for given in (["drug"], ["x" * 9999], list(range(5000)))]
            return wrong, [await client.get(path) for path in ("/", "/openapi.json", "/v1/model")]

    (unknown, long, many), told = asyncio.run(main())
    assert "label_0019 and 1,180 more" in unknown.json()["error"]
    assert "and 4,980 more" in many.json()["error"]
    assert {answer.status_code for answer in (unknown, long, many)} == {422}
    assert max(len(answer.text) for answer in (unknown, long, many)) < 5000
    assert [(answer.status_code, len(answer.content) < 200_000) for answer in told] == [(200, True)] * 3


def test_other_origins_may_not_read_an_answer(extractor, serving):
    async def main():
        async with serving(extractor) as client:
            return await client.get("/v1/model", headers={"origin": "https://elsewhere.example"})

    assert not [name for name in asyncio.run(main()).headers if name.startswith("access-control")]


def test_a_draining_server_answers_what_it_has_accepted_and_no_more(extractor, hold, serving):
    async def main():
        async with serving(extractor) as client:
            service = client.app.state.service
            ready = await client.get("/readyz")
            accepted = [asyncio.create_task(asked(client, [text])) for text in TEXTS]
            await until(lambda: service.open == 8)
            service.draining = True
            during = [await client.get("/readyz"), await client.get("/healthz"), await asked(client, ["三星"])]
            assert service.open == 8
            hold.go.set()
            return ready, during, await asyncio.gather(*accepted)

    ready, (unready, healthy, late), accepted = asyncio.run(main())
    assert (ready.status_code, unready.status_code, healthy.status_code) == (200, 503, 200)
    assert late.status_code == 503
    assert late.headers["retry-after"]
    assert [answer.status_code for answer in accepted] == [200] * 8


def test_model_info_has_labels_scores_and_limits(extractor, serving):
    async def main():
        async with serving(extractor, name="ner", scores={"f1": 0.5}, limits=LIMITS) as client:
            return (await client.get("/v1/model")).json()

    told = ModelInfo.model_validate(asyncio.run(main()))
    assert (told.model, told.scores, told.window) == ("ner", {"f1": 0.5}, 24)
    assert list(told.labels) == list(extractor.config.labels.names)
    assert told.limits["max_texts"] == 20
    assert told.limits["body"] == LIMITS.body


def test_the_examples_in_the_openapi_document_match_their_schemas(extractor, serving):
    async def main():
        async with serving(extractor) as client:
            return (await client.get("/openapi.json")).json()

    document = asyncio.run(main())
    post = document["paths"]["/v1/extract"]["post"]
    (request,) = post["requestBody"]["content"]["application/json"]["schema"]["examples"]
    (answer,) = document["components"]["schemas"]["ExtractResponse"]["examples"]
    lines = post["responses"]["200"]["content"]["application/x-ndjson"]["example"].splitlines()
    ExtractRequest.model_validate(request)
    assert len(ExtractResponse.model_validate(answer).results) == len(request["texts"])
    assert [json.loads(line) for line in lines] == [{"index": i} | row for i, row in enumerate(answer["results"])]
    for text, row in zip(request["texts"], answer["results"], strict=True):
        assert "error" in row or all(text[e["start"] : e["end"]] == e["text"] for e in row["entities"])
    assert {"401", "408", "413", "415", "421", "422", "429", "500", "503", "504"} <= post["responses"].keys()
