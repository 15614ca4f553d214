"""The API of a vLLM server, as far as it is needed: which models it has, and what they write.

In: an address, requests. Out: answers, checked for their form. Knows nothing of constraints and backends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import httpx

from ...entities import NerError, TextFault
from .base import EngineDown

KEY = "VLLM_API_KEY"
"""The environment variable that holds the server's `--api-key`."""

CONNECTIONS = 128
"""Requests at a time, of which the server makes a batch."""

SECONDS = 300.0
"""Patience with one request, which may have to wait for others."""

START = "start the server as docs/en/guides/vllm.md says"

GREEDY = {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
GREEDY |= {"presence_penalty": 0, "frequency_penalty": 0, "ignore_eos": True}
"""Replaces what the base model's generation_config.json would set; only `stop_token_ids` end an answer."""

TO_BLAME = {400, 413, 422, 500}
"""Statuses that a single request may be the reason of; with any other each request would be refused alike."""

SHOWN = {"logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True}

Value = TypeVar("Value")


class Written(NamedTuple):
    """An answer as token ids, its end token included: their log-probabilities, and the likeliest token at each place.

    `prompt` is the prompt in the server's own ids.
    """

    prompt: list[int]
    ids: list[int]
    logprobs: list[float]
    likeliest: list[int]

    @classmethod
    def of(cls, answer: Any) -> Written:
        """Read an answer. Raises `ValueError`, `LookupError` or `TypeError` if it is none of vLLM's completions."""
        (choice,) = answer["choices"]
        ids, found = choice["token_ids"], choice["logprobs"]
        likeliest = [int(max(top, key=top.get).rpartition(":")[2]) for top in found["top_logprobs"]]
        if not len(ids) == len(likeliest) == sum(map(math.isfinite, found["token_logprobs"])):
            raise ValueError("not one finite log-probability a token")
        return cls(choice["prompt_token_ids"], ids, found["token_logprobs"], likeliest)


class Server:
    """The server at `url`, `http://host:port/v1`. Threads may share one. Its methods raise `EngineDown` if it does
    not answer in time or takes no requests, and `TextFault` if it refuses this one, or says what vLLM would not."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not (key := os.environ.get(KEY, "")).isascii():
            raise NerError("the key is not ASCII", place=KEY, remedy="set it to the server's --api-key")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=2)  # vLLM closes idle ones after 5 s
        timeout = httpx.Timeout(SECONDS, connect=10)
        try:
            self.client = httpx.Client(base_url=self.url, headers=headers, limits=limits, timeout=timeout)
        except httpx.InvalidURL as error:
            raise NerError(f"no address ({error})", value=url, remedy="give http://host:port/v1") from error
        except (ImportError, ValueError) as error:  # of a proxy that the environment names: SOCKS needs a package
            remedy = "unset ALL_PROXY, HTTP_PROXY and HTTPS_PROXY for this command"
            raise NerError(f"cannot use the proxy ({error})", place=url, remedy=remedy) from error

    def models(self) -> dict[str, int]:
        """The context length of each model by its name; that of an adapter is its base's."""

        def read(answer: Any) -> dict[str, int]:
            cards = {card["id"]: card for card in answer["data"]}
            parents = {name: card if card["max_model_len"] else cards[card["parent"]] for name, card in cards.items()}
            return {name: int(card["max_model_len"]) for name, card in parents.items()}

        return self._read(self._send("models", None), read)

    def refuses(self, request: dict[str, Any]) -> str:
        """The reason why the server cannot take `request` (HTTP 400); empty if it can."""
        answer = self._send("completions", request | GREEDY | SHOWN)
        return answer.text if answer.status_code == 400 else self._read(answer, lambda _: "")

    def complete(self, request: dict[str, Any]) -> Written:
        """What the model writes, greedily."""
        return self._read(self._send("completions", request | GREEDY | SHOWN), Written.of)

    def _send(self, path: str, request: dict[str, Any] | None) -> httpx.Response:
        try:
            return self.client.request("POST" if request else "GET", path, json=request)
        except httpx.HTTPError as error:
            what = f"no answer ({type(error).__name__}: {error})"
            remedy = "check the address, or wait until the server has loaded its model and run the same command again"
            raise EngineDown(what, place=self.url, remedy=remedy) from error

    def _read(self, answer: httpx.Response, read: Callable[[Any], Value]) -> Value:
        if not answer.is_success:
            status, found = answer.status_code, answer.request.url.path.endswith("/completions")
            renamed = "serve the model under the name that it had (--served-model-name), or run the command again"
            absent = renamed if found else "give an address that ends in /v1"
            remedies = {401: f"set {KEY} to the server's --api-key", 404: absent}
            what, kind = f"the server refused (HTTP {status})", TextFault if status in TO_BLAME else EngineDown
            remedy = remedies.get(status, "look at the server's log")
            raise kind(what, value=answer.text[:300], place=self.url, remedy=remedy)
        try:
            return read(answer.json())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            what = f"not an answer of vLLM's ({error!r})"
            raise TextFault(what, value=answer.text[:300], place=self.url, remedy=START) from error
