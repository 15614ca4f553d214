"""A server that runs the model: what vLLM answered, and what it may answer instead."""

import json
import logging
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import types
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fake_vllm import FakeVllm
from rows import EIGHT, ROOT

from qwen_ner import cli
from qwen_ner.contract import NerConfig
from qwen_ner.data.datasets import write_jsonl
from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference import batch_predict
from qwen_ner.inference.backends.base import EngineDown, Request
from qwen_ner.inference.backends.http import HttpBackend
from qwen_ner.inference.backends.vllm_api import Server
from qwen_ner.inference.constraints.grammar import Grammar
from qwen_ner.inference.constraints.remote import LABELS, TEXT, lark
from qwen_ner.inference.extractor import Extractor

TEXTS = [gold.text for gold in EIGHT]
LIMIT = 48


def make_asked(folder, tiny):
    """What a client needs of a model: all but its weights."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    NerConfig(CLUENER, "找出实体", LIMIT, (2,)).save(folder)
    return folder


def ask_all(url, kind):
    """What is recorded: how a client begins, all texts under the grammar, and freely."""
    from qwen_ner.training.tiny import make_tiny

    with tempfile.TemporaryDirectory() as place:
        make_tiny(Path(place) / "tiny", layers=2, hidden=64, dropout=0.0)
        extractor = Extractor.from_pretrained(make_asked(Path(place) / "asked", Path(place) / "tiny"), backend=url)
    extractor.predict(TEXTS)
    if kind == "grammar":
        extractor.predict(TEXTS, constrained=False)


@pytest.fixture(scope="module")
def asked(tiny, tmp_path_factory):
    return make_asked(tmp_path_factory.mktemp("asked") / "model", tiny)


@pytest.fixture(params=["grammar"])
def server(request):
    server = FakeVllm.of(request.param)
    yield server
    server.close()


plain = pytest.mark.parametrize("server", ["plain"], indirect=True)


def spoil(server, change):
    """Have `change(path, request, status, body)` replace each answer."""
    right = server.answer
    server.answer = lambda path, request: change(path, request, *right(path, request))


def test_the_answers_of_a_server_become_entities_with_scores(asked, server):
    extractor, done = Extractor.from_pretrained(asked, backend=server.url), []
    found = extractor.predict(TEXTS)
    for text, decoded in zip(TEXTS, found, strict=True):
        assert not decoded.problems
        assert all(text[e.start : e.end] == e.text and 0 < e.score < 1 for e in decoded.entities)
    assert sum(set(decoded.surfaces) == set(gold.surfaces) for decoded, gold in zip(found, EIGHT, strict=True)) >= 6
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, TEXTS)
    guides = [extractor.grammar.constraint(text, LIMIT) for text in TEXTS]
    guided = extractor.backend.complete(prompts, LIMIT, guides, on_rows=done.append)
    free = extractor.backend.complete(prompts, LIMIT)
    assert sum(done) == len(TEXTS)
    assert all(guide.closed for guide in guides)
    for one in (*guided, *free):
        assert 2 not in one.ids
        assert all(value <= 0 for value in one.logprobs)
    assert {len(one.logprobs) - len(one.ids) for one in guided} == {0}
    assert {len(one.logprobs) - len(one.ids) for one in free if one.finished} == {1}, "and that of the end token"


def test_requests_that_arrive_join_those_that_are_written_and_each_gets_its_own_answer(asked, server):
    extractor, answers, waits = Extractor.from_pretrained(asked, backend=server.url), {}, threading.Event()
    prompts = prompt_ids(extractor.tokenizer, extractor.codec, TEXTS)
    guides = [extractor.grammar.constraint(text, LIMIT) for text in TEXTS]
    wanted = extractor.backend.complete(prompts, LIMIT, [extractor.grammar.constraint(text, LIMIT) for text in TEXTS])
    waiting, right, gone = list(range(len(TEXTS))), server.answer, {5}

    def slow_with_the_first(path, request):
        assert request["prompt"] != list(prompts[0]) or waits.wait(20)
        return right(path, request)

    def request(number):
        def answer(completion):
            assert number not in answers, "answered once"
            answers[number] = completion
            if len(answers) == len(TEXTS) - 1:
                waits.set()

        return Request(prompts[number], guides[number], answer, lambda: number in gone)

    def feed(tokens):
        count = 1 if len(waiting) == len(TEXTS) else 2
        given, waiting[:] = waiting[:count], waiting[count:]
        return list(map(request, given))

    server.answer, before = slow_with_the_first, len(server.asked)
    extractor.backend.serve(feed, LIMIT)
    assert list(answers)[-1] == 0, "none waits for the first"
    assert answers.pop(5) is None
    assert len(server.asked) - before == len(TEXTS) - 1, "who has left costs nothing"
    assert answers == {number: one for number, one in enumerate(wanted) if number != 5}


def test_a_server_is_not_asked_to_draw(asked, server):
    extractor = Extractor.from_pretrained(asked, backend=server.url)
    with pytest.raises(NerError) as caught:
        extractor.extract(TEXTS, temperature=0.7)
    assert (caught.value.place, caught.value.value) == ("temperature", 0.7)
    assert "torch" in caught.value.remedy


def test_a_request_leaves_nothing_to_the_defaults_of_the_server(asked, server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "a-key-of-the-server")
    extractor = Extractor.from_pretrained(asked, backend=f"{server.url}#toy")
    extractor.extract(TEXTS[:1])
    path, request, headers = server.asked[-1]
    assert path == "/v1/completions"
    assert request["vllm_xargs"] == {TEXT: TEXTS[0], LABELS: list(CLUENER.names)}
    assert (request["model"], request["max_tokens"], request["stop_token_ids"]) == ("toy", LIMIT, [2])
    assert {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"} < request.keys()
    assert headers["authorization"] == "Bearer a-key-of-the-server"
    assert extractor.backend.max_length == 1024


@plain
def test_without_our_processor_a_weaker_grammar_is_asked_for_and_that_is_said_once(asked, server, caplog):
    extractor = Extractor.from_pretrained(asked, backend=server.url)
    found = extractor.predict(TEXTS)
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["docs/en/guides/vllm.md" in record.getMessage() for record in said] == [True]
    assert server.asked[-1][1]["structured_outputs"]["grammar"].startswith("start:")
    assert {entity.score for decoded in found for entity in decoded.entities} == {None}
    assert sum(set(decoded.surfaces) == set(gold.surfaces) for decoded, gold in zip(found, EIGHT, strict=True)) >= 6


@pytest.fixture
def processor(tiny, monkeypatch):
    """`GrammarProcessor`, on the two names of vLLM that it uses: vLLM is not installed beside the tests."""
    names = {
        "LogitsProcessor": object,
        "process_dict_updates": lambda answers, update, make: answers.update({i: make(*row) for i, *row in update}),
    }
    for module in ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", types.SimpleNamespace(**names))
    monkeypatch.delitem(sys.modules, "qwen_ner.inference.constraints.vllm", raising=False)
    from qwen_ner.inference.constraints.vllm import GrammarProcessor

    model = types.SimpleNamespace(tokenizer=str(tiny), tokenizer_revision=None)
    yield GrammarProcessor(types.SimpleNamespace(model_config=model), None, False)
    sys.modules.pop("qwen_ner.inference.constraints.vllm", None)


class Engine:
    """A server that computes: the model, our processor, and greedy decoding as vLLM does it."""

    def __init__(self, model, processor, tokenizer):
        self.model, self.processor, self.tokenizer, self.turn = model, processor, tokenizer, threading.Lock()

    def __call__(self, path, request):
        with self.turn:
            return self.compute(path, request)

    def compute(self, path, request):
        if path == "/v1/models":
            return 200, {"data": [{"id": "it", "max_model_len": 512, "parent": None}]}
        names = {"extra_args": "vllm_xargs"}
        given = {name: request.get(names.get(name, name)) for name in ("extra_args", "max_tokens", "stop_token_ids")}
        params = types.SimpleNamespace(temperature=request["temperature"], **given)
        try:
            self.processor.validate_params(params)
        except ValueError as error:
            return 400, {"error": {"message": str(error)}}
        prompt, ids, found = request["prompt"], [], {"token_logprobs": [], "top_logprobs": []}
        if isinstance(prompt, str):
            prompt = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        self.processor.answers.clear()
        if params.extra_args:
            self.processor.update_state([(0, params, prompt, ids)])
        while len(ids) < params.max_tokens and ids[-1:] != [2]:
            logits = self.model(torch.tensor([[*prompt, *ids]])).logits[:, -1].float()
            raw = logits[0].log_softmax(-1)
            token, top = self.processor.apply(logits)[0].argmax().item(), raw.argmax().item()
            ids.append(token)
            found["token_logprobs"].append(raw[token].item())
            found["top_logprobs"].append({f"token_id:{one}": raw[one].item() for one in (token, top)})
        return 200, {"choices": [{"prompt_token_ids": prompt, "token_ids": ids, "logprobs": found}]}


@pytest.mark.parametrize(("target", "limit"), [("json", 24), ("inline", 48), ("inline", 12)])
def test_the_processor_has_a_server_write_what_the_torch_backend_writes(
    tiny, codec, processor, tokenizer, tmp_path, target, limit
):
    """An untrained model wants what the grammar forbids at nearly each step. A text may be longer than the limit."""
    shutil.copytree(tiny, tmp_path / "model")
    NerConfig(CLUENER, codec.system_prompt, limit, (2,), target=target).save(tmp_path / "model")
    ours = Extractor.from_pretrained(tmp_path / "model", dtype="float32")
    server = FakeVllm(Engine(ours.model, processor, tokenizer))
    theirs = Extractor.from_pretrained(tmp_path / "model", backend=server.url)
    prompts = prompt_ids(tokenizer, codec, [*TEXTS, "aaab"])
    wrote = []
    for extractor in (ours, theirs):
        guides = [extractor.grammar.constraint(text, limit) for text in (*TEXTS, "aaab")]
        wrote.append((extractor.backend.complete(prompts, limit, guides), guides))
    server.close()
    for one, other, guide, theirs_guide in zip(*wrote[0][:1], *wrote[1][:1], wrote[0][1], wrote[1][1], strict=True):
        assert list(one.ids) == list(other.ids)
        assert one.finished == other.finished
        assert guide.forced_surfaces == theirs_guide.forced_surfaces
        assert list(other.logprobs) == pytest.approx(list(one.logprobs), abs=1e-4)
    assert all(one.finished for one in wrote[0][0]) == (limit > 12)


def test_a_surface_that_the_model_had_to_lengthen_is_known_here_too(tokenizer):
    """It chose to close 工行, which the list has: the server tells the model's own choice beside what was taken."""
    start, rest = '{"company":["工行","工行', '使用"]}'
    ids = [token for part in (start, rest) for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
    likeliest = list(ids)
    likeliest[len(tokenizer(start, add_special_tokens=False)["input_ids"])] = tokenizer('"]}')["input_ids"][0]
    top = [{f"token_id:{token}": -0.1} for token in likeliest] + [{"token_id:2": -0.1}]
    found = {"token_logprobs": [-0.5] * len(top), "top_logprobs": top}
    choice = {"prompt_token_ids": [5], "token_ids": [*ids, 2], "logprobs": found}
    server = FakeVllm(lambda *_: (200, {"choices": [choice]}))
    guide = Grammar(CLUENER.names, tokenizer, (2,)).constraint("工行使用", LIMIT)
    (completion,) = HttpBackend(Server(server.url), "it", 99, (2,)).complete([[5]], LIMIT, [guide])
    server.close()
    assert completion.ids == ids
    assert guide.forced_surfaces == {("company", "工行使用")}


@pytest.mark.parametrize(
    "change",
    [
        {"extra_args": {LABELS: ["a"]}},
        {"extra_args": {TEXT: 3, LABELS: ["a"]}},
        {"extra_args": {TEXT: "三星", LABELS: ["a", 1]}},
        {"temperature": 0.7},
        {"stop_token_ids": []},
        {"max_tokens": 2},
        {"max_tokens": None},
    ],
)
def test_a_request_without_a_constraint_to_make_is_refused_before_it_runs(processor, change):
    right = {"extra_args": {TEXT: "三星", LABELS: ["a"]}, "temperature": 0.0, "stop_token_ids": [2], "max_tokens": 3}
    processor.validate_params(types.SimpleNamespace(**right))
    processor.validate_params(types.SimpleNamespace(**{**right, "extra_args": None, "temperature": 0.7}))
    with pytest.raises(ValueError, match=TEXT):
        processor.validate_params(types.SimpleNamespace(**right | change))


def completions_only(change):
    return lambda path, request, status, body: (status, body) if "models" in path else change(request, status, body)


def choice_of(body):
    return body["choices"][0]


def other_tokens(request, status, body):
    if isinstance(request["prompt"], str):
        choice_of(body)["prompt_token_ids"].append(7)
    return status, body


def masked(request, status, body):
    if status == 200:
        choice_of(body)["logprobs"]["token_logprobs"] = [0.0] * len(choice_of(body)["token_ids"])
    return status, body


def several(path, request, status, body):
    if "models" in path:
        body["data"].append({"id": "lora", "parent": "toy", "max_model_len": None})
    return status, body


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda *_: (404, "<html>no such page</html>"), "/v1"),
        (lambda *_: (401, {"error": "Unauthorized"}), "VLLM_API_KEY"),
        (lambda *_: (500, "a traceback"), "log"),
        (lambda *_: (302, "elsewhere"), "log"),
        (lambda *_: (200, "<html>a page</html>"), "docs/en/guides/vllm.md"),
        (lambda *_: (200, {"data": [{"id": "gpt", "object": "model"}]}), "docs/en/guides/vllm.md"),
        (lambda *_: (200, [1]), "docs/en/guides/vllm.md"),
        (lambda *_: (0, ""), "loaded"),
        (completions_only(other_tokens), "docs/en/guides/vllm.md"),
        (completions_only(masked), "--logprobs-mode raw_logprobs"),
        (several, "#toy or "),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_with_what_to_do(asked, server, change, remedy):
    spoil(server, change)
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(asked, backend=server.url)
    assert caught.value.place == server.url
    assert remedy in caught.value.remedy


def test_of_several_models_one_is_named(asked, server):
    spoil(server, several)
    assert Extractor.from_pretrained(asked, backend=f"{server.url}#toy").backend.model == "toy"
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(asked, backend=f"{server.url}#lara")
    assert (caught.value.value, caught.value.place) == ("lara", server.url)
    assert f"{server.url}#lora" in caught.value.remedy


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://nowhere.invalid/v1"])
def test_a_server_that_is_not_there_is_out_of_reach(asked, url):
    with pytest.raises(EngineDown) as caught:
        Extractor.from_pretrained(asked, backend=url)
    assert caught.value.place == url


@pytest.mark.parametrize("url", ["http://host:port/v1", "http://[::1/v1"])
def test_what_is_no_address_is_refused(asked, url):
    with pytest.raises(NerError) as caught:
        Extractor.from_pretrained(asked, backend=url)
    assert "http://host:port/v1" in caught.value.remedy


def test_a_server_that_is_late_is_out_of_reach(asked, server, monkeypatch):
    monkeypatch.setattr("qwen_ner.inference.backends.vllm_api.SECONDS", 0.5)
    extractor = Extractor.from_pretrained(asked, backend=server.url)
    spoil(server, lambda path, request, *answer: time.sleep(2) or answer)
    with pytest.raises(EngineDown) as caught:
        extractor.extract(TEXTS[:2])
    assert "again" in caught.value.remedy


def garble(choice):
    choice["token_ids"][0] = 7


def cut_off(choice):
    for values in (choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]):
        values.pop()


def not_a_number(choice):
    choice["logprobs"]["token_logprobs"][0] = math.nan


def unequal(choice):
    choice["logprobs"]["token_logprobs"].pop()


@pytest.mark.parametrize("change", [garble, cut_off, not_a_number, unequal])
def test_an_answer_that_breaks_the_grammar_or_its_form_is_no_answer(asked, server, change):
    extractor = Extractor.from_pretrained(asked, backend=server.url)

    def changed(request, status, body):
        if status == 200:
            change(choice_of(body))
        return status, body

    spoil(server, completions_only(changed))
    with pytest.raises(NerError) as caught:
        extractor.extract(TEXTS[:1])
    assert caught.value.place == server.url
    assert "docs/en/guides/vllm.md" in caught.value.remedy


def test_predict_keeps_what_was_done_when_the_server_goes_and_goes_on_when_it_is_back(
    asked, server, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(batch_predict, "ROWS", 3)
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    command = ["predict", str(asked), str(tmp_path / "in.txt"), "--engine", server.url, "--output"]
    cli.main([*command, str(tmp_path / "whole.jsonl")])
    right = server.answer
    spoil(
        server,
        lambda path, request, *answer: (0, "") if TEXTS[4] in json.dumps(request, ensure_ascii=False) else answer,
    )
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, str(tmp_path / "out.jsonl")])
    assert server.url in str(caught.value)
    whole = (tmp_path / "whole.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(whole) == len(TEXTS)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines() == whole[:3]
    server.answer = right
    cli.main([*command, str(tmp_path / "out.jsonl")])
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines() == whole


def test_what_one_engine_began_another_does_not_go_on_with_but_a_server_may_move(asked, server, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    command = ["predict", str(asked), str(tmp_path / "in.txt"), "--output", str(out)]
    cli.main([*command, "--engine", server.url])
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(True)[:3]))
    for other in ("torch", f"{server.url}#toy"):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, "--engine", other])
        assert f"{out}: was written with engine http, not " in str(caught.value)
    moved = FakeVllm.of("grammar")
    cli.main([*command, "--engine", moved.url])
    moved.close()
    assert out.read_bytes() == whole


@pytest.mark.parametrize("command", ["predict", "evaluate", "serve"])
def test_an_engine_is_torch_or_an_address(command, capsys):
    parser, more = cli.build_parser([command]), ["--data", "sample"] if command == "evaluate" else []
    assert parser.parse_args([command, "model", *more]).engine == "torch"
    assert parser.parse_args([command, "model", *more, "--engine", "https://host/v1"]).engine == "https://host/v1"
    with pytest.raises(SystemExit):
        parser.parse_args([command, "model", *more, "--engine", "vlm"])
    assert "http://host:port/v1" in capsys.readouterr().err


def test_the_weaker_grammar_takes_each_target_and_no_label_twice(tokenizer, codec):
    llguidance = pytest.importorskip("llguidance")
    from llguidance.hf import from_tokenizer

    known = from_tokenizer(tokenizer)
    for gold in EIGHT:
        matcher = llguidance.LLMatcher(known, llguidance.LLMatcher.grammar_from_lark(lark(gold.text, CLUENER.names)))
        assert not matcher.is_error(), matcher.get_error()
        assert matcher.consume_tokens(tokenizer(codec.encode(gold), add_special_tokens=False)["input_ids"])
        assert matcher.is_accepting()
    for broken in ('{"address":["我"],"address":', '{"address":["他', '{"animal'):
        matcher = llguidance.LLMatcher(known, llguidance.LLMatcher.grammar_from_lark(lark("我在北京", CLUENER.names)))
        ids = tokenizer(broken, add_special_tokens=False)["input_ids"]
        assert matcher.try_consume_tokens(ids) < len(ids), broken


@pytest.mark.skipif("QWEN_NER_VLLM" not in os.environ, reason="QWEN_NER_VLLM does not name a server's address")
def test_a_live_server_writes_the_ids_that_torch_writes():
    """QWEN_NER_VLLM is the address, QWEN_NER_VLLM_FOLDER the folder of the model that it has in float32."""
    folder, n = os.environ["QWEN_NER_VLLM_FOLDER"], len(TEXTS)
    ours = Extractor.from_pretrained(folder, dtype="float32", device="cpu")
    theirs = Extractor.from_pretrained(folder, backend=os.environ["QWEN_NER_VLLM"])
    assert isinstance(theirs.backend, HttpBackend)
    prompts, limit = prompt_ids(ours.tokenizer, ours.codec, TEXTS), ours.config.max_new_tokens
    for guided in (False, True) if theirs.backend.grammar else (False,):
        guides = [[ours.grammar.constraint(text, limit) for text in TEXTS] for _ in range(2)] if guided else [None] * 2
        wrote = [e.backend.complete(prompts, limit, g) for e, g in zip((ours, theirs), guides, strict=True)]
        assert [list(one.ids) for one in wrote[0]] == [list(one.ids) for one in wrote[1]]
        for one, other in zip(*wrote, strict=True):
            assert list(other.logprobs) == pytest.approx(list(one.logprobs), abs=1e-3)
    assert len(wrote[1]) == n


def test_evaluate_scores_what_the_server_writes(asked, server, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "dev.jsonl", [replace(gold, id=str(n)) for n, gold in enumerate(EIGHT)])
    cli.main(
        [
            "evaluate",
            str(asked),
            "--data",
            str(tmp_path / "data"),
            "--engine",
            server.url,
            "--json",
            str(tmp_path / "s.json"),
        ]
    )
    scores = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    for decoding in ("free", "constrained"):
        assert scores[decoding]["metrics"]["f1"] > 0.8
        assert scores[decoding]["contract"]["decoding"] == decoding


def test_the_commands_of_the_page_are_understood():
    """Those of vLLM were run by hand, or are said not to have been."""
    page = (ROOT / "docs/en/guides/vllm.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", page, re.S) for line in block.splitlines()]
    ours = [shlex.split(line)[1:] for line in lines if line.startswith("qwen-ner")]
    assert [words[0] for words in ours] == ["predict", "evaluate", "serve", "export"]
    for words in ours:
        cli.build_parser().parse_args(words)
    module = (ROOT / "qwen_ner/inference/constraints/vllm.py").read_text(encoding="utf-8")
    named = set(re.findall(r"qwen_ner\.inference\.constraints\.vllm:(\w+)", page))
    assert [f"class {name}(LogitsProcessor)" in module for name in named] == [True]


def test_a_key_that_no_header_can_hold_is_named(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "密钥")
    with pytest.raises(NerError, match="not ASCII") as caught:
        Server("http://127.0.0.1:1/v1")
    assert caught.value.place == "VLLM_API_KEY"


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:7890", "socks://127.0.0.1:7890"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch, proxy):
    if proxy.startswith("socks5") and find_spec("socksio"):
        pytest.skip("can be used")
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(NerError, match="cannot use the proxy") as caught:
        Server("http://127.0.0.1:1/v1")
    assert "ALL_PROXY" in caught.value.remedy
