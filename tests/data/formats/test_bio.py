"""Laws of tagged lines: what is written comes back to the letter, and every faulty line is named."""

from __future__ import annotations

import codecs
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_ner.data.formats.errors import NESTED, DataError
from qwen_ner.data.formats.registry import detect
from qwen_ner.data.formats.tagged.bio import first_line_mark, read, survey, tag_lines
from qwen_ner.data.formats.tagged.schemes import BIO2, IO, SCHEMES
from qwen_ner.data.formats.tagged.tagging import BARE, INDEXED, flat, join
from qwen_ner.entities import Entity, Example, LabelSet, NerError

ALPHABET = "甲乙。，aZ3#[{ \u3000\t\r\u2028\x85\x0b\x1c\u0301😀\ufeff-O"
LABELS = ["公司", "ORG", "drug name", "B-x", "O"]


@st.composite
def examples(draw):
    """A text of any characters but a line feed, with entities side by side or apart."""
    text = draw(st.text(ALPHABET, min_size=1, max_size=12).filter(lambda text: text.strip()))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [(a, b) for a, b in pairwise(cuts) if draw(st.booleans())]
    return Example("0", text, tuple(Entity(draw(st.sampled_from(LABELS)), text[a:b], a, b) for a, b in spans))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bio") / "train.bio"


def said(examples):
    return [(e.text, e.entities) for e in examples]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(("mark", "end"), [(b"", b"\n"), (codecs.BOM_UTF8, b"\r\n")], ids=["lf", "bom-crlf"])
@given(file=st.lists(examples(), min_size=1, max_size=4))
def test_what_is_written_is_read_back(place, scheme, mark, end, file):
    lost = []
    text = "".join(tag_lines(example, scheme, lambda *what: lost.append(what)) for example in file)
    first = first_line_mark(text) if not mark else ""
    place.write_bytes(mark + (first + text).encode().replace(b"\n", end))
    assert said(read(place)) == said(file)
    assert not lost


def write(folder, text, name="train.bio"):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


def spaced(text):
    """One sentence of tagged lines out of `token/tag` words."""
    return "\n".join(" ".join(word.rsplit("/", 1)) for word in text.split()) + "\n\n"


CHARACTERS = [("三星涨了", (Entity("ORG", "三星", 0, 2),)), ("好", ())]


@pytest.mark.parametrize(
    "text",
    [
        "三 B-ORG\n星 I-ORG\n涨 O\n了 O\n\n好 O",
        "\ufeff三\tB-ORG\r\n星\tI-ORG\r\n涨\tO\r\n了\tO\r\n\r\n\r\n好\tO\r\n",
        "\n\n-DOCSTART-\tO\n\n三\tB-ORG\n星\tI-ORG\n涨\tO\n了\tO\n-DOCSTART-\n好\tO\n\n",
        "-DOCSTART- -X- -X- O\n\n三 NR 1 B-ORG\n星 NR 2 I-ORG\n涨 VV 3 O\n了 AS 4 O\n\n好 VA 5 O\n",
        "# id 17\tdomain=zh\n三 _ B-ORG\n星 _ I-ORG\n涨 _ O\n了 _ O\n\n# id 18\tdomain=zh\n好 _ O\n",
        "三   S B-ORG  \n星   B I-ORG\n涨 E O\n了 E O\n \n好 E O\n",
        "三\tS-ORG\n星\tO\n\n三\tB-ORG\n星\tE-ORG\n涨\tO\n了\tO\n\n好\tO".replace("三\tS-ORG\n星\tO\n\n", ""),
        "三_B\tB_ORG\n星\tI_ORG\n涨\tO\n了\tO\n\n好\tO".replace("三_B", "三"),
    ],
    ids=["space", "crlf-bom-tab", "documents", "four-columns", "comments", "aligned", "bioes", "underscore"],
)
def test_each_way_to_write_lines_says_the_same(tmp_path, text):
    assert said(read(write(tmp_path, text))) == CHARACTERS


@pytest.mark.parametrize("blank", ["\u3000", "\u200b", "\xa0\u3000", "\ufeff", "\n\ufeff"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_line_that_shows_nothing_is_blank_and_a_mark_before_a_sentence_no_token(tmp_path, blank, mark):
    """As where files are put one after the other."""
    path = write(tmp_path, f"{mark}三\tB-ORG\n星\tI-ORG\n涨\tO\n了\tO\n{blank}\n{mark}好\tO\n")
    assert said(read(path)) == CHARACTERS


@pytest.mark.parametrize("header", ["token\ttag", "char\tlabel", "字\t标签"])
def test_a_header_is_a_fault_until_it_is_deleted(tmp_path, header):
    lines = "三\tB-ORG\n星\tI-ORG\n涨\tO\n了\tO\n\n好\tX\n"
    first, last = faults_of(write(tmp_path, f"{header}\n{lines}"))
    assert first.startswith("train.bio:1: ")
    assert first.endswith(", or delete the line if it is a header")
    assert "header" not in last
    assert said(read(write(tmp_path, lines.replace("X", "O")))) == CHARACTERS


def test_where_a_sentence_stands_is_kept(tmp_path):
    path = write(tmp_path, "-DOCSTART-\tO\n\n三\tO\n星\tO\n\n\n好\tO\n")
    assert [(e.id, e.source) for e in read(path)] == [("1", "train.bio:3"), ("2", "train.bio:7")]


@pytest.mark.parametrize(
    "text", ["三\tB-A\n \tI-A\n星\tI-A\n\t\tO\n", "三 B-A\n  I-A\n星 I-A\n\t O\n"], ids=["tab", "space"]
)
def test_a_space_is_a_token_whatever_parts_the_columns(tmp_path, text):
    ((found, entities),) = said(read(write(tmp_path, text)))
    assert found == "三 星\t"
    assert entities == (Entity("A", "三 星", 0, 3),)


def test_words_are_parted_by_spaces_and_chinese_is_not(tmp_path):
    path = write(
        tmp_path,
        spaced("EU/B-ORG rejects/O German/B-MISC call/O ./O") + spaced("New/B-LOC York/I-LOC ,/O 纽约/B-LOC 2/O"),
    )
    assert said(read(path)) == [
        ("EU rejects German call .", (Entity("ORG", "EU", 0, 2), Entity("MISC", "German", 11, 17))),
        ("New York ,纽约2", (Entity("LOC", "New York", 0, 8), Entity("LOC", "纽约", 10, 12))),
    ]
    assert "one word a line" in str(survey(path))


def test_a_latin_word_in_a_file_of_characters_gets_no_space(tmp_path):
    path = write(tmp_path, spaced("三/B-ORG 星/I-ORG WCG/B-GAME 2/I-GAME 0/I-GAME New/O York/O 开/O 始/O"))
    assert said(read(path)) == [("三星WCG20New York开始", (Entity("ORG", "三星", 0, 2), Entity("GAME", "WCG20", 2, 7)))]


@given(st.lists(st.text("甲a。1", min_size=1, max_size=3), min_size=1), st.booleans())
def test_each_token_stands_where_it_is_said_to(tokens, words):
    text, starts = join(tokens, words)
    assert [text[start : start + len(token)] for token, start in zip(tokens, starts, strict=True)] == tokens
    assert text.replace(" ", "") == "".join(tokens)


def faults_of(path, **options):
    with pytest.raises(DataError) as error:
        list(read(path, **options))
    return error.value.faults


def test_all_faults_of_a_file_come_at_once_with_their_lines(tmp_path):
    lines = [
        "三\tB-ORG", "星\tI-ORG", "涨\tI-ORG", "了\tO", "", "好\tO", "的\tI-LOC", "",
        "没有", "\tO", "坏\tX-ORG", "坏\tORG", "多\tO", "", " \tO", "", "三\tB-ORG", "星\tI-LOC", "", "好\tB-ORG", *["好\tO"] * 9,
    ]  # fmt: skip
    path = write(tmp_path, "\n".join(lines))
    faults = faults_of(path, labels=LabelSet.of(["ORG"]))
    assert [fault.split(" ")[0] for fault in faults] == [f"train.bio:{n}:" for n in (7, 7, 9, 10, 11, 12, 15, 18, 18)]
    for said in (
        "7: I-LOC follows O", '7: label "LOC"', '9: "没有" is not 2 columns', '10: "\\tO" is not 2 columns', '11: "X-ORG"', '12: "ORG"',
        '15: the text " " is empty', "18: I-LOC follows B-ORG", '18: label "LOC"',
    ):  # fmt: skip
        assert any(fault.startswith(f"train.bio:{said}") for fault in faults), said
    assert any("--repair" in fault for fault in faults)


def test_bytes_that_are_no_utf8_are_a_fault_of_their_line(tmp_path):
    (tmp_path / "train.bio").write_bytes("三\tO\n".encode() + "星\tO\n".encode("gbk"))
    (fault,) = faults_of(tmp_path / "train.bio")
    assert fault.startswith("train.bio:2: byte 0xd0 at offset 0")


def test_a_repair_is_told(tmp_path):
    path = write(tmp_path, spaced("三/B-A 星/I-A 在/O") * 3 + spaced("三/O 星/I-A 在/I-B"))
    notes = []
    last = list(read(path, repair=True, warn=lambda *note: notes.append(note)))[-1]
    assert [(e.label, e.text) for e in last.entities] == [("A", "星"), ("B", "在")]
    assert notes == [
        ("tags out of order, read as conlleval does", "train.bio:14: I-A follows O"),
        ("tags out of order, read as conlleval does", "train.bio:15: I-B follows I-A"),
    ]


def test_what_an_example_has_no_place_for_is_noted(tmp_path):
    notes = []
    path = write(tmp_path, "-DOCSTART- X O\n\n# id 3\n三 X O\n\n")
    list(read(path, note=lambda *note: notes.append(note)))
    assert notes == [
        ("columns that are neither token nor tag: 2 of 3", "train.bio"),
        ("document marks", "train.bio:1"),
        ("comments", "train.bio:3"),
    ]


def test_a_file_without_sentences_is_refused(tmp_path):
    for text in ("", "\n\n", "-DOCSTART-\tO\n\n"):
        with pytest.raises(NerError, match="no tagged lines") as error:
            list(read(write(tmp_path, text)))
        assert error.value.place == str(tmp_path / "train.bio")
    with pytest.raises(NerError) as error:
        survey(tmp_path / "gone.bio")
    assert error.value.place == tmp_path / "gone.bio"


def test_lines_are_read_as_they_are_asked_for(tmp_path):
    """A fault at the end of the file comes behind the sentences before it: nothing is read ahead."""
    rows = read(write(tmp_path, spaced("三/B-A 星/I-A") * 3 + spaced("三/O 星/I-A")))
    assert [next(rows).text for _ in range(3)] == ["三星"] * 3
    with pytest.raises(DataError):
        next(rows)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), unique=True, max_size=6))
def test_of_entities_that_overlap_the_longest_stay_and_each_other_is_told(spans):
    text = "甲乙丙丁戊己庚辛壬癸子丑"
    example = Example("0", text, tuple(Entity("A", text[s : s + n], s, s + n) for s, n in spans), "a:1")
    lost = []
    kept = flat(example, lambda what, where: lost.append((what, where)))
    assert len(kept) + len(lost) == len(spans)
    assert {what for what, _ in lost} <= {NESTED}
    assert all(one.end <= other.start for one, other in pairwise(kept))
    for entity in set(example.entities) - set(kept):
        assert any(k.start < entity.end and entity.start < k.end and len(k.text) >= len(entity.text) for k in kept)


def test_what_tags_cannot_say_is_told_or_refused():
    lost = []
    assert (
        tag_lines(Example("0", "一\n二", (), "a:1"), BIO2, lambda *what: lost.append(what)) == "一\tO\n \tO\n二\tO\n\n"
    )
    assert lost == [("line breaks in texts, written as spaces", 'a:1: "一\\n二"')]
    for label in ("a\tb", " a", "a\n"):
        with pytest.raises(NerError) as error:
            tag_lines(Example("0", "一", (Entity(label, "一", 0, 1),), "a:1"), BIO2)
        assert (error.value.place, error.value.value) == ("a:1", label)
    with pytest.raises(NerError) as error:
        tag_lines(Example("0", " ", (), "a:1"), BIO2)
    assert (error.value.place, error.value.value) == ("a:1", " ")


def test_bare_labels_are_read_as_io_and_said(tmp_path):
    notes = []
    path = write(tmp_path, spaced("三/ORG 星/ORG 在/O 北/LOC 京/LOC") + spaced("好/O"))
    assert survey(path).tagging.scheme == IO
    rows = list(read(path, warn=lambda *note: notes.append(note)))
    assert [[(e.label, e.text) for e in row.entities] for row in rows] == [[("ORG", "三星"), ("LOC", "北京")], []]
    assert notes == [(BARE, "train.bio:1"), (BARE, "train.bio:7")]


@pytest.mark.parametrize(
    "words",
    [
        "三/ORG 星/ORG 在/O 北/B-LOC",  # mixed
        "三/ORG-B 星/ORG-I 在/O 北/LOC",  # mixed
        "三/B 星/I 在/O",
        "三/NR 在/P 北/NR",  # no O: another column
    ],
)
def test_what_is_no_bare_label_has_a_remedy(tmp_path, words):
    faults = faults_of(write(tmp_path, spaced(words)))
    assert faults[0].startswith("train.bio:1: ")
    assert "correct it to O, " in faults[0]


SPELLED = {
    "BIO2 written as ORG-B": "三 ORG-B|星 ORG-I|在 O|北 LOC-B",
    "BIO2 written as BORG": "三 BORG|星 IORG|在 O|北 BLOC",
    "BIOES written as ORG-B": "三 ORG_B|星 ORG_E|在 O|北 LOC_S",
    "BM": "三 B_ORG|星 M_ORG|在 O|北 B_LOC",
    "the tag first": "B-ORG 三|I-ORG 星|O 在|B-LOC 北",
    "4 columns, the token second": "1\t三\t_\tB-ORG|2\t星\t_\tI-ORG|3\t在\t_\tO|4\t北\t_\tB-LOC",
}


@pytest.mark.parametrize("said_so", SPELLED)
@pytest.mark.parametrize("name", ["train.txt", "train.bio"])
def test_tags_and_columns_in_another_order(tmp_path, said_so, name):
    sentence = SPELLED[said_so].replace("|", "\n")
    path = write(tmp_path, f"{sentence}\n\n{sentence}\n", name)
    assert detect(path).NAME == "bio"
    assert said_so in str(survey(path))
    assert said(read(path)) == [("三星在北", (Entity("ORG", "三星", 0, 2), Entity("LOC", "北", 3, 4)))] * 2


BEHIND = {
    "scores": "三\tB-ORG\t0.98|星\tI-ORG\t0.97|在\tO\t1|北\tB-LOC\t0.5",
    "spaces": "三 B-ORG 0.98|星 I-ORG 0.97|在 O 1|北 B-LOC 0.5",
    "parts of speech": "三\tB-ORG\tNR|星\tI-ORG\tNR|在\tO\tPP|北\tB-LOC\tNR",
    "chunks": "三\tNR\tB-NP\tB-ORG\t.9|星\tNR\tI-NP\tI-ORG\t.9|在\tPP\tO\tO\t.9|北\tNR\tB-NP\tB-LOC\t.9",
}


@pytest.mark.parametrize("columns", BEHIND)
@pytest.mark.parametrize("name", ["train.bio", "train.txt", "train.tsv"])
def test_columns_behind_the_tags_are_no_tags(tmp_path, columns, name):
    notes, sentence = [], BEHIND[columns].replace("|", "\n")
    path = write(tmp_path, f"{sentence}\n\n{sentence}\n", name)
    assert detect(path).NAME == "bio"
    assert (
        said(read(path, note=lambda *note: notes.append(note)))
        == [("三星在北", (Entity("ORG", "三星", 0, 2), Entity("LOC", "北", 3, 4)))] * 2
    )
    beside = "2, 3, 5 of 5" if columns == "chunks" else "3 of 3"
    assert notes == [(f"columns that are neither token nor tag: {beside}", name)]


def test_levels_before_a_score_are_levels(tmp_path):
    path = write(tmp_path, "北\tB-ORG\tB-LOC\t.9\n大\tI-ORG\tO\t.8\n\n沪\tB-LOC\tO\t.8\n")
    (_, found), _ = said(read(path))
    assert {(e.label, e.text) for e in found} == {("ORG", "北大"), ("LOC", "北")}


@pytest.mark.parametrize("last", ["ORG ORG O LOC", "BORG IORG O BLOC", "ORG-B ORG-I O LOC-B"])
def test_bare_labels_and_other_spellings_behind_chunks_are_the_tags(tmp_path, last):
    rows = zip("三星在北", ["B-NP", "I-NP", "B-VP", "B-NP"], last.split(), strict=True)
    path = write(tmp_path, "".join(f"{char} {chunk} {tag}\n" for char, chunk, tag in rows))
    assert said(read(path)) == [("三星在北", (Entity("ORG", "三星", 0, 2), Entity("LOC", "北", 3, 4)))]


def test_numbers_that_are_text_are_not_an_index(tmp_path):
    """Rows of numbers in another column order: only what counts from 1 without a gap is an index."""
    path = write(tmp_path, "1 NUM B-A\n3 NUM I-A\n好 ADJ O\n\n")
    assert [row.text for row in read(path)] == ["13好"]


def test_characters_with_their_index_are_read_without_it_and_said(tmp_path):
    notes = []
    path = write(tmp_path, spaced("科0/B-ORG 技1/I-ORG 20/O 01/O ．2/O") + spaced("好0/O 的1/O"))
    rows = list(read(path, warn=lambda *note: notes.append(note)))
    assert said(rows) == [("科技20．", (Entity("ORG", "科技", 0, 2),)), ("好的", ())]
    assert [what for what, _ in notes] == [INDEXED] * 2
    assert [row.text for row in read(write(tmp_path, spaced("B2/O A4/O 第0/O")))] == ["B2 A4第0"]


def test_a_character_without_index_among_others_is_a_fault_of_its_line(tmp_path):
    (fault,) = faults_of(write(tmp_path, spaced("卫0/B-PER 庄1/I-PER 在/O")))
    assert fault.startswith("train.bio:3: ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-be"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    text = "三\tB-ORG\r\n星\tI-ORG\r\n\r\n好\u2028\tO\r\n"
    (tmp_path / "train.bio").write_bytes(mark + text.encode(encoding))
    assert said(read(tmp_path / "train.bio")) == [("三星", (Entity("ORG", "三星", 0, 2),)), ("好\u2028", ())]


def test_utf16_without_its_mark_is_not_called_gbk(tmp_path):
    (tmp_path / "train.bio").write_bytes("三\tO\n周\tO\n".encode("utf-16-le"))
    (tmp_path / "broken.bio").write_bytes("三\tO\n".encode("utf-16")[:-1])
    for name in ("train.bio", "broken.bio"):
        with pytest.raises(NerError) as error:
            list(read(tmp_path / name))
        assert (error.value.place, error.value.remedy) == (tmp_path / name, "save the file as UTF-8")


def test_lines_that_end_with_carriage_returns_alone_are_refused(tmp_path):
    (fault,) = faults_of(write(tmp_path, "三\tB-ORG\r星\tI-ORG\r\r在\tO\r"))
    assert "carriage return" in fault


def test_a_label_with_a_space_in_lines_separated_by_spaces_is_a_fault(tmp_path):
    """Its tag would stand in the text."""
    path = write(tmp_path, "三 B-医疗 器械\n星 I-医疗 器械\n在 O\n好 O\n的 O\n", "a.txt")
    with pytest.raises(DataError) as error:
        list(read(path))
    assert [fault.split(": ")[0] for fault in error.value.faults] == ["a.txt:1", "a.txt:2"]
    assert "tab" in error.value.faults[0]
    path = write(tmp_path, "三\tB-医疗 器械\n星\tI-医疗 器械\n在\tO\n好\tO\n的\tO\n", "b.txt")
    assert said(read(path)) == [("三星在好的", (Entity("医疗 器械", "三星", 0, 2),))]


@pytest.mark.parametrize("tags", ["B:ORG I:ORG O", "b-ORG i-ORG O", "b_ORG i_ORG o", "B.ORG E.ORG O", "b/ORG m/ORG o"])
def test_small_letters_and_other_marks_are_tags_too(tmp_path, tags):
    """Read as labels, each character of 三星 would be an entity of its own."""
    path = write(tmp_path, "".join(f"{a} {b}\n" for a, b in zip("三星在", tags.split(), strict=True)), "a.txt")
    assert said(read(path)) == [("三星在", (Entity("ORG", "三星", 0, 2),))]
    path = write(tmp_path, "".join(f"{a} {tags[:5]}\n" for a in "三星在") + "好 O\n", "b.txt")
    with pytest.raises(DataError, match="B-…"):
        list(read(path))


@pytest.mark.parametrize("dash", ["－", "–", "—", "——", "−", "‑", "~", "=", "：", " "])
def test_a_dash_of_another_keyboard_is_no_part_of_a_label(tmp_path, dash):
    """A Chinese input method types －, and —— for Shift and -."""
    path = write(tmp_path, f"三\tB{dash}公司\n星\tI{dash}公司\n在\tO\n北\tB{dash}B2B\n")
    assert said(read(path)) == [("三星在北", (Entity("公司", "三星", 0, 2), Entity("B2B", "北", 3, 4)))]


def test_a_dash_of_another_keyboard_may_stand_behind_a_label_or_be_among_others(tmp_path):
    assert said(read(write(tmp_path, "三\t公司－B\n星\t公司－I\n在\tO\n"))) == [
        ("三星在", (Entity("公司", "三星", 0, 2),))
    ]
    (fault,) = faults_of(write(tmp_path, "三\tB-公司\n星\tI－公司\n在\tO\n"))
    assert fault.startswith('train.bio:2: "I－公司" is not a tag of BIO2; correct it')
    assert "B(公司)" in faults_of(write(tmp_path, "三\tB(公司)\n星\tI(公司)\n在\tO\n"))[0]


@pytest.mark.parametrize("label", ["bio-entity", "m-RNA", "e-mail", "S&P", "B2B", "i.MX"])
def test_bare_labels_may_begin_as_tags_do(tmp_path, label):
    path = write(tmp_path, f"三 {label}\n星 {label}\n在 O\n好 ORG\n", "a.txt")
    assert [e.label for _, found in said(read(path)) for e in found] == [label, "ORG"]
