"""A tiny model, and a server around it."""

import shutil
import threading
from contextlib import asynccontextmanager

import pytest

from qwen_ner.contract import NerConfig
from qwen_ner.entities import CLUENER


@pytest.fixture(scope="session")
def asked_folder(tiny, tmp_path_factory):
    """An untrained model folder with windows of 24 characters. Do not write to it."""
    folder = tmp_path_factory.mktemp("asked") / "model"
    shutil.copytree(tiny, folder)
    NerConfig(CLUENER, "找出实体", 12, (2, 0), window=24).save(folder)
    return folder


@pytest.fixture
def extractor(asked_folder):
    from qwen_ner.inference.extractor import Extractor

    return Extractor.from_pretrained(asked_folder)


class Hold:
    """Blocks a model until `go` is set; `asked` holds the texts that it took together."""

    def __init__(self, extractor):
        self.go, self.asked, serve = threading.Event(), [], extractor.serve

        def held(feed, **options):
            def take(tokens):
                if given := feed(tokens):
                    self.asked.append([part.text for part in given])
                    assert self.go.wait(20)
                return given

            serve(take, **options)

        extractor.serve = held

    @property
    def texts(self):
        return [text for call in self.asked for text in call]


@pytest.fixture
def hold(extractor):
    return Hold(extractor)


@pytest.fixture
def serving():
    httpx = pytest.importorskip("httpx")
    server = pytest.importorskip("qwen_ner.serving.app")

    @asynccontextmanager
    async def client_of(extractor, **options):
        app = server.create_app(extractor, **options)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=30) as client:
                client.app = app
                yield client

    return client_of
