import pytest

from qwen_ner.entities import NerError
from qwen_ner.training.recipe import load_recipe


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"output_dir: {tmp_path / 'out'}\nuse_cpu: true\n{text}", encoding="utf-8")
        return path

    return write


def faults(path, *overrides):
    with pytest.raises(NerError) as caught:
        load_recipe(path, overrides)
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"{path} has {len(lines)} fault{'s'[: len(lines) > 1]}"
    return lines


def test_every_fault_is_found_at_once(write):
    path = write(
        "learnin_rate: 1e-4\nlora_r: sixteen\nbf16: maybe\nmax_steps: 4.5\nlr_scheduler_type: cosin\nlabels: [drug]\n"
        "max_new_tokens: -1\neval_strategy: no\nearly_stopping_patience: 3\nload_best_model_at_end: false\nseed: [1]\n"
    )
    found = faults(path, "--foo", "3", "stray")
    assert "learnin_rate: unknown; did you mean learning_rate?" in found
    assert 'lora_r: "sixteen" is not a whole number' in found
    assert 'bf16: "maybe" is not true or false' in found
    assert "max_steps: 4.5 is not a whole number" in found
    assert any(line.startswith('lr_scheduler_type: "cosin" is none of linear, cosine') for line in found)
    assert "labels: ['drug'] is not a mapping of names to values" in found
    assert "max_new_tokens: -1 is not a positive number" in found
    assert "seed: [1] is not a whole number" in found
    assert "foo: unknown" in found
    assert any(line.startswith("early_stopping_patience: eval_strategy: no evaluates nothing") for line in found)
    assert any(line.startswith("early_stopping_patience: needs load_best_model_at_end") for line in found)
    assert len(found) == 11


def test_numbers_and_lists_beyond_all_bounds_are_faults(write):
    assert "cannot convert float infinity to integer" in faults(write("logging_steps: .inf\n"))[0]
    assert faults(write(""), "--lora_target_modules", "[" * 5000)
    assert faults(write(""), "--lora_target_modules", "[" + "9" * 5000)


def test_what_the_trainer_itself_objects_to_is_found_with_the_rest(write):
    found = faults(write("learnin_rate: 1\neval_strategy: epoch\nsave_strategy: steps\n"))
    assert found[0].startswith("learnin_rate: unknown")
    assert "save and eval strategy to match" in found[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lora_alpha: 16\n", "lora_alpha: set without lora_r"),
        ("remove_unused_columns: true\n", "remove_unused_columns: must stay false"),
        ("label_smoothing_factor: 0.1\n", "label_smoothing_factor: needs label_smoothing"),
        ("learning_rate:\n", "learning_rate: needs a value"),
        ("lora_r: true\n", "lora_r: True is not a whole number"),
        ("dataset: {a: b}\n", "dataset: {'a': 'b'} is not a text"),
        ("negatives: 0\n", "negatives: 0.0 is not a share above 0; 0.1 adds one row for every ten"),
        ("negatives: -.inf\n", "negatives: -inf is not a share above 0"),
        ("negatives: many\n", 'negatives: "many" is not a number'),
        ("negatives_from: calm.txt\n", "negatives_from: set without negatives, so no row would be added"),
    ],
)
def test_one_fault(write, text, said):
    (found,) = faults(write(text))
    assert found.startswith(said)


def test_values_are_cast_by_the_type_of_their_field(write):
    recipe = load_recipe(
        write("learning_rate: 2e-5\nwarmup_steps: 0.1\nlora_r: 8\neval_strategy: steps\nsave_strategy: steps\neval_steps: 10\n"
              "lr_scheduler_kwargs: {num_cycles: 2}\nlabels: {drug: 药品}\ndataset: '123'\n")
    )  # fmt: skip
    assert recipe.training.learning_rate == 2e-5
    assert recipe.training.warmup_steps == 0.1
    assert recipe.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert recipe.data.labels == {"drug": "药品"}
    assert recipe.data.dataset == "123"
    assert recipe.model.lora() == {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}


def test_no_is_a_word_where_a_word_is_meant(write):
    recipe = load_recipe(write("eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: no\n"))
    assert recipe.training.eval_strategy == "no"
    assert recipe.training.load_best_model_at_end is False


def test_the_command_line_wins_in_every_spelling(write):
    path = write("learning_rate: 1e-3\nbf16: false\nlora_r: 4\n")
    recipe = load_recipe(
        path,
        ["--learning_rate", "5e-5", "--max-steps=7", "--lora_r", "none", "--eval_on_start", "--examples", "三星", "北京",
         "--lora_target_modules", "none", "--labels", '{"drug": "药品"}', "--warmup_steps=0.5", "--data_dir", "-"],
    )  # fmt: skip
    assert recipe.training.learning_rate == 5e-5
    assert recipe.training.max_steps == 7
    assert recipe.model.lora() is None
    assert recipe.training.eval_on_start is True
    assert recipe.data.examples == ["三星", "北京"]
    assert recipe.data.labels == {"drug": "药品"}
    assert recipe.values["learning_rate"] == 5e-5


def test_lists_arrive_as_sweeps_write_them(write):
    recipe = load_recipe(write("lora_r: 4\n"), ["--lora_target_modules=['q_proj', 'v_proj']", "--bf16=False"])
    assert recipe.model.lora_target_modules == ["q_proj", "v_proj"]
    assert load_recipe(write("report_to: [tensorboard, wandb]\n")).training.report_to == ["tensorboard", "wandb"]


def test_numbers_and_mappings_arrive_as_sweeps_write_them(write):
    path = write("lr_scheduler_type: cosine_with_restarts\n")
    recipe = load_recipe(path, ["--lora_r=16.0", "--lr_scheduler_kwargs={'num_cycles': 2}", "--learning_rate=1e-05"])
    assert recipe.values["lora_r"] == 16
    assert recipe.training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert recipe.training.learning_rate == 1e-05
    assert faults(path, "--lora_r=16.5") == ['lora_r: "16.5" is not a whole number']


def test_the_output_folder_is_filled_in_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    recipe = load_recipe(write(""), ["--output_dir=outputs/$WANDB_RUN_ID/${WANDB_RUN_ID}$$"])
    assert recipe.training.output_dir == recipe.values["output_dir"] == "outputs/abc/abc$"
    monkeypatch.delenv("WANDB_RUN_ID")
    (found,) = faults(write(""), "--output_dir=outputs/$WANDB_RUN_ID")
    assert found == 'output_dir: "outputs/$WANDB_RUN_ID" needs the environment variable WANDB_RUN_ID, which is not set'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        (b"a: [", "not YAML"),
        (b"a: " + b"[" * 5000, "not YAML: maximum recursion depth exceeded"),
        (b"seed: " + b"9" * 5000, "not YAML: Exceeds the limit"),
        (b"seed: 2001-99-99", "not YAML: month must be in 1..12"),
        (b"- a\n", "`key: value` lines"),
        (b"seed: 1\nseed: 2\n", "seed is given twice"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, said):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(NerError, match=said):
        load_recipe(path)


def test_no_file(tmp_path):
    with pytest.raises(NerError, match="No such file") as error:
        load_recipe(tmp_path / "nothing.yaml")
    assert error.value.place == tmp_path / "nothing.yaml"


def test_step_transforms_are_the_reduced_head_unless_the_recipe_names_others(write):
    assert load_recipe(write("")).training.step_transforms == ["reduced_head"]
    assert load_recipe(write("step_transforms: []\n")).training.step_transforms == []


def test_an_unknown_step_transform_is_a_fault(write):
    (fault,) = faults(write("step_transforms: [reduced_head, fgn]\n"))
    assert fault == 'step_transforms: "fgn" is none of reduced_head, label_smoothing'
