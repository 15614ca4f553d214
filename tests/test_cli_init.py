"""`qwen-ner init` as a user types it, and what it says to type next."""

import re
import shlex
import sys

import pytest
from rows import EIGHT
from test_cli import in_process
from warm_python import warm_python

from qwen_ner.data.datasets import write_jsonl
from qwen_ner.training.recipe import load_recipe

SPLITS = {"train": range(40), "dev": range(40, 48)}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, but for data/medicine."""
    for split, numbers in SPLITS.items():
        rows = [type(row)(str(n), f"{row.text}{n}", row.entities) for n in numbers for row in [EIGHT[n % 8]]]
        write_jsonl(tmp_path / "data" / "medicine" / f"{split}.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_a_recipe_and_says_the_next_two_commands(home, capsys):
    code, out, _ = in_process(capsys, "init", "data/medicine")
    assert code == 0
    assert load_recipe("recipe.yaml").data.dataset == "data/medicine"
    assert [line.strip() for line in out.splitlines()[-2:]] == [
        "qwen-ner doctor recipe.yaml",
        "qwen-ner train recipe.yaml",
    ]
    assert re.search(r"^company +10 +2  三星 \(6\) · 苹果 \(6\)$", out, re.MULTILINE), out


def test_tags_out_of_order_are_repaired_listed_and_the_recipe_says_so(home, capsys, caplog):
    tagged = "三\tI-company\n星\tI-company\n在\tO\n" + "\n北\tB-address\n京\tI-address\n" * 20
    (home / "weibo").mkdir()
    (home / "weibo" / "train.bio").write_text(tagged, encoding="utf-8")
    code, out, _ = in_process(capsys, "init", "weibo")
    assert (code, "company" in out) == (0, True)
    assert "train.bio:1" in caplog.text
    assert load_recipe("recipe.yaml").data.repair is True
    (home / "weibo" / "train.bio").write_text(f"{tagged}\n星\tX-company\n", encoding="utf-8")
    code, _, err = in_process(capsys, "init", "weibo", "--force")
    assert code == 1
    assert "X-company" in err
    assert "train.bio:1:" not in err  # it would be repaired


def test_the_format_of_faulty_data_is_told_once(home, capsys, caplog):
    """They are read again to repair what can be."""
    (home / "a.csv").write_text("text,label,entity\n三星在北京,公司,苹果\n", encoding="utf-8")
    with caplog.at_level("INFO"):
        assert in_process(capsys, "init", "a.csv")[0] == 1
    assert len([said for said in caplog.messages if "a.csv is read as" in said]) == 1


def test_on_several_gpus_it_says_to_launch_on_all_of_them(home, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    _, out, _ = in_process(capsys, "init", "data/medicine")
    assert out.splitlines()[-1].strip() == "accelerate launch recipe.yaml"


def test_the_folder_it_stands_in_is_the_data(home, monkeypatch, capsys):
    monkeypatch.chdir(home / "data" / "medicine")
    assert in_process(capsys, "init")[0] == 0
    assert load_recipe("recipe.yaml").training.output_dir == "outputs/medicine"


def test_a_second_recipe_for_the_same_data_has_a_folder_of_its_own(home, capsys):
    """As after a training of the toy, whose checkpoints a training of a Qwen could not go on from."""
    for n, folder in enumerate(("outputs/medicine", "outputs/medicine-2", "outputs/medicine-3")):
        assert in_process(capsys, "init", "data/medicine", "--output", f"{n}.yaml")[0] == 0
        args = load_recipe(f"{n}.yaml").training
        assert (args.output_dir, args.run_name) == (folder, folder.removeprefix("outputs/"))
        (home / folder).mkdir(parents=True)


def test_a_recipe_is_overwritten_only_by_force(home, capsys):
    (home / "mine.yaml").write_text("seed: 3\n", encoding="utf-8")
    code, _, err = in_process(capsys, "init", "data/medicine", "--output", "mine.yaml")
    assert code == 1
    assert "--force" in err
    assert load_recipe("mine.yaml").values == {"seed": 3}
    assert (
        in_process(capsys, "init", "data/medicine", "--output", "mine.yaml", "--force", "--model", "you/base")[0] == 0
    )
    assert load_recipe("mine.yaml").model.model_name_or_path == "you/base"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["data/nothing"], "no such data set"),
        (["nowhere/annotations.xlsx"], "no such data set"),  # not a data set of the Hub, owner/name
        (["data"], "holds no file"),
        (["data/medicine", "--output", "recipe.txt"], "--output"),
        (["data/medicine", "--output", "no/where/recipe.yaml"], "create no/where"),
    ],
)
def test_bad_input_is_told_and_nothing_written(home, capsys, argv, said):
    code, _, err = in_process(capsys, "init", *argv)
    assert code == 1
    assert said in err
    assert [path.name for path in home.iterdir()] == ["data"]


@pytest.mark.slow
def test_what_it_says_to_type_next_works(home, capsys):
    _, out, _ = in_process(capsys, "init", "data/medicine", "--model", "tiny", "--output", "a recipe.yaml")
    doctor, train = (shlex.split(line) for line in out.splitlines()[-2:])
    code, out, err = in_process(capsys, *doctor[1:])
    assert code == 0, out + err
    assert train[0] == "qwen-ner"
    few = "--max_steps 2 --eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 2 --max_new_tokens 4"
    done = warm_python.run([sys.executable, "-m", "qwen_ner", *train[1:], *few.split()])
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert "outputs/medicine on data/medicine dev: 8 rows" in printed
    assert "trained on data/medicine: 40 rows" in printed
    assert "made-up" not in printed
