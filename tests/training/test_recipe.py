import math
from dataclasses import fields
from pathlib import Path

import pytest
from rows import ROOT

from qwen_ner.entities import NerError
from qwen_ner.training.arguments import DataArguments, ModelArguments, NerTrainingArguments
from qwen_ner.training.contradictions import MUST_BE, RANGES, UNSUPPORTED
from qwen_ner.training.finding import FaultsError
from qwen_ner.training.recipe import LAUNCHER_LINE, load_recipe


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(f"output_dir: {tmp_path / 'out'}\nuse_cpu: true\n{text}", encoding="utf-8")
        return path

    return write


def faults(path, *overrides):
    with pytest.raises(FaultsError) as error:
        load_recipe(path, overrides)
    assert error.value.place == path
    return error.value.faults


def test_every_fault_is_found_at_once(write):
    path = write(
        "learnin_rate: 1e-4\nlora_r: sixteen\nbf16: maybe\nmax_steps: 4.5\nlr_scheduler_type: cosin\nlabels: [drug]\n"
        "max_new_tokens: -1\neval_strategy: no\nearly_stopping_patience: 3\nload_best_model_at_end: false\nseed: [1]\n"
    )
    found = faults(path, "stray", "--foo", "3")
    assert [(fault.place, fault.value) for fault in found] == [
        (None, "stray"), ("learnin_rate", None), ("lora_r", "sixteen"), ("bf16", "maybe"), ("max_steps", 4.5),
        ("lr_scheduler_type", "cosin"), ("labels", ["drug"]), ("seed", [1]), ("foo", None),
        ("max_new_tokens", -1), ("early_stopping_patience", None), ("early_stopping_patience", None),
    ]  # fmt: skip
    remedies = [fault.remedy for fault in found]
    assert remedies[:2] == ["write it as --key value", "did you mean learning_rate?"]
    assert "cosine" in remedies[5]
    assert "eval_strategy" in found[10].what
    assert "load_best_model_at_end" in found[11].what


def test_numbers_and_lists_beyond_all_bounds_are_faults(write):
    assert [fault.place for fault in faults(write("logging_steps: .inf\n"))] == ["logging_steps", None]
    assert faults(write(""), "--lora_target_modules", "[" * 5000)
    assert faults(write(""), "--lora_target_modules", "[" + "9" * 5000)


def test_a_list_in_a_list_is_a_fault_of_its_key(write):
    assert [fault.place for fault in faults(write("step_transforms: [[reduced_head]]\n"))] == ["step_transforms"]


def test_what_the_trainer_itself_objects_to_is_found_with_the_rest(write):
    own, trainers = faults(write("learnin_rate: 1\neval_strategy: epoch\nsave_strategy: steps\n"))
    assert own.place == "learnin_rate"
    assert "strategy to match" in trainers.what


@pytest.mark.parametrize(
    ("text", "what", "value", "remedy"),
    [
        ("lora_alpha: 16\n", "without lora_r", None, "set lora_r"),
        ("remove_unused_columns: true\n", "must stay false", True, ""),
        ("label_smoothing_factor: 0.1\n", "no effect", None, "add label_smoothing to step_transforms"),
        ("learning_rate:\n", "needs a value", None, ""),
        ("lora_r: true\n", "whole number", True, ""),
        ("dataset: {a: b}\n", "text", {"a": "b"}, ""),
        ("labels: {1: 药品}\n", "text", 1, "quotes"),
        ("labels: {no: 否}\n", "text", False, "quotes"),
        ("labels: {drug: 2024}\n", "text", 2024, "quotes"),
        ("negatives: 0\n", "share above 0", 0.0, "0.1"),
        ("negatives: -.inf\n", "share above 0", -math.inf, "0.1"),
        ("negatives: many\n", "a number", "many", ""),
        ("negatives_from: calm.txt\n", "without negatives", None, "negatives: 0.1"),
        ("nonfinite_gradients: go\n", "choices", "go", "stop, skip"),
        ("prediction_loss_only: true\n", "f1", True, "remove"),
        ("eval_do_concat_batches: false\n", "must stay true", False, ""),
        ("do_train: false\n", "must stay true", False, "evaluate"),
        ("use_liger_kernel: true\n", "packed", True, "reduced_head"),
        ("torch_compile: true\n", "packed", True, "remove"),
        ("torch_compile_mode: default\n", "packed", "default", "remove"),
        ("auto_find_batch_size: true\n", "no effect", True, "parts"),
        ("neftune_noise_alpha: 5\n", "packing", 5.0, "remove"),
        ("dataloader_drop_last: true\n", "evaluation", True, "remove"),
        ("fsdp: full_shard\n", "accelerate config", "full_shard", "accelerate_configs/"),
        ("deepspeed: ds.json\n", "accelerate config", "ds.json", "accelerate_configs/"),
        ("include_for_metrics: [inputs]\n", "no effect", ["inputs"], "remove"),
        ("metric_for_best_model: f2\n", "unknown metric", "f2", "macro_f1"),
        ("metric_for_best_model: tp\n", "unknown metric", "tp", "macro_f1"),
        ("greater_is_better: false\n", "highest", False, "remove"),
        ("greater_is_better: true\nmetric_for_best_model: eval_loss\n", "lowest", True, "remove"),
        ("per_device_train_batch_size: 0\n", "positive", 0, ""),
        ("per_device_eval_batch_size: -1\n", "positive", -1, ""),
        ("gradient_accumulation_steps: 0\n", "positive", 0, ""),
        ("eval_accumulation_steps: 0\n", "positive", 0, ""),
        ("num_train_epochs: 0\n", "positive", 0.0, ""),
        ("num_train_epochs: .inf\n", "positive", math.inf, ""),
        ("max_steps: 0\n", "positive", 0, ""),
        ("early_stopping_patience: 0\n", "positive", 0, ""),
        ("learning_rate: -1e-4\n", "from 0 on", -1e-4, ""),
        ("adam_beta2: 1\n", "up to 1", 1.0, ""),
        ("seed: -1\n", "2³²", -1, ""),
        ("load_best_model_at_end: true\neval_strategy: no\nsave_strategy: no\n", "nothing", None, "eval"),
        ("save_strategy: best\neval_strategy: no\nload_best_model_at_end: false\n", "nothing", None, "eval"),
        ("dataloader_persistent_workers: true\n", "without dataloader_num_workers", None, "dataloader_num_workers: 2"),
        ("accelerator_config: {dispatch_batches: true}\n", "dispatch_batches", None, "remove"),
        ("accelerator_config: {gradient_accumulation_kwargs: {sync_each_batch: true}}\n", "memory", None, "remove"),
        ("lr_scheduler_kwargs: {waves: 2}\n", "waves", {"waves": 2}, ""),
        ("optim: lomo\n", "backward", "lomo", "adamw"),
        ("optim: galore_adamw\n", "install", "galore_adamw", ""),
    ],
)
def test_one_fault(write, text, what, value, remedy):
    (fault,) = faults(write(text))
    assert (fault.place, fault.value) == (text.partition(":")[0], value)
    assert what in fault.what
    assert remedy in (fault.remedy or "")


BY_STEPS = "eval_strategy: steps\nsave_strategy: steps\n"


@pytest.mark.parametrize("more", ["logging_steps: 10\n", "eval_steps: 10\n", "eval_steps: 10\nsave_steps: 20\n",
                                  "eval_steps: 0.1\nsave_steps: 0.2\n", "save_steps: 1000\n"])  # fmt: skip
def test_each_evaluation_that_may_be_the_best_has_a_checkpoint(write, more):
    """The Trainer accepts fewer checkpoints than evaluations, and ends with one that is not the best."""
    text = BY_STEPS + more
    (fault,) = faults(write(text))
    assert fault.place == "save_steps"
    assert fault.remedy == "set eval_steps and save_steps to the same number, or save_strategy: best"
    for mended in ("--save_steps=20 --eval_steps=20", "--save_strategy=best", "--load_best_model_at_end=false"):
        load_recipe(write(text), mended.split())


def test_evaluations_and_checkpoints_of_the_same_steps_suit(write):
    for more in ("", "eval_steps: 500\n", "logging_steps: 10\nsave_steps: 10\n", "eval_steps: 0.1\nsave_steps: 0.1\n"):
        load_recipe(write(BY_STEPS + more))


def test_every_key_of_the_installed_trainer_that_is_refused_or_bounded_exists():
    """A release that renames one fails here by name."""
    known = {field.name for kind in (DataArguments, ModelArguments, NerTrainingArguments) for field in fields(kind)}
    bounded = {key for keys, _, _ in RANGES for key in keys.split()}
    assert known >= {*UNSUPPORTED, *MUST_BE, *bounded}


def test_what_is_not_supported_may_be_off(write):
    off = (key for key, default in vars(NerTrainingArguments("out", use_cpu=True)).items() if default is False)
    load_recipe(write("".join(f"{key}: false\n" for key in sorted(UNSUPPORTED.keys() & set(off)))))


def test_a_rate_of_a_label_and_the_loss_can_choose_the_best_checkpoint(write):
    for metric in ("f1_company", "eval_span_f1", "loss", "recall"):
        load_recipe(write(f"metric_for_best_model: {metric}\n"))


@pytest.mark.parametrize(
    ("metric", "greater"), [("loss", False), ("eval_loss", False), ("f1", True), ("f1_weight loss", True)]
)
def test_the_lowest_is_the_best_of_the_loss_alone(write, metric, greater):
    """The Trainer goes by the end of the name, and a label may be called so."""
    assert load_recipe(write(f"metric_for_best_model: {metric}\n")).training.greater_is_better is greater


def test_values_are_cast_by_the_type_of_their_field(write):
    recipe = load_recipe(
        write("learning_rate: 2e-5\nwarmup_steps: 0.1\nlora_r: 8\neval_strategy: steps\nsave_strategy: best\neval_steps: 10\n"
              "lr_scheduler_type: cosine_with_restarts\nlr_scheduler_kwargs: {num_cycles: 2}\nlabels: {drug: 药品}\ndataset: '123'\n")
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
    (fault,) = faults(path, "--lora_r=16.5")
    assert (fault.place, fault.value) == ("lora_r", "16.5")


def test_the_output_folder_is_filled_in_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    recipe = load_recipe(write(""), ["--output_dir=outputs/$WANDB_RUN_ID/${WANDB_RUN_ID}$$"])
    assert recipe.training.output_dir == recipe.values["output_dir"] == "outputs/abc/abc$"
    monkeypatch.delenv("WANDB_RUN_ID")
    (fault,) = faults(write(""), "--output_dir=outputs/$WANDB_RUN_ID")
    assert (fault.place, fault.value) == ("output_dir", "outputs/$WANDB_RUN_ID")
    assert "variable WANDB_RUN_ID is not set" in fault.what


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "not UTF-8 at byte 0"),
        (b"a: [", "not YAML"),
        (b"a: " + b"[" * 5000, "recursion"),
        (b"seed: " + b"9" * 5000, "not YAML"),
        (b"seed: 2001-99-99", "month"),
        (b"- a\n", "list"),
        (b"seed: 1\nseed: 2\n", "seed is given twice"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, said):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(NerError, match=said) as error:
        load_recipe(path)
    assert error.value.place == path


def launchable(tmp_path, body):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"# A recipe\n{LAUNCHER_LINE}\noutput_dir: out\nuse_cpu: true\n{body}", encoding="utf-8")
    return path


@pytest.mark.parametrize("behind", ["", "\n\n", "# a remark\n", '   # three quotes: """\n'])
def test_nothing_but_remarks_may_be_behind_the_closing_quotes(tmp_path, behind):
    assert load_recipe(launchable(tmp_path, f'seed: 3\n# """\n{behind}')).training.seed == 3


@pytest.mark.parametrize(
    "behind", ["seed: 31337", "hub_token: hf_secret", "run_name: a b", "examples:\n  - a b", "seed: 0x1G"]
)
def test_keys_behind_the_closing_quotes_are_refused_and_not_printed(tmp_path, behind):
    path = launchable(tmp_path, f'max_steps: 3\n# """\n{behind}\n')
    with pytest.raises(NerError) as error:
        load_recipe(path)
    assert str(error.value.place).startswith(str(path))
    assert behind.partition(" ")[2] not in str(error.value)
    assert '# """' in error.value.remedy


@pytest.mark.parametrize("code", ["; token", "; print(token)", " + token", "[token]", "\nelse: 3"])
def test_code_behind_the_closing_quotes_is_refused_and_not_printed(tmp_path, code):
    with pytest.raises(NerError) as error:
        load_recipe(launchable(tmp_path, f'seed: 3\n# """{code}\n'))
    assert "token" not in str(error.value)


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff" + text])
def test_line_ends_and_marks_of_windows_are_as_good(tmp_path, change):
    path = launchable(tmp_path, 'seed: 3\n# """\n')
    path.write_bytes(change(path.read_text(encoding="utf-8")).encode())
    assert load_recipe(path).training.seed == 3


@pytest.mark.parametrize("body", ["seed: 3\n", 'system_prompt: |\n  a """ b\n# """\n'])
def test_quotes_that_do_not_hold_all_keys_are_refused(tmp_path, body):
    path = launchable(tmp_path, body)
    with pytest.raises(NerError) as error:
        load_recipe(path)
    assert str(error.value.place).startswith(str(path))
    assert '# """' in error.value.remedy


def test_the_shipped_recipes_have_the_launcher_line():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert (LAUNCHER_LINE in path.read_text(encoding="utf-8")) is (path.name != "sweep.yaml")


def test_a_recipe_that_is_yaml_alone_may_have_any_quotes(write):
    assert load_recipe(write('seed: 3\n# """\nmax_steps: 3\n')).training.max_steps == 3


def test_no_file(tmp_path):
    with pytest.raises(NerError, match="No such file") as error:
        load_recipe(tmp_path / "nothing.yaml")
    assert error.value.place == tmp_path / "nothing.yaml"
    assert "bio, full_ft, lora, lora_guidelines, quickstart" in error.value.remedy
    assert "sweep" not in error.value.remedy, "it is none"


def test_a_shipped_recipe_has_a_name_and_a_file_of_that_name_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cpu = ["--use_cpu", "--bf16", "false"]
    assert load_recipe("lora", cpu).values == load_recipe(ROOT / "recipes" / "lora.yaml", cpu).values
    with pytest.raises(NerError) as error:
        load_recipe("quikstart")
    assert error.value.place == Path("quikstart")
    assert error.value.remedy.endswith('did you mean "quickstart"?')
    Path("lora").write_text("seed: 3\n", encoding="utf-8")
    assert load_recipe("lora").values == {"seed": 3}


def test_step_transforms_are_the_reduced_head_unless_the_recipe_names_others(write):
    assert load_recipe(write("")).training.step_transforms == ["reduced_head"]
    assert load_recipe(write("step_transforms: []\n")).training.step_transforms == []


def test_an_unknown_step_transform_is_a_fault(write):
    (fault,) = faults(write("step_transforms: [reduced_head, fgn]\n"))
    assert (fault.place, fault.value) == ("step_transforms", "fgn")
    assert fault.remedy == "choose from reduced_head, label_smoothing"
