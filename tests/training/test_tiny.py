import torch
from transformers import AutoModelForCausalLM

from qwen_ner.data.datasets import read_dataset
from qwen_ner.training.tiny import make_tiny


def test_the_same_arguments_give_the_same_weights_and_a_made_model_is_left_alone(tiny, tmp_path):
    again = make_tiny(tmp_path / "again", layers=2, hidden=64, dropout=0.0)
    assert (again / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert (again / "tokenizer.json").read_bytes() == (tiny / "tokenizer.json").read_bytes()
    (again / "model.safetensors").write_bytes(b"mine")
    make_tiny(again, layers=2, hidden=64)
    assert (again / "model.safetensors").read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_the_first_heads_look_at_the_token_before(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="eager").eval()
    with torch.no_grad():
        seen = model(input_ids=torch.arange(20, 40)[None], output_attentions=True).attentions[0][0, :2]
    one_back = seen.diagonal(offset=-1, dim1=1, dim2=2)  # (head, position - 1)
    assert one_back.mean() > 0.9


def test_every_character_of_the_sample_is_one_token_and_comes_back(tokenizer):
    for split in ("train", "dev", "test"):
        for row in read_dataset("sample", split)[:300]:
            ids = tokenizer(row.text)["input_ids"]
            assert tokenizer.decode(ids) == row.text
            beyond_ascii = [c for c in row.text if ord(c) > 127]
            tokens = [tokenizer.decode([i]) for i in ids]
            if split == "train":
                assert all(c in tokens for c in beyond_ascii)


def test_text_that_the_tokenizer_has_never_seen_comes_back(tokenizer):
    text = "龘靐 ＡＢ“”\\ \u3000😀\r\n\tñ é"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
