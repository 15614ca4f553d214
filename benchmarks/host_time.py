"""How long does the host take for a step of a row, the model aside?

    python benchmarks/host_time.py
    python benchmarks/host_time.py --model FOLDER --data cluener --json host_time.json

On a GPU the model's part of a step takes a few milliseconds for hundreds of rows, and what Python does for each row of
it bounds the sentences a second. So the model is replaced by one whose logits are ready before the clock starts: it
gives the gold answers of `--data`. Of FOLDER only the tokenizer is read. The logits have the tokens of these answers
and of all bytes, some hundreds, and the time to find their maximum and their sum is taken off: that is the GPU's part.

    µs a row and step  of `TorchBackend.complete` with its constraints, over the tokens of all answers
    of these, grammar  what the constraints alone take for the same tokens
    taken off          for the maximum and the sum of the logits
    ms a text          until a text's constraint is there
    ms, refused        until all allowed tokens are listed, which happens where the model's own choice may not come

Processor time of one thread, the median of `--repeats`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from common import claim, finish, machine, toy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, or a folder with a tokenizer")
    parser.add_argument("--data", default="sample", help="cluener (with QWEN_NER_DATA), sample, or a JSONL file")
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 512], help="rows a batch")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one batch size, few repeats")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rows, options.repeats = options.rows[:1], min(options.repeats, 3)
    from qwen_ner.data.datasets import read_dataset
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.loading import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(toy(Path(folder)) if options.model == "tiny" else options.model)
    examples = read_dataset(options.data, "train", labels=CLUENER)
    table = {rows: measure(tokenizer, (examples * rows)[:rows], options.repeats) for rows in options.rows}
    for rows, values in table.items():
        print(f"{rows} rows: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
    claims = [
        made
        for rows, values in table.items()
        for made in (
            claim(f"µs a row and step, {rows} rows", values["µs a row and step"], 10, at_most=True),
            claim(f"ms a text, {rows} rows", values["ms a text"], 0.1, at_most=True),
            claim(f"answers as the model gave them, {rows} rows", values["same"], 1),
        )
    ]
    report = {"machine": machine(), "data": options.data, "model": options.model, "table": table, "claims": claims}
    finish(report, options.json)


def measure(tokenizer: Any, examples: Sequence[Any], repeats: int) -> dict[str, float]:
    import torch

    from qwen_ner.codec import Codec
    from qwen_ner.entities import CLUENER
    from qwen_ner.inference.backends import decoding
    from qwen_ner.inference.backends.torch import TorchBackend
    from qwen_ner.inference.constraints.grammar import Grammar

    torch.set_num_threads(1)
    codec, texts = Codec(CLUENER), [example.text for example in examples]
    answers = tokenizer([codec.encode(example) for example in examples], add_special_tokens=False)["input_ids"]
    vocabulary = Reduced(tokenizer, answers)
    answers = [[vocabulary.number[token] for token in answer] for answer in answers]
    grammar = Grammar(CLUENER.names, vocabulary, (len(vocabulary.number),))
    backend = TorchBackend(Ready(answers, len(vocabulary.number) + 1), (len(vocabulary.number),), 0)
    tokens, limit = sum(map(len, answers)), 128

    def make() -> list[Any]:
        return [grammar.constraint(text, limit) for text in texts]

    def follow(constraints: list[Any]) -> None:
        for constraint, answer in zip(constraints, answers, strict=True):
            for token in answer:
                constraint.allows(token)
                constraint.advance(token)

    def list_all(constraints: list[Any]) -> None:
        for constraint, answer in zip(constraints[:4], answers, strict=False):
            for token in answer:
                constraint.allowed()
                constraint.advance(token)

    def write(constraints: list[Any]) -> Any:
        prompts = [[n] for n in range(len(texts))]  # equal ones would be read once
        with mock.patch.object(decoding, "DRAFT_ROWS", 0):  # drafts of a batch's last rows save steps of the model
            return backend.complete(prompts, limit, constraints, batch_tokens=(limit + 1) * len(texts))

    def reduce(steps: list[Any]) -> None:
        for logits in steps:
            logits.max(-1), logits.logsumexp(-1)

    completions = write(make())
    reduced = timed(reduce, lambda: backend.model.steps, repeats)
    return {
        "µs a row and step": (timed(write, make, repeats) - reduced) / tokens * 1e6,
        "of these, grammar": timed(follow, make, repeats) / tokens * 1e6,
        "taken off": reduced / tokens * 1e6,
        "ms a text": timed(lambda _: make(), make, repeats) / len(texts) * 1e3,
        "ms, refused": timed(list_all, make, repeats) / sum(map(len, answers[:4])) * 1e3,
        "same": sum(one.ids == ids for one, ids in zip(completions, answers, strict=True)) / len(texts),
    }


def timed(call: Callable[[Any], Any], prepare: Callable[[], Any], repeats: int) -> float:
    """Median of the processor seconds of `call(prepare())`, `prepare` aside."""
    seconds = []
    for _ in range(repeats):
        prepared = prepare()
        start = time.process_time()
        call(prepared)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


class Reduced:
    """A tokenizer's tokens that are in `answers`, and those of one byte, with new numbers."""

    def __init__(self, tokenizer: Any, answers: Sequence[Sequence[int]]) -> None:
        used = {token for answer in answers for token in answer}
        tokens = {token: n for token, n in tokenizer.get_vocab().items() if n in used or len(token) == 1}
        self.vocab = {token: number for number, token in enumerate(tokens)}
        self.number = {tokens[token]: number for token, number in self.vocab.items()}

    def get_vocab(self) -> dict[str, int]:
        return self.vocab

    def get_added_vocab(self) -> dict[str, int]:
        return {}


class Ready:
    """A model that has its logits ready: each row's answer, token by token. A row whose answer is whole has left."""

    def __init__(self, answers: Sequence[Sequence[int]], size: int) -> None:
        import torch
        from transformers import Qwen2Config

        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.config = Qwen2Config(num_hidden_layers=1)
        self.steps = []
        for step in range(max(map(len, answers))):
            tokens = torch.tensor([answer[step] for answer in answers if len(answer) > step])
            self.steps.append(torch.nn.functional.one_hot(tokens, size)[:, None].float())

    def eval(self) -> Ready:
        return self

    def __call__(self, *, input_ids: Any, past_key_values: Any, attention_mask: Any, **inputs: Any) -> Any:
        states = self.steps[0].new_zeros(len(input_ids), 1, input_ids.shape[1], 1)
        past_key_values.update(states, states, 0)
        if attention_mask.dim() == 4:  # prompts in one row, each of one token: the number of its text
            return SimpleNamespace(logits=self.steps[0][input_ids[0], 0][None])
        return SimpleNamespace(logits=self.steps[attention_mask.shape[1] - 1])


if __name__ == "__main__":
    main()
