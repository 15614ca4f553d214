"""An adapter is on layers that exist, and gives merged what it gives in training; otherwise it is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwen_ner.entities import NerError
from qwen_ner.inference.loading import load_weights
from qwen_ner.training.model import load_model, outline_model

LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
IDS = torch.tensor([[5, 6, 7, 300, 4]])


@pytest.fixture(scope="module")
def untied(tiny, tmp_path_factory):
    """The tiny model with a head of its own."""
    folder = tmp_path_factory.mktemp("untied") / "model"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    weights["lm_head.weight"] = torch.randn_like(weights["model.embed_tokens.weight"]) * 0.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def adapted(base, targets):
    """An adapter that changes every layer that it is on."""
    torch.manual_seed(1)
    model = load_model(str(base), lora={**LORA, "target_modules": targets}).eval()
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


EMBEDDINGS = [["embed_tokens"], ["lm_head"], ["model.embed_tokens", "q_proj"], ["lm_head", "embed_tokens"]]


@pytest.mark.parametrize("make", [load_model, outline_model])
@pytest.mark.parametrize("targets", EMBEDDINGS)
def test_an_adapter_on_a_tied_layer_is_refused(tiny, make, targets):
    with pytest.raises(NerError) as error:
        make(str(tiny), lora={**LORA, "target_modules": targets})
    assert (error.value.place, error.value.remedy) == ("lora_target_modules", "leave it out")
    assert set(error.value.value.split(", ")) == {name.rpartition(".")[2] for name in targets} - {"q_proj"}


@pytest.mark.parametrize("targets", [*EMBEDDINGS, "all-linear", ["all-linear"]])
def test_what_was_trained_is_what_is_loaded_where_no_weight_is_tied(untied, tmp_path, targets):
    model = adapted(untied, targets)
    base = load_model(str(untied)).eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        assert not torch.allclose(expected, base(input_ids=IDS).logits, atol=1e-2)
        model.save_pretrained(tmp_path / "adapter")
        merged = load_weights(tmp_path / "adapter", torch.float32)
        torch.testing.assert_close(merged(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
        merged.save_pretrained(tmp_path / "merged")
        again = load_weights(tmp_path / "merged", torch.float32)
        torch.testing.assert_close(again(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ["all-linear"], ["q_proj", "layers.0.mlp.up_proj"]])
def test_all_linear_leaves_a_tied_head_out(tiny, tmp_path, targets):
    model = adapted(tiny, targets)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        torch.testing.assert_close(
            load_weights(tmp_path, torch.float32)(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5
        )


def test_an_adapter_of_another_tool_on_a_tied_layer_is_not_merged(tiny, untied, tmp_path):
    adapted(untied, ["lm_head", "q_proj"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(tiny)}))
    with pytest.raises(NerError) as error:
        load_weights(tmp_path, torch.float32)
    assert (error.value.place, error.value.value) == (tmp_path / "adapter_config.json", "lm_head")
    assert "lora_target_modules" in error.value.remedy


@pytest.mark.parametrize("make", [load_model, outline_model])
@pytest.mark.parametrize("lora", [None, {**LORA, "target_modules": "all-linear"}])
def test_an_adapter_is_no_model_to_start_from(tiny, tmp_path, make, lora):
    """transformers would load it frozen around its base: nothing would be trained, or a second adapter on top."""
    adapted(tiny, "all-linear").save_pretrained(tmp_path / "adapter")
    with pytest.raises(NerError) as error:
        make(str(tmp_path / "adapter"), lora=lora)
    assert (error.value.place, error.value.value) == ("model_name_or_path", str(tmp_path / "adapter"))
    assert f"qwen-ner export {tmp_path / 'adapter'} OUT --merge" in error.value.remedy


@pytest.mark.parametrize("absent", ["q_prj", "norm", "mlp", "model", "", ".*_proj", "head", "None", "act_fn"])
def test_each_layer_to_adapt_exists(tiny, absent):
    """peft would adapt q_proj and say nothing of the other."""
    with pytest.raises(NerError) as error:
        outline_model(str(tiny), lora={**LORA, "target_modules": ["q_proj", absent]})
    assert (error.value.place, error.value.value) == ("lora_target_modules", absent)
    choice = error.value.remedy.removeprefix("choose from ").split(", ")
    assert {"all-linear", "q_proj", "down_proj"} <= set(choice)
    assert not {"lm_head", "embed_tokens"} & set(choice)
    assert outline_model(str(tiny), lora={**LORA, "target_modules": choice[1:]})


def test_another_fault_of_the_adapter_is_not_put_down_to_its_layers(tiny):
    with pytest.raises(NerError, match="dropout") as error:
        outline_model(str(tiny), lora={**LORA, "lora_dropout": 2.0, "target_modules": ["q_proj"]})
    assert error.value.place == "the adapter"
