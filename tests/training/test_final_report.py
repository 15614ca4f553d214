"""What is said at the end of a training."""

import json

import pytest
from rows import EIGHT

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.inference.evaluate import evaluate
from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


@pytest.mark.slow
def test_without_a_test_split_it_is_said_on_what_the_score_rests(tiny, tmp_path, capsys):
    rows = [type(gold)(f"{i}-{k}", f"{gold.text}{k}", gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
    data = tmp_path / "data"
    write_jsonl(data / "train.jsonl", rows[8:])
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: {tiny}\ndataset: {data}\nvalidation_rows: 4\nmax_steps: 1\nuse_cpu: true\n"
        "max_new_tokens: 4\nreport_to: none\n"
        'examples: ["三星\\e[31m手机"]\n',
        encoding="utf-8",
    )

    def said(*more):
        train(load_recipe(path, ["--output_dir", str(tmp_path / f"out{len(more)}"), *more]))
        out = capsys.readouterr().out
        assert "\n三星\\x1b[31m手机\n" in out, "a text cannot write to the terminal"
        return [line for line in out.splitlines() if "has no test split" in line]

    (line,) = said()
    assert "the score is of 1 validation row, held out of train, which also chose the checkpoint" in line
    assert json.loads((tmp_path / "out0" / "metrics.json").read_text())["training"]["local_data"] is True
    (line,) = said("--eval_strategy", "no", "--load_best_model_at_end", "false")
    assert "chose" not in line, "no evaluation chose anything"
    write_jsonl(data / "dev.jsonl", rows[:8])
    (line,) = said("--seed", "1")
    assert "the score is of 8 dev rows, which also chose the checkpoint" in line
    write_jsonl(data / "test.jsonl", rows[:8])
    assert said("--seed", "1", "--data_seed", "1", "--logging_steps", "1") == []


@pytest.mark.parametrize("dataset", ["sample", "own"])
def test_a_toy_is_called_a_toy_and_only_the_sample_made_up(tmp_path, taught, capsys, dataset):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: tiny\ndataset: {taught if dataset == 'own' else 'sample'}\noutput_dir: {tmp_path / 'out'}\n"
        "validation_rows: 4\nmax_train_samples: 8\nmax_eval_samples: 2\nmax_steps: 1\nmax_new_tokens: 4\nuse_cpu: true\n"
        "eval_strategy: no\nsave_strategy: no\nreport_to: none\n",
        encoding="utf-8",
    )
    train(load_recipe(path))
    printed = capsys.readouterr().out
    assert "This was a toy model" in printed
    assert ("made-up" in printed) is (dataset == "sample")
    assert f"trained on {taught if dataset == 'own' else 'sample'}: 8 rows" in printed.splitlines()[-6:]
    assert (f"This was a toy model on {taught}:" in printed) is (dataset == "own")
    assert (f"--output_dir {tmp_path / 'out'}-lora" in printed) is (dataset == "own")


def test_a_model_is_scored_on_the_rows_of_its_file_that_were_held_out(tmp_path, capsys):
    """`evaluate` on the file scores the rows, and gives the figures, of the end of the training."""
    rows = [type(gold)(f"{i}-{k}", f"{gold.text}{k}", gold.entities) for k in range(3) for i, gold in enumerate(EIGHT)]
    write_jsonl(tmp_path / "own.jsonl", rows)
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: tiny\ndataset: {tmp_path / 'own.jsonl'}\noutput_dir: {tmp_path / 'out'}\n"
        "validation_rows: 4\nmax_steps: 1\nmax_new_tokens: 4\nuse_cpu: true\neval_strategy: no\nsave_strategy: no\n"
        "report_to: none\n",
        encoding="utf-8",
    )
    train(load_recipe(path))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    (again,) = evaluate(str(tmp_path / "out"), str(tmp_path / "own.jsonl"), decodings=["free"])
    assert again.contract.fingerprint == written["contract"]["fingerprint"]
    assert again.to_dict()["surface"] == written["surface"]
