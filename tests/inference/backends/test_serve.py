"""Requests that join a running batch: each gets the answer that it would get alone, whatever comes and goes beside it."""

import random

import pytest
import torch
from rows import EIGHT
from static_models import SHAPE, make_model, static_backend
from transformers import Qwen2Config, Qwen2ForCausalLM

from qwen_ner.data.tokenize import prompt_ids
from qwen_ner.entities import CLUENER, NerError
from qwen_ner.inference.backends.base import Draw, Request
from qwen_ner.inference.backends.torch import TorchBackend
from qwen_ner.inference.constraints.grammar import Grammar

TEXTS = [gold.text[: len(gold.text) - cut] for cut in range(4) for gold in EIGHT]
LIMIT = 24


@pytest.fixture(scope="module")
def prompts(tokenizer, codec):
    return prompt_ids(tokenizer, codec, TEXTS)


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return Grammar(CLUENER.names, tokenizer, (2, 0))


@pytest.fixture(params=["batches", "places"])
def backend(request):
    """As on a CPU, and as on a GPU but for the graph."""
    model = make_model("qwen2")
    return TorchBackend(model, (2, 0), 0) if request.param == "batches" else static_backend(model)


@pytest.fixture(scope="module")
def wanted(prompts, grammar):
    backend = TorchBackend(make_model("qwen2"), (2, 0), 0)
    return backend.complete(prompts, LIMIT, [grammar.constraint(text, LIMIT) for text in TEXTS])


class Clients:
    """Requests for `numbers`, given as `schedule` says: so many at each call of the feed, then all that are left."""

    def __init__(self, prompts, grammar, numbers, schedule):
        self.waiting, self.schedule = list(numbers), iter(schedule)
        self.prompts, self.grammar, self.given, self.draws = prompts, grammar, 0, None
        self.answers, self.order, self.cancelled, self.rooms = {}, [], set(), []

    def feed(self, tokens):
        assert tokens > 0
        self.rooms.append(tokens)
        idle = len(self.answers) == self.given
        count = max(next(self.schedule, len(self.waiting)), idle)
        self.given += len(self.waiting[:count])
        given, self.waiting = self.waiting[:count], self.waiting[count:]
        return [self.request(number) for number in given]

    def request(self, number):
        def answer(completion):
            assert number not in self.answers, "answered once"
            self.answers[number] = completion
            self.order.append(number)

        guide = self.grammar.constraint(TEXTS[number], LIMIT)
        draw = self.draws and self.draws[number]
        return Request(self.prompts[number], guide, answer, lambda: number in self.cancelled, draw)

    def check(self, wanted):
        for number, found in self.answers.items():
            one = wanted[number]
            if number not in self.cancelled:
                assert (found.ids, found.finished) == (one.ids, one.finished)
                assert found.logprobs == pytest.approx(one.logprobs, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_arrives_when_each_gets_its_own_answer(backend, prompts, grammar, wanted, seed):
    chance = random.Random(seed)
    numbers = chance.sample(range(len(TEXTS)), len(TEXTS))
    schedule = [1, *(chance.choice([0, 0, 1, 2, 9]) for _ in range(12))]
    clients = Clients(prompts, grammar, numbers, schedule)
    backend.serve(clients.feed, LIMIT, batch_tokens=chance.choice([100, 600, 16_384]))
    assert sorted(clients.answers) == list(range(len(TEXTS)))
    clients.check(wanted)


def test_what_is_drawn_in_a_running_batch_is_what_is_drawn_alone(backend, prompts, grammar, wanted):
    """Beside greedy rows, and twice for a text."""
    draws = [Draw(1.5, 0.95, number // 4) if number % 4 else None for number in range(len(TEXTS))]
    guides = [grammar.constraint(text, LIMIT) for text in TEXTS]
    alone = TorchBackend(make_model("qwen2"), (2, 0), 0).complete(prompts, LIMIT, guides, draws=draws, batch_tokens=1)
    changed = [n for n, (one, other) in enumerate(zip(alone, wanted, strict=True)) if one.ids != other.ids]
    assert len(changed) > len(TEXTS) / 2
    assert all(n % 4 for n in changed)
    for schedule in ([1, 2, 0, 5, 0, 9], [len(TEXTS)]):
        clients = Clients(prompts, grammar, range(len(TEXTS)), schedule)
        clients.draws = draws
        backend.serve(clients.feed, LIMIT, batch_tokens=900)
        assert len(clients.answers) == len(TEXTS)
        clients.check(alone)


def test_who_comes_later_and_has_less_to_write_is_answered_first(backend, prompts, grammar, wanted):
    """It joins the batch instead of waiting for the end of it."""
    by_length = sorted(range(len(TEXTS)), key=lambda i: len(wanted[i].ids))
    longest, shortest = by_length[-1], by_length[0]
    assert len(wanted[longest].ids) > len(wanted[shortest].ids) + 4
    clients = Clients(prompts, grammar, [longest, shortest], [1, 0, 1])
    backend.serve(clients.feed, LIMIT)
    assert clients.order == [shortest, longest]


def test_who_waits_begins_in_turn_however_many_follow(backend, prompts, grammar, wanted):
    clients = Clients(prompts, grammar, range(len(TEXTS)), [8, *[1] * 100])
    began, read = [], type(backend.prefix).common

    class Prefix(type(backend.prefix)):
        def common(self, model, some):
            began.extend(prompts.index(prompt) for prompt in some)
            return read(self, model, some)

    backend.prefix = Prefix()
    backend.serve(clients.feed, LIMIT, batch_tokens=8 * 96)
    clients.check(wanted)
    assert began == list(range(len(TEXTS)))


def test_a_cancelled_request_frees_its_place_and_nobody_notices(backend, prompts, grammar, wanted):
    last = sorted(range(len(TEXTS)), key=lambda i: len(wanted[i].ids))[-12:]
    clients = Clients(prompts, grammar, last, [10, 0, 0, 2])
    feed = clients.feed

    def leaving(tokens):
        if len(clients.rooms) == 3:
            clients.cancelled |= {last[1], last[8], last[9], last[11]}  # running, and one that only arrives
        return feed(tokens)

    backend.serve(leaving, LIMIT)
    assert sorted(clients.answers) == sorted(last)
    nothing = {number for number, found in clients.answers.items() if found is None}
    assert {last[8], last[9], last[11]} <= nothing <= clients.cancelled
    clients.check(wanted)


def test_all_may_leave(backend, prompts, grammar):
    clients = Clients(prompts, grammar, range(9), [9])
    feed = clients.feed

    def leaving(tokens):
        clients.cancelled |= set(range(9)) if len(clients.rooms) == 2 else set()
        return feed(tokens)

    backend.serve(leaving, LIMIT)
    assert len(clients.answers) == 9


def test_what_runs_out_of_memory_harms_no_request(backend, prompts, grammar, wanted, monkeypatch, caplog):
    """In the middle, when some join: those that run begin again, fewer at a time, and others still join them."""
    model = backend.decoder if backend.decoder else backend.model
    name = "step" if backend.decoder else "forward"
    compute, calls = getattr(model, name), []

    def short_of_memory(*args, **inputs):
        rows = len(args[0]) if args else len(inputs["input_ids"])
        calls.append(rows)
        if len(calls) > 4 and rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(*args, **inputs)

    monkeypatch.setattr(model, name, short_of_memory)
    clients = Clients(prompts, grammar, range(len(TEXTS)), [3, 1, 0, 5, 20, 0, 1])
    backend.serve(clients.feed, LIMIT)
    assert len(clients.answers) == len(TEXTS)
    clients.check(wanted)
    assert caplog.records


def test_after_an_error_those_without_an_answer_can_be_asked_again(backend, prompts, grammar, wanted):
    clients = Clients(prompts, grammar, range(8), [2, 0, 2, 0, 4])
    feed = clients.feed

    def failing(tokens):
        if len(clients.rooms) == 4:
            raise NerError("broken", place="there")
        return feed(tokens)

    with pytest.raises(NerError) as caught:
        backend.serve(failing, LIMIT)
    assert caught.value.place == "there"
    left = [number for number in range(8) if number not in clients.answers]
    assert left
    clients.waiting, clients.schedule, clients.given = left, iter(()), len(clients.answers)
    backend.serve(feed, LIMIT)
    assert len(clients.answers) == 8
    clients.check(wanted)


def test_the_budget_bounds_the_batch(prompts, grammar, wanted, monkeypatch):
    """Rows times the tokens of the longest; what is longer goes alone."""
    backend = TorchBackend(make_model("qwen2"), (2, 0), 0)
    longest, rows = max(map(len, prompts)) + LIMIT, []
    forward = backend.model.forward
    monkeypatch.setattr(
        backend.model, "forward", lambda **inputs: rows.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    for most in (1, 5):
        clients = Clients(prompts, grammar, range(16), [1, 3, 9])
        backend.serve(clients.feed, LIMIT, batch_tokens=most * longest)
        clients.check(wanted)
        assert len(clients.answers) == 16
        assert max(rows) <= (most if most == 1 else most + 1)
        rows.clear()


def test_a_model_whose_cache_cannot_be_joined_reads_batch_after_batch(prompts, grammar):
    window = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE | window | {"vocab_size": 1508, "tie_word_embeddings": True}))
    backend = TorchBackend(model.requires_grad_(False), (2, 0), 0)
    wanted = backend.complete(prompts, LIMIT, [grammar.constraint(text, LIMIT) for text in TEXTS])
    clients = Clients(prompts, grammar, range(len(TEXTS)), [1, 2, 3])
    backend.serve(clients.feed, LIMIT)
    assert len(clients.answers) == len(TEXTS)
    clients.check(wanted)
