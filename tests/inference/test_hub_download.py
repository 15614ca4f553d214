"""A model by its name on the Hub, and what is said where the Hub does not give it."""

import json
import logging
import sys
import time
from types import SimpleNamespace

import pytest
from conftest import reaching
from huggingface_hub import constants
from silent import mute, refusing

from qwen_ner.entities import NerError
from qwen_ner.files import install_line
from qwen_ner.inference.extractor import Extractor
from qwen_ner.inference.hub_download import local_folder


@pytest.fixture
def model(hub, tiny, codec, tmp_path):
    """tester/ner: trained in all but its training."""
    from qwen_ner.contract import NerConfig

    (tmp_path / "made").mkdir()
    NerConfig(codec.labels, "找出实体", 12, (2, 0)).save(tmp_path / "made")
    files = {path.name: path.read_bytes() for folder in (tiny, tmp_path / "made") for path in folder.iterdir()}
    hub.create("tester/ner", files={**files, "optimizer.pt": b"pickle", "checkpoint-4/model.safetensors": b"another"})
    return "tester/ner"


def unreachable(hub, patch):
    hub.close()


def test_what_is_downloaded_is_the_model_and_no_pickle(model, hub):
    path = local_folder(model)
    assert {found.name for found in path.iterdir()} >= {"model.safetensors", "ner_config.json", "tokenizer.json"}
    assert not any("optimizer.pt" in request or "checkpoint-4" in request for request in hub.log)
    assert Extractor.from_pretrained(model).extract(["三星"])


def test_what_was_downloaded_before_needs_no_network(model, hub, monkeypatch):
    path = local_folder(model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_folder(model) == path


def test_a_repository_without_our_config_is_refused_before_its_weights_are_fetched(hub):
    with pytest.raises(NerError, match=r"ner_config\.json") as caught:
        local_folder("tester/base")
    assert (caught.value.place, caught.value.remedy) == ("tester/base", "give one that `qwen-ner push` wrote")
    assert not any("safetensors" in request for request in hub.log)


@pytest.mark.parametrize(
    ("spoil", "name", "revision", "value", "remedy"),
    [
        (lambda hub, patch: patch.delenv("HF_TOKEN"), "tester/private", None, 401, "hf auth login"),
        (lambda hub, patch: None, "tester/absent", None, 404, "check the name"),
        (lambda hub, patch: None, "tester/ner", "v9", "v9", "a branch, a tag or a commit"),
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), "tester/ner", None, None, "run hf download"),
        (unreachable, "tester/ner", None, None, "HF_ENDPOINT"),
    ],
    ids=["private", "absent", "revision", "offline", "unreachable"],
)  # fmt: skip
def test_what_the_hub_does_not_give(model, hub, monkeypatch, caplog, spoil, name, revision, value, remedy):
    hub.create("tester/private", private=True, files=hub.files("tester/ner"))
    spoil(hub, monkeypatch)
    with caplog.at_level(logging.CRITICAL), pytest.raises(NerError) as caught:
        local_folder(name, revision)
    assert (caught.value.place, caught.value.value) == (name, value)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("spoil", [lambda hub, patch: None, unreachable], ids=["absent", "unreachable"])
def test_a_folder_that_is_not_there_is_said_before_what_the_hub_says(hub, tmp_path, monkeypatch, caplog, spoil):
    (tmp_path / "outputs" / "ls_fixed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    spoil(hub, monkeypatch)
    with caplog.at_level(logging.CRITICAL):
        for name, near in (("outputs/ls_fixd", 'did you mean "outputs/ls_fixed"? Else '), ("outputs/x", "")):
            with pytest.raises(NerError, match=f"^{name}: no such folder, and as a name of the Hub: ") as caught:
                local_folder(name)
            assert caught.value.place == name
            assert caught.value.remedy.startswith(near)
            assert "did you mean" not in caught.value.remedy[len(near) :]


def test_a_private_model_is_its_owner_s(model, hub, monkeypatch):
    hub.repos[model]["private"] = True
    assert local_folder(model).is_dir()
    monkeypatch.setenv("HF_TOKEN", "hf_TheTokenOfSomebodyElse000")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "_of_another")
    with pytest.raises(NerError) as caught:
        local_folder(model)
    assert (caught.value.place, caught.value.value) == (model, 404)
    assert "hf auth login" in caught.value.remedy


def test_a_folder_has_no_revision(tiny):
    with pytest.raises(NerError) as caught:
        local_folder(tiny, "main")
    assert (caught.value.place, caught.value.value) == (str(tiny), "main")
    assert "--revision" in caught.value.remedy


@pytest.mark.parametrize("dead", [refusing, mute])
def test_a_hub_that_cannot_be_reached_is_said_at_once_with_the_ways_out(dead, tmp_path):
    """Model and tokenizer are asked for one after the other, as in a training."""
    from qwen_ner.inference.loading import load_tokenizer
    from qwen_ner.training.model import load_model, outline_model

    with dead() as url, reaching(SimpleNamespace(url=url), tmp_path):
        started = time.monotonic()
        for load in (local_folder, load_model, outline_model, load_tokenizer):
            with pytest.raises(NerError) as caught:
                load("tester/ner")
            assert "tester/ner" in (caught.value.place, caught.value.value)
            assert url in caught.value.what
            assert all(way in caught.value.remedy for way in ("HF_ENDPOINT", "modelscope:", "folder"))
            assert ("train tiny" in caught.value.remedy) is (load is not local_folder), (
                "of a trained model it is no way out"
            )
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("dead", [refusing, mute])
def test_what_was_downloaded_before_is_used_where_the_hub_cannot_be_reached(model, hub, dead, tmp_path, caplog):
    from qwen_ner.inference.loading import load_tokenizer
    from qwen_ner.training.model import load_model

    path = local_folder(model)
    load_model("tester/base")
    with dead() as url, reaching(SimpleNamespace(url=url), tmp_path / "hub_cache"):
        started = time.monotonic()
        assert local_folder(model) == path
        load_model("tester/base")
        load_tokenizer("tester/base")
        assert time.monotonic() - started < 20
    told = [record.message for record in caplog.records if url in record.message]
    assert sorted(message.partition("using ")[2].split()[0] for message in told) == ["tester/base", "tester/ner"], (
        "once"
    )


def test_weights_that_were_never_downloaded_are_missed_where_the_hub_cannot_be_reached(hub, tmp_path):
    from qwen_ner.training.model import load_model, outline_model

    outline_model("tester/base")
    with refusing() as url, reaching(SimpleNamespace(url=url), tmp_path / "hub_cache"):
        outline_model("tester/base")
        with pytest.raises(NerError) as caught:
            load_model("tester/base")
    assert "HF_ENDPOINT" in caught.value.remedy


class FakeModelScope:
    """`modelscope.snapshot_download` with the models of `folders`: {name: folder}."""

    def __init__(self, folders, cache):
        self.folders, self.cache, self.asked = folders, cache, []

    def snapshot_download(self, model_id, revision=None, *, allow_patterns=None, local_files_only=False):
        self.asked.append((model_id, revision, local_files_only))
        place = self.cache / model_id
        if local_files_only:
            if not place.is_dir():
                raise FileNotFoundError(f"{model_id} is not in the cache")
            return str(place)
        if model_id not in self.folders or revision not in (None, "master", "v1"):
            raise ConnectionError("404 Client Error: Not Found")
        place.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for path in self.folders[model_id].glob(pattern):
                (place / path.name).write_bytes(path.read_bytes())
        return str(place)


@pytest.fixture
def modelscope(trained, tiny, tmp_path, monkeypatch, hub):
    """A stand-in of ModelScope's client, for a service that tests cannot reach."""
    folders = {"tester/base": tiny, "tester/ner": trained["full"]}
    fake = FakeModelScope(folders, tmp_path / "modelscope")
    monkeypatch.setitem(sys.modules, "modelscope", fake)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    return fake


def test_a_trained_model_of_modelscope(modelscope, trained):
    texts = ["三星WCG2011北京赛区", "王芳在深圳"]
    given = Extractor.from_pretrained("modelscope:tester/ner", revision="v1").extract(texts)
    assert given == Extractor.from_pretrained(trained["full"]).extract(texts)
    assert {asked[:2] for asked in modelscope.asked} == {("tester/ner", "v1")}


def test_an_adapter_names_its_base_of_modelscope_and_finds_it_again(modelscope, tmp_path):
    import torch

    from qwen_ner.inference.loading import load_weights
    from qwen_ner.training.model import load_model

    lora = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "init_lora_weights": False}
    model = load_model("modelscope:tester/base", revision="v1", lora=lora)
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("modelscope:tester/base", "v1")
    loaded, merged = load_weights(tmp_path / "adapter", torch.float32), model.merge_and_unload()
    for one, other in zip(loaded.parameters(), merged.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "revision", "value", "remedy"),
    [
        ("modelscope:tester/absent", None, None, "check the name"),
        ("modelscope:tester/ner", "v9", "v9", "revision"),
        ("modelscope:ner", None, "ner", "modelscope:user/name"),
        ("modelscope:../../etc", None, "../../etc", "modelscope:user/name"),
        ("modelscope:tester/base", None, None, "qwen-ner push"),
    ],
)
def test_what_modelscope_does_not_give(modelscope, name, revision, value, remedy):
    with pytest.raises(NerError) as caught:
        local_folder(name, revision)
    assert (caught.value.place, caught.value.value) == (name, value)
    assert remedy in caught.value.remedy


def test_modelscope_cannot_be_reached(modelscope, monkeypatch):
    cached = local_folder("modelscope:tester/ner")
    with refusing() as url:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
        assert local_folder("modelscope:tester/ner") == cached
        with pytest.raises(NerError) as caught:
            local_folder("modelscope:tester/base")
    assert caught.value.place == "modelscope:tester/base"
    assert url in caught.value.what


def test_modelscope_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(NerError) as caught:
        local_folder("modelscope:tester/ner")
    assert (caught.value.place, caught.value.remedy) == (
        "modelscope:tester/ner",
        f"install it: {install_line('modelscope')}",
    )
