"""A two-layer Qwen2 and rows of our own: real things, small. Nothing here or below reaches a network."""

import os
import tempfile

# Read by the libraries when they are imported, so before anything else.
_home = tempfile.mkdtemp(prefix="qwen_ner_tests_")
os.environ |= {
    "HF_HOME": _home,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "CUDA_VISIBLE_DEVICES": "",
}

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from qwen_ner.codec import Codec
from qwen_ner.entities import CLUENER

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_unconfigure() -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec(CLUENER, "找出实体")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained two-layer model. Not to be written to."""
    from qwen_ner.training.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("tiny") / "model", layers=2, hidden=64, dropout=0.0)


@pytest.fixture(scope="session")
def tokenizer(tiny: Path):
    from qwen_ner.inference.extractor import load_tokenizer

    return load_tokenizer(tiny)


@pytest.fixture(scope="session")
def cluener_dir() -> Path:
    """The real CLUENER, where its folder is given."""
    folder = os.environ.get("QWEN_NER_DATA")
    if not folder:
        pytest.skip("QWEN_NER_DATA does not name CLUENER's folder")
    return Path(folder).resolve()
