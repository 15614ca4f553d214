"""Prompts completed by a vLLM server that others run: token ids there and back.

In: prompts as token ids, and a `Constraint` for each whose answer must follow one. Out: a `Completion` for each, in
order. The server makes each constraint again (`constraints.vllm`), and ours checks what it wrote.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...contract import NerConfig
from ...entities import NerError, TextFault
from ..constraints.remote import LABELS, TEXT, constraint_arguments, lark
from .base import BATCH_TOKENS, Backend, Completion, Constraint, Draw, Feed, Request
from .vllm_api import CONNECTIONS, START, Server

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

LOOK = 0.02
"""Seconds after which `HttpBackend.serve` asks for more, whether an answer has come or not."""


class HttpBackend(Backend):
    """Writes with `model` of `server`, whose context has `max_length` tokens.

    `grammar` says whether the server has our logits processor. If not, JSON keeps to `constraints.remote.lark`, and its
    log-probabilities, which are those under that grammar, are left out; marks in a copy are written freely.
    """

    def __init__(self, server: Server, model: str, max_length: int, end_token_ids: Sequence[int]) -> None:
        self.server, self.model, self.max_length, self.grammar = server, model, max_length, True
        self.ends = list(end_token_ids)

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        config: NerConfig,
        *,
        url: str,
        dtype: str = "auto",
        **_: str | None,
    ) -> HttpBackend:
        """The model of the server at `url` (`http://host:port/v1`); of several the one that `#name` behind it names.

        Raises `NerError` if there is no such server or model, if it makes other tokens of a text than `tokenizer`, or
        if its log-probabilities are not the model's own, or for a dtype, which is the server's affair.
        """
        if dtype != "auto":
            raise NerError("the server chooses it", value=dtype, place="dtype", remedy="start the server with it")
        base, _sign, name = url.partition("#")
        server = Server(base)
        lengths = server.models()
        if name not in lengths and (name or len(lengths) != 1):
            remedy = f"give {' or '.join(f'{base}#{one}' for one in lengths)}"
            raise NerError("not the name of one of the server's models", value=name, place=base, remedy=remedy)
        model = name or next(iter(lengths))
        backend = cls(server, model, lengths[model], config.end_token_ids)
        backend._check(tokenizer, config)
        return backend

    def _check(self, tokenizer: PreTrainedTokenizerBase, config: NerConfig) -> None:
        """Find out whether the server has our grammar. Raises `NerError` for another tokenizer or log-probabilities."""
        labels = list(config.labels.names)
        # Without a text the logits processor refuses this; a server that has none does not look at it.
        self.grammar = TEXT in self.server.refuses(self._request([0], 1) | {"vllm_xargs": {LABELS: labels}})
        sample = "".join([*labels, config.system_prompt])
        nothing = {"add_special_tokens": False, "vllm_xargs": {TEXT: "", LABELS: labels}}
        written = self.server.complete(self._request(sample, 4) | nothing)
        if written.prompt != tokenizer(sample, add_special_tokens=False)["input_ids"]:
            remedy = f"serve the model of this folder; {START}"
            raise NerError("the server has another tokenizer", value=self.model, place=self.server.url, remedy=remedy)
        if not self.grammar:
            fault = "differ from the text" if config.target == "inline" else "repeat a surface"
            what = "%s lacks the grammar: entities have no scores, an answer can %s or be cut off; %s."
            log.warning(what, self.server.url, fault, START)
        elif max(written.logprobs) >= 0:  # under the grammar's mask, {} would be certain
            what, remedy = "the log-probabilities are not the model's own", "start it with --logprobs-mode raw_logprobs"
            raise NerError(what, value=max(written.logprobs), place=self.server.url, remedy=remedy)

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        constraints: Sequence[Constraint] | None = None,
        *,
        draws: Sequence[Draw] | None = None,
        hints: Sequence[Constraint] | None = None,
        batch_tokens: int | None = None,
        on_rows: Callable[[int], object] | None = None,
    ) -> list[Completion]:
        """See `Backend.complete`. Raises `NerError` if an answer is missing, late, or does not keep to the grammar, and
        for `draws`."""
        guides: Sequence[Constraint | None] = constraints or [None] * len(prompts)
        drawn: Sequence[Draw | None] = draws or [None] * len(prompts)
        done = []
        with ThreadPoolExecutor(CONNECTIONS) as pool:  # its map drops what waits when one fails
            for completion in pool.map(self._complete, prompts, guides, drawn, repeat(limit)):
                done.append(completion)
                if on_rows:
                    on_rows(1)
        return done

    def serve(self, feed: Feed, limit: int, *, batch_tokens: int | None = None) -> None:
        """See `Backend.serve`. Raises what `complete` does, once all that the server was asked for has ended."""
        asked: dict[Future[Completion | None], Request] = {}
        failed: BaseException | None = None

        def completion(request: Request) -> Completion | None:
            given = request.prompt, request.guide, request.draw, limit
            return None if request.cancelled() else self._complete(*given)

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            while True:
                more = feed(batch_tokens or BATCH_TOKENS) if not failed and len(asked) < CONNECTIONS else ()
                asked |= {pool.submit(completion, request): request for request in more}
                if not asked:
                    break
                for future in wait(asked, LOOK, FIRST_COMPLETED).done:
                    request = asked.pop(future)
                    if error := future.exception():
                        failed = failed or error
                        asked = {other: request for other, request in asked.items() if not other.cancel()}
                    else:
                        request.answer(future.result())
        if failed:
            raise failed

    def _complete(self, prompt: Sequence[int], guide: Constraint | None, draw: Draw | None, limit: int) -> Completion:
        if draw:
            what, remedy = "answers of a server cannot be drawn", "leave it out, or use the engine torch"
            raise NerError(what, value=draw.temperature, place="temperature", remedy=remedy)
        request = self._request(list(prompt), limit)
        if guide and self.grammar:
            request["vllm_xargs"] = constraint_arguments(guide.text, guide.labels, guide.target)
        elif guide and guide.target == "json":
            request["structured_outputs"] = {"grammar": lark(guide.text, guide.labels)}
        written = self.server.complete(request)
        finished = bool(written.ids) and written.ids[-1] in self.ends
        ids = written.ids[:-1] if finished else written.ids
        if not guide:
            return Completion(ids, finished, written.logprobs)
        cut_off = guide.target == "inline" and len(ids) == limit  # a text that is longer than the limit
        kept = _advance(guide, ids, written.likeliest) and (guide.closed if finished else cut_off)
        if not self.grammar:
            return Completion(ids, finished)  # what is wrong with it, decoding finds
        if not kept:
            remedy = f"give the server's environment this version of qwen_ner; {START}"
            raise TextFault("the answer breaks the grammar", value=ids, place=self.server.url, remedy=remedy)
        return Completion(ids, finished, written.logprobs[: len(ids)])

    def _request(self, prompt: list[int] | str, limit: int) -> dict[str, Any]:
        return {"model": self.model, "prompt": prompt, "max_tokens": limit, "stop_token_ids": self.ends}


def _advance(guide: Constraint, ids: Sequence[int], likeliest: Sequence[int]) -> bool:
    """Have `guide` take `ids`, asked for the model's own choices before; returns whether it allows all of them."""
    for token, choice in zip(ids, likeliest, strict=False):
        if choice != token:
            guide.allows(choice)
        try:
            guide.advance(token)
        except ValueError:
            return False
    return True
