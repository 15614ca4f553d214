"""What is printed at the end of a training."""

import pytest

from qwen_ner.training.recipe import load_recipe
from qwen_ner.training.run import train


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
    assert (f"--output_dir {tmp_path / 'out'}-lora" in printed) is (dataset == "own")
