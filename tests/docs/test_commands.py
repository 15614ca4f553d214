"""Each command and snippet of README and docs: run on what the tests have trained, or as far as no GPU and no network is
needed. A page is run from top to bottom in a folder of its own; what two pages say is run once, unless it leaves files.
"""

import re

import page_blocks
import pages
import pytest
from conftest import reaching
from page_cast import Cast
from page_commands import leaves_something, split
from pages import Block
from rows import ROOT
from test_cli import data, recipe, trained  # noqa: F401  (fixtures)

PAGES = pages.pages()
OWNER = {}
for page in PAGES:
    for block in pages.blocks(page):
        for _, step in page_blocks.steps(block):
            OWNER.setdefault((block.language, step), page)


@pytest.fixture
def cast(trained, tiny, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "cast"
    folder.mkdir()
    monkeypatch.chdir(folder)
    cast = Cast(folder, trained[0], tiny)
    with reaching(cast.hub, tmp_path / "hub_cache"):
        yield cast
    cast.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_what_a_page_says_can_be_done(page, cast, subtests):
    namespace = {"__name__": "page"}
    for block in pages.blocks(page):
        for place, text in page_blocks.steps(block):
            known = OWNER[block.language, text] != page
            if known and block.language != "python" and not (block.language == "sh" and leaves_something(text)):
                continue
            with subtests.test(msg=place, text=text):
                page_blocks.run(block.language, text, cast, namespace)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "zh").rglob("*.md")), ids=pages.name_of)
def test_a_chinese_page_has_the_commands_of_its_twin(page):
    twin = ROOT / "docs" / "en" / page.relative_to(ROOT / "docs" / "zh")
    assert set(pages.commands(page)) == set(pages.commands(twin))


@pytest.mark.parametrize("page", sorted(ROOT.glob("README*.md")), ids=pages.name_of)
def test_the_links_of_a_readme_lead_somewhere(page):
    for target in pages.links(page):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in pages.anchors(file), target


GOOD = {
    "sh": [
        "qwen-ner init data/medicine",
        "accelerate launch --config_file accelerate_configs/cpu.yaml recipe.yaml --learning_rate 1e-3",
        "qwen-ner doctor recipe.yaml",
        "qwen-ner predict outputs/medicine --text 头孢",
        "cat reviews.txt | qwen-ner predict outputs/quickstart > entities.jsonl",
        "head -2 entities.jsonl | jq .text",
        "qwen-ner convert data/annotations.xlsx train.jsonl && cat train.jsonl",
        "qwen-ner export outputs/quickstart outputs/merged --merge",
        "qwen-ner push outputs/quickstart you/ner --private",
        "qwen-ner evaluate you/ner --data cluener --limit 3",
        "qwen-ner predict you/ner s3://bucket/reviews/ --engine ray --output s3://bucket/entities",
        "CUDA_VISIBLE_DEVICES=0 qwen-ner serve outputs/merged --port 8000",
        "qwen-ner sweep recipes/sweep.yaml",
        'pip install -c constraints.txt -e ".[serve,sweep]"',
        "make quickstart",
        "python benchmarks/host_time.py --quick",
    ],
    "python": [
        'from qwen_ner import Extractor\n\nextractor = Extractor.from_pretrained("outputs/merged")\n',
        'assert extractor.extract(["三星"])\n',
        "import ray\nfrom qwen_ner.inference.ray import extract_dataset\n",
    ],
    "json": ['{"text": "三星", "label": {"company": ["三星"]}}\n{"text": "三星", "entities": [{"label": "company", "start": 0, "end": 2}]}\n'],
    "yaml": ["lora_r: 8\nsystem_prompt: 找出实体\n", "dataset: data/medicine\nmodel_name_or_path: tiny\noutput_dir: outputs/x\n"],
    "text": ["anything\n"],
}  # fmt: skip


@pytest.mark.slow
def test_a_page_that_is_right_passes(cast, subtests):
    namespace = {"__name__": "page"}
    for language, texts in GOOD.items():
        for text in texts:
            with subtests.test(text=text):
                page_blocks.run(language, text, cast, namespace)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("sh", "frobnicate outputs/quickstart", "no test knows this program"),
        ("sh", "python -m frobnicate", "no test knows this module"),
        ("sh", "qwen-ner predict outputs/quickstart --txt 三星", "--txt"),
        ("sh", "qwen-ner evaluate outputs/nothing --data sample", "outputs/nothing"),
        ("sh", "qwen-ner train recipes/lora.yaml --learnin_rate 1", "learning_rate"),
        ("sh", "accelerate launch --config_file accelerate_configs/nothing.yaml recipes/lora.yaml", "nothing.yaml"),
        ("sh", "qwen-ner serve outputs/quickstart --prot 8000", "--prot"),
        ("sh", "cat nothing.txt | qwen-ner predict outputs/quickstart", "nothing.txt"),
        ("sh", 'pip install ".[srve]"', "srve"),
        ("sh", "make qickstart", "qickstart"),
        ("sh", "python benchmarks/host_time.py --fast", "--fast"),
        ("sh", "docker build -f docker/nothing .", "docker/nothing"),
        ("bash", "qwen-ner --help", "commands are sh"),
        ("python", "from qwen_ner import Extracter\n", "Extracter"),
        ("python", "import ray\nfrom qwen_ner.inference.ray import extract_all\n", "extract_all"),
        ("python", "import nothing_of_this_name\n", "nothing_of_this_name"),
        ("json", '{"text": "三星", "entities": [{"label": "company", "start": 0, "end": 3}]}', "row.jsonl:1"),
        ("json", '{"text": "a", "label": {"x": ["a"]}}\n{"text": "a", "label": {"y": ["a"]}}\n', "differ"),
        ("yaml", "learnin_rate: 1e-3\n", "learning_rate"),
        ("yaml", "method: grid\nparameters: {nothing_like_a_key: {values: [1, 2]}}\n", "nothing_like_a_key"),
    ],
)  # fmt: skip
def test_a_page_that_is_wrong_fails(language, text, said, cast):
    with pytest.raises((Exception, SystemExit)) as raised:
        page_blocks.run(language, text, cast, {})
    assert said in str(raised.value)


def test_a_line_is_split_as_a_shell_splits_it():
    assert split("a 'b|c' | d && e > f") == [("", ["a", "b|c"]), ("|", ["d"]), ("&&", ["e", ">", "f"])]


def test_blocks_are_found_in_lists_and_tabs_too(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '# A `b` [c](d.md)\n\n- x\n\n    ```sh title="x"\n    qwen-ner train a\n    ```\n\n```text\n[no](link)\n```\n[e](f.md#g)\n# A b c\n',
        encoding="utf-8",
    )
    first, second = pages.blocks(page, tmp_path)
    assert first == Block("page.md:5", "sh", "qwen-ner train a\n")
    assert list(page_blocks.steps(first)) == [("page.md:6", "qwen-ner train a")]
    assert (second.language, second.text) == ("text", "[no](link)\n")
    assert pages.links(page) == ["d.md", "f.md#g"]
    assert pages.anchors(page) == {"a-b-c", "a-b-c-1"}


def test_every_language_on_the_pages_is_read():
    """Also where no command runs: a block of an unknown language would escape."""
    known = {"sh", "python", "json", "yaml", *page_blocks.SHOWN}
    found = [block for page in PAGES for block in pages.blocks(page) if block.language not in known]
    assert not found
    assert not [line for page in PAGES for line in pages.commands(page) if re.search(r"\\$|^\s*(#|\$ |$)", line)]
