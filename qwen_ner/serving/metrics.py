"""The metrics of a server, for Prometheus.

In: requests as they end, and what the model reads. Out: the registry of a server, which `/metrics` shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Monitor:
    """What is counted of requests and of what is read for them; `watch` exports the state of a queue."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry, namespace="qwen_ner")
        histogram = partial(Histogram, registry=self.registry, namespace="qwen_ner")
        self.requests = counter("requests", "Requests by path and status.", ["path", "status"])
        self.seconds = histogram("request_seconds", "Duration of a request.", ["path"], buckets=SECONDS)
        self.texts = counter("texts", "Texts of accepted requests.")
        self.characters = counter("characters", "Characters read by the model.")
        self.tokens = counter("tokens", "Tokens of prompts and answers.")
        self.batch_windows = histogram("batch_windows", "Texts, or windows, begun together.", buckets=SIZES)
        self.batch_requests = histogram("batch_requests", "Requests begun together.", buckets=SIZES)

    def watch(self, tokens: Callable[[], float], requests: Callable[[], float]) -> None:
        gauge = partial(Gauge, registry=self.registry, namespace="qwen_ner")
        gauge("queue_tokens", "Estimated tokens in the queue.").set_function(tokens)
        gauge("queue_requests", "Requests in the queue.").set_function(requests)
