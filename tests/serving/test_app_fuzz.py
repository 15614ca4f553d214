"""Any request, valid or not by the OpenAPI document, gets a response that the document describes."""

import os
import threading
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")
uvicorn = pytest.importorskip("uvicorn")

EXAMPLES = int(os.environ.get("QWEN_NER_FUZZ", "25"))
"""Requests per path; QWEN_NER_FUZZ=1000 for the long run."""


@pytest.fixture(scope="module")
def document(asked_folder):
    """The schema of a server in a thread."""
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.serving.app import create_app
    from qwen_ner.serving.run import open_socket
    from qwen_ner.serving.schemas import Limits

    app = create_app(Extractor.from_pretrained(asked_folder), limits=Limits(max_texts=8))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    listening = open_socket("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    # 413 answers a request with more texts than the document allows.
    refusals = {"checks": {"negative_data_rejection": {"expected-statuses": ["413", "415", "422", "405"]}}}
    yield schemathesis.openapi.from_url(
        f"http://127.0.0.1:{listening.getsockname()[1]}/openapi.json", config=schemathesis.Config.from_dict(refusals)
    )
    server.should_exit = True
    thread.join()


@pytest.mark.slow
def test_every_response_is_documented(document):
    asked = Counter()
    for operation in document.get_all_operations():
        one = operation.ok()

        @given(case=one.as_strategy() | one.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
        def ask(case):
            asked[one.path] += 1  # noqa: B023  (called before the next one)
            case.call_and_validate(timeout=20)

        ask()
    assert asked["/v1/extract"] >= EXAMPLES
    assert set(asked) == {"/v1/extract", "/v1/model", "/healthz", "/readyz", "/metrics"}
