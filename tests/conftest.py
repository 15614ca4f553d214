"""Fixtures: a two-layer Qwen2, a few rows of text, and trainings of them. No test reaches a network."""

import gc
import logging
import os
import signal
import tempfile

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # started in the background by a shell: so would all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Read by the libraries when they are imported, so before anything else. Once a process: kills.py imports this file again.
if os.environ.get("QWEN_NER_TESTS") != str(os.getpid()):
    os.environ |= {"QWEN_NER_TESTS": str(os.getpid()), "HF_HOME": tempfile.mkdtemp(prefix="qwen_ner_tests_")}
_home = os.environ["HF_HOME"]
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # a worker a core
    "OMP_WAIT_POLICY": "PASSIVE",
}
if os.environ.get("QWEN_NER_GPU_TESTS") != "1":  # for tests/gpu alone; all others compare what a CPU computes
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, reaching
from filelock import FileLock
from hypothesis import settings
from rows import EIGHT
from warm_python import WarmPython
from warm_python import warm_python as warm

from qwen_ner.codec import Codec
from qwen_ner.entities import CLUENER

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
# A thread of wandb, whose service a test has ended, would say so in the log of whichever test comes later.
logging.getLogger("wandb.sdk.lib.asyncio_manager").disabled = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use two hosts or a browser, and have each worker begin with files that hold slow ones.

    Workers get equal parts of the list and, towards the end, take short tests from one another: a slow one would keep
    the last of them.
    """
    for item in items:
        for fixture, mark in (("hosts", "hosts"), ("chromium", "browser")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    marks = ("slow", "bench", "hosts", "browser")
    long = [tests for tests in files.values() if any(test.get_closest_marker(mark) for test in tests for mark in marks)]
    short = [tests for tests in files.values() if tests not in long]
    if workers > 1:
        parts = ((*long[n::workers], *short[n::workers]) for n in range(workers))
        items[:] = [item for part in parts for tests in part for item in tests]


def pytest_collection_finish() -> None:
    """What the imports made stays: each full collection would look through it once more, a fifth of the time of all tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def pytest_unconfigure() -> None:
    shutil.rmtree(_home, ignore_errors=True)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what a test leaves in the environment: accelerate sets OMP_NUM_THREADS, after which no fork would be warm."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def undrawn() -> Iterator[None]:
    """No plots in the reports of this process: they take half of a short training. tests/evaluation draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qwen_ner.evaluation.report.plots", lambda *_: ())
        yield


@pytest.fixture(scope="session")
def warm_python() -> WarmPython:
    """Runs programs as forks of a Python that has its imports done; see warm_python.py for `run`, `start`, `launch`.

    Code without fixtures imports it: `from warm_python import warm_python`.
    """
    return warm


MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """`make_once(name, make)`: a folder that `make(folder)` fills, once for all xdist workers. Do not write to it."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "common"
    place.mkdir(exist_ok=True)

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = place / name, place / f"{name}.made"
        with FileLock(place / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def codec() -> Codec:
    return Codec(CLUENER, "找出实体")


@pytest.fixture(scope="session")
def tiny(make_once: MakeOnce) -> Path:
    """The folder of an untrained two-layer model. Do not write to it."""
    from qwen_ner.training.tiny import make_tiny

    return make_once("tiny", lambda folder: make_tiny(folder / "model", layers=2, hidden=64, dropout=0.0)) / "model"


@pytest.fixture(scope="session")
def tokenizer(tiny: Path):
    from qwen_ner.inference.loading import load_tokenizer

    return load_tokenizer(tiny)


@pytest.fixture
def hub(tiny: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """A fake Hub with the base model tester/base; this process can reach no other."""
    hub = FakeHub()
    hub.create("tester/base", files={path.name: path.read_bytes() for path in tiny.iterdir()})
    with reaching(hub, tmp_path / "hub_cache"):
        yield hub
    hub.close()


@pytest.fixture(scope="session")
def taught(make_once: MakeOnce) -> Path:
    """A folder with train.jsonl and dev.jsonl. dev is part of train, so that a short training already scores on it."""
    from qwen_ner.data.datasets import write_jsonl

    def make(folder: Path) -> None:
        rows = [type(gold)(f"{i}-{k}", gold.text, gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
        write_jsonl(folder / "train.jsonl", rows)
        write_jsonl(folder / "dev.jsonl", rows[:7])

    return make_once("taught", make)


@pytest.fixture(scope="session")
def trained(make_once: MakeOnce, taught: Path, tiny: Path) -> dict[str, Path]:
    """The folders of three real trainings: `full`, `adapter` (of tester/base) and `inline`. Do not write to them."""
    from qwen_ner.training.recipe import load_recipe
    from qwen_ner.training.run import train

    def make(place: Path) -> None:
        hub = FakeHub()
        hub.create("tester/base", files={path.name: path.read_bytes() for path in tiny.iterdir()})
        (place / "recipe.yaml").write_text(
            f"model_name_or_path: tester/base\ndataset: {taught}\nsystem_prompt: 找出实体\nvalidation_rows: 8\n"
            "examples: [王芳在深圳卖三星手机]\nuse_cpu: true\nlr_scheduler_type: constant\neval_strategy: steps\n"
            "save_strategy: steps\nmax_new_tokens: 48\nlogging_steps: 10\nseed: 7\nreport_to: none\n",
            encoding="utf-8",
        )
        with reaching(hub, place / "cache"):
            for name, more in {
                "full": ["--learning_rate", "1e-2"],
                "adapter": ["--learning_rate", "2e-2", "--lora_r", "8"],
                "inline": ["--learning_rate", "1e-2", "--target", "inline", "--max_new_tokens", "96"],
            }.items():
                steps = ["--max_steps", "40", "--eval_steps", "20", "--save_steps", "20"]
                train(load_recipe(place / "recipe.yaml", [*more, *steps, "--output_dir", str(place / name)]))
        hub.close()

    place = make_once("trained", make)
    return {name: place / name for name in ("full", "adapter", "inline")}


@pytest.fixture(scope="session")
def cluener_dir() -> Path:
    """The folder of the real CLUENER, if QWEN_NER_DATA names it."""
    folder = os.environ.get("QWEN_NER_DATA")
    if not folder:
        pytest.skip("QWEN_NER_DATA does not name CLUENER's folder")
    return Path(folder).resolve()
