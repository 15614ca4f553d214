from qwen_ner.columns import width as columns_of
from qwen_ner.training.doctor.report import token_table


def test_tokens_ids_and_marks_stand_below_each_other(tokenizer):
    ids = tokenizer("找 出\n<|im_end|>三星")["input_ids"]
    labels = [-100] * (len(ids) - 2) + ids[-2:]
    for width in (24, 40, 200):
        lines = token_table(ids, labels, tokenizer, width)
        assert all(columns_of(line) <= width for line in lines)
        cells = {
            head: " ".join(line[6:] for line in lines if line.startswith(head)).split()
            for head in ("token", "id", "loss")
        }
        assert cells["token"] == ["找", "␣", "出", "⏎", "<|im_end|>", "三", "星"]
        assert [int(cell) for cell in cells["id"]] == ids
        assert cells["loss"] == ["·"] * 5 + ["●"] * 2


def test_a_token_that_is_a_part_of_a_character_shows_its_bytes(tokenizer):
    ids = tokenizer("龘")["input_ids"]
    assert len(ids) > 1
    shown = token_table(ids, ids, tokenizer, 200)[0]
    assert bytes.fromhex(shown[6:].replace("\\x", "").replace(" ", "")).decode() == "龘"
