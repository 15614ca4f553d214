"""A model by its name on the Hub, and what is said where the Hub does not give it."""

import logging

import pytest
from huggingface_hub import constants

from qwen_ner.entities import NerError
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
    patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # it tries again for half a minute


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
        (lambda hub, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True), "tester/ner", None, None, "HF_HUB_OFFLINE"),
        (unreachable, "tester/ner", None, None, "check the network"),
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
