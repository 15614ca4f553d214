"""The page in a real browser: typing, clicking, and a phone's screen."""

import contextlib
import csv
import io
import json
import re
import shutil
import threading
import time

import pytest

from qwen_ner.data.datasets import read_dataset
from qwen_ner.data.formats import jsonl
from qwen_ner.entities import CLUENER
from qwen_ner.serving.page import render_page

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FIRST = "三星在北京😀开会，李明去了浙江大学"


def about(**changed):
    labels = {label.name: label.description for label in CLUENER}
    given = {"model": "ner", "version": "1", "scores": None, "characters": 100, "texts": 10, "examples": ["三星"]}
    return render_page(labels=labels, **(given | changed))


def test_the_model_info_cannot_inject_markup():
    html, _ = about(model=f"</script>{SCRIPT}", examples=[f"</script>{SCRIPT}"])
    assert SCRIPT not in html
    assert html.count("<script") == 2


def test_the_page_and_its_policy_name_no_other_host():
    html, policy = about()
    assert "http:" not in html
    assert "https:" not in html
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


FREE = 10**6  # batches: more than all the tests read


@contextlib.contextmanager
def held(scripted, after):
    """The model reads `after` batches and then waits until the block ends, so that a test can look and click meanwhile.

    Nothing here depends on how fast the machine is.
    """
    app, _ = scripted
    app.state.batches = waiting = threading.Semaphore(after)
    try:
        yield
    finally:
        app.state.batches = threading.Semaphore(FREE)
        waiting.release(FREE)


@pytest.fixture(scope="module")
def scripted(asked_folder):
    """A server whose model finds known surfaces, so that the page has entities to show."""
    uvicorn = pytest.importorskip("uvicorn")
    from qwen_ner.codec import Decoded
    from qwen_ner.grounding import ground
    from qwen_ner.inference.extractor import Extractor
    from qwen_ner.serving.app import create_app
    from qwen_ner.serving.run import open_socket
    from qwen_ner.serving.schemas import Limits

    known = [
        ("company", "三星"),
        ("address", "北京"),
        ("name", "李明"),
        ("organization", "浙江大学"),
        ("address", "浙江"),
    ]
    scores = {"三星": 0.98, "北京": 0.95, "李明": 0.4, "浙江大学": 0.9, "浙江": 0.6}
    extractor = Extractor.from_pretrained(asked_folder)

    def serve(feed, *, batch_tokens, **options):
        while parts := feed(batch_tokens):
            app.state.batches.acquire()
            for part in parts:
                found = ground(part.text, known)
                part.answer(Decoded(found).scored({(e.label, e.text): scores[e.text] for e in found}), len(part.text))

    extractor.serve = serve
    app = create_app(extractor, name="ner", limits=Limits(batch_tokens=500), examples=["三星在北京"],
                     scores={"f1": 0.8, "span_f1": 0.79, "macro_f1": 0.78, "data": "sample", "split": "dev", "rows": 300})  # fmt: skip
    app.state.batches = threading.Semaphore(FREE)
    listening = open_socket("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield app, f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium():
    if not BROWSER:
        pytest.skip("no Chromium: install the package chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        flags = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update"]
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *flags])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium, scripted):
    """The opened page. Afterwards it must have made no third-party requests, and logged nothing to the console."""
    _, url = scripted
    context = chromium.new_context(locale="zh-CN", viewport={"width": 1100, "height": 900})
    tab = context.new_page()
    asked, said = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(url)
    yield tab
    context.close()
    assert not [address for address in asked if not address.startswith((url, "blob:", "data:"))]
    assert [
        message
        for message in said
        if not message.startswith("Failed to load resource: the server responded with a status of")
    ] == []


def wait(tab, condition):
    """Wait until `condition` holds. (Playwright's own way evaluates a string in the page, which its policy forbids.)"""
    until = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < until, condition
        time.sleep(0.02)


def rows(tab):
    return tab.evaluate(
        "[...document.querySelectorAll('#table tr')].map((row) => [...row.cells].map((c) => c.innerText))"
    )


def extract(tab, text):
    tab.fill("#text", text)
    tab.click("#go")
    wait(tab, "document.getElementById('progress').hidden")


def open_file(tab, content, name="texts.txt"):
    tab.evaluate("file = null")  # the same file once more
    data = content if isinstance(content, bytes) else content.encode()
    tab.set_input_files("#file", {"name": name, "mimeType": "", "buffer": data})
    wait(tab, "file !== null || !document.getElementById('fault').hidden")


def extract_file(tab, content, name="texts.txt"):
    open_file(tab, content, name)
    tab.click("#go")
    wait(tab, "result && !running")


def saved(tab, button):
    with tab.expect_download() as waiting:
        tab.click(button)
    return waiting.value.path().read_bytes().decode()


def documents(tab):
    """What "Download JSON" gives, whose offsets must be right."""
    values = json.loads(saved(tab, "#json"))
    for row in values if isinstance(values, list) else [values]:
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in row["entities"])
    return values


@pytest.mark.slow
def test_typed_text_is_shown_with_its_spans(tab):
    extract(tab, FIRST)
    assert rows(tab) == [
        ["company", "三星", "0", "2", "0.980"],
        ["address", "北京", "3", "5", "0.950"],
        ["name", "李明", "9", "11", "0.400"],
        ["organization", "浙江大学", "13", "17", "0.900"],
        ["address", "浙江", "13", "15", "0.600"],
    ] or rows(tab)[3:] == [["address", "浙江", "13", "15", "0.600"], ["organization", "浙江大学", "13", "17", "0.900"]]
    assert tab.locator("mark").all_inner_texts() == ["三星", "北京", "李明", "浙江", "大学"]
    plain = tab.evaluate("""() => { const box = document.getElementById("shown").cloneNode(true);
        box.querySelectorAll("sub").forEach((each) => each.remove()); return box.textContent; }""")
    assert plain == FIRST
    colours = tab.evaluate(
        "[...document.querySelectorAll('mark')].map((mark) => getComputedStyle(mark).backgroundColor)"
    )
    assert len(set(colours[:4])) == 4
    assert "F1 80.0" in tab.inner_text("#scores")


@pytest.mark.slow
def test_the_slider_and_the_labels_filter_the_view_and_the_downloads(tab, tmp_path):
    extract(tab, FIRST)
    tab.focus("#floor")
    for _ in range(50):
        tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#least") == "0.50"
    assert "李明" not in [row[1] for row in rows(tab)]
    tab.uncheck("input[data-label=address]")
    assert [row[1] for row in rows(tab)] == ["三星", "浙江大学"]
    for button, name in (("#json", "entities.json"), ("#csv", "entities.csv")):
        with tab.expect_download() as waiting:
            tab.click(button)
        assert waiting.value.suggested_filename == name
        waiting.value.save_as(tmp_path / name)
    kept = json.loads((tmp_path / "entities.json").read_text(encoding="utf-8"))
    assert kept["text"] == FIRST
    assert [(e["text"], e["start"], e["end"]) for e in kept["entities"]] == [("三星", 0, 2), ("浙江大学", 13, 17)]
    with (tmp_path / "entities.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["label"], row["text"], row["score"]) for row in table] == [
        ("company", "三星", "0.98"),
        ("organization", "浙江大学", "0.9"),
    ]


@pytest.mark.slow
def test_markup_in_a_text_is_shown_as_text(tab):
    extract(tab, f"{SCRIPT}三星{SCRIPT}")
    assert tab.title() == "ner · qwen_ner"
    assert SCRIPT in tab.inner_text("#shown")
    assert not tab.locator("#shown img, #shown script").count()
    assert rows(tab)[0][2] == str(len(SCRIPT))


@pytest.mark.slow
def test_the_page_works_with_the_keyboard_alone(tab):
    tab.keyboard.press("Tab")  # the language
    assert tab.evaluate("document.activeElement.id") == "language"
    tab.keyboard.press("Enter")
    assert tab.inner_text("#go") == "Extract"
    assert tab.evaluate("document.documentElement.lang") == "en"
    tab.keyboard.press("Tab")
    tab.keyboard.type("三星在北京")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("#table tr")
    assert [row[1] for row in rows(tab)] == ["三星", "北京"]
    reached = []
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.dataset.label || ''"))
        assert (
            tab.evaluate(
                "getComputedStyle(document.activeElement.closest('.file') || document.activeElement).outlineStyle"
            )
            != "none"
        )
        if reached[-1] == "csv":
            break
    assert {"go", "file", "floor", "company", "address", "shown", "json", "csv"} <= set(reached)


@pytest.mark.slow
def test_a_dropped_file_an_example_and_a_long_document_with_its_progress(tab, scripted, tmp_path):
    file = tmp_path / "news.txt"
    file.write_text("李明在北京", encoding="utf-8")
    tab.set_input_files("#file", file)
    wait(tab, "document.getElementById('text').value == '李明在北京'")
    file.write_bytes("北京的三星".encode("gb18030"))
    tab.set_input_files("#file", [])
    tab.set_input_files("#file", file)
    wait(tab, "document.getElementById('text').value == '北京的三星'")
    assert "GB18030" in tab.inner_text("#fault")
    tab.evaluate("""() => { const data = new DataTransfer();
        data.items.add(new File(["三星，三星"], "dropped.txt"));
        document.getElementById("text").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })); }""")
    wait(tab, "document.getElementById('text').value == '三星，三星'")
    tab.click("button.example")
    tab.wait_for_selector("#table tr")
    assert [row[1] for row in rows(tab)] == ["三星", "北京"]
    document = "三星在北京开会。" * 500
    tab.fill("#text", document)
    with held(scripted, after=2):
        tab.click("#go")
        wait(tab, "document.getElementById('bar').value > 0.1")
        assert tab.evaluate("document.getElementById('bar').value") < 0.9
        assert "已读" in tab.inner_text("#told")
    wait(tab, "document.getElementById('progress').hidden")
    assert len(rows(tab)) == 1000
    assert rows(tab)[-1][1:4] == ["北京", "3995", "3997"]
    with held(scripted, after=0):
        tab.click("#go")
        tab.click("#stop")
        wait(tab, "!document.getElementById('fault').hidden")
    assert tab.inner_text("#fault") == "已停止。"


@pytest.mark.slow
def test_nothing_is_wider_than_a_phone_s_screen(tab):
    tab.set_viewport_size({"width": 360, "height": 740})
    extract(tab, "三星" * 60 + "a" * 300 + "浙江大学")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert rows(tab)[-1][1] in ("浙江大学", "浙江")
    assert tab.locator("#go").bounding_box()["height"] >= 36
    assert "不止一次" in tab.inner_text("#twice")


@pytest.mark.slow
def test_the_page_asks_for_a_token_and_sends_it(tab):
    brought = []

    def guard(route):
        brought.append(route.request.headers.get("authorization"))
        if brought[-1] == "Bearer s3cret":
            route.continue_()
        else:
            route.fulfill(status=401, content_type="application/json", body='{"error": "a token is needed"}')

    tab.route("**/v1/extract", guard)
    extract(tab, FIRST)
    assert "需要令牌" in tab.inner_text("#fault")
    tab.fill("#token", "guessed")
    extract(tab, FIRST)
    assert "令牌不正确" in tab.inner_text("#fault")
    tab.fill("#token", "s3cret")
    extract(tab, FIRST)
    assert brought == [None, "Bearer guessed", "Bearer s3cret"]
    assert tab.is_hidden("#fault")
    assert len(rows(tab)) == 5


@pytest.mark.slow
def test_errors_are_told_in_the_language_of_the_page(tab):
    """Whatever the server says, and in which words."""
    extract(tab, "很" * 100_001)
    assert "100,001" in tab.inner_text("#fault")
    assert "100,000" in tab.inner_text("#fault")
    statuses = (400, 401, 408, 413, 415, 418, 422, 429, 500, 502, 503, 504)
    answered = []

    def refuse(route):
        status = statuses[len(answered)]
        answered.append(status)
        kind, headers = ("text/html", {}) if status == 502 else ("application/json", {"retry-after": "7"})
        route.fulfill(status=status, content_type=kind, headers=headers, body='{"error": "raw words"}')

    tab.route("**/v1/extract", refuse)
    for status in statuses:
        extract(tab, FIRST)
        chinese = tab.inner_text("#fault")
        assert "文" in chinese or "服务器" in chinese, status
        assert not re.search("[a-z]{3}", chinese), status
        tab.click("#language")
        assert re.fullmatch("[ -~]+", tab.inner_text("#fault")), status
        assert ("7" in tab.inner_text("#fault")) == (status == 429)
        tab.click("#language")
        assert tab.inner_text("#fault") == chinese
    assert tuple(answered) == statuses


@pytest.mark.slow
def test_the_docs_make_no_third_party_requests(tab, scripted):
    """Nor may they: the `tab` fixture watches the requests, the policy would stop them."""
    _, url = scripted
    answer = tab.goto(f"{url}/docs")
    assert "https:" not in answer.headers["content-security-policy"]
    tab.click('[data-path="/v1/extract"]')
    tab.wait_for_selector(".example")
    assert "魔兽争霸3" in tab.inner_text(".responses-wrapper")


CSV_TEXT = '😀三星,"好"\r\n在北京'
TABLES = {
    "rows.jsonl": '{"id": "a", "text": "😀三星,\\"好\\"\\r\\n在北京"}\r\n\n{"id": 12345678901234567890, "text": "没有"}\n{"text": "李明"}',
    "rows.json": json.dumps([{"id": "a", "text": CSV_TEXT}, {"id": "12345678901234567890", "text": "没有"}, {"id": "4", "text": "李明"}], indent=1),
    "rows.csv": '\ufeffid,note,text\r\na,1,"😀三星,""好""\r\n在北京"\r\n12345678901234567890,,没有\r\n4,"",李明\r\n',
    "semicolon.csv": 'Text;ID\n"😀三星,""好""\r\n在北京";a\n没有;12345678901234567890\n李明;4',
    "rows.tsv": '编号\t文本\tid\n\t"😀三星,""好""\r\n在北京"\ta\n\t没有\t12345678901234567890\n\t李明\t4\n',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_the_rows_of_a_file_are_read_one_by_one(tab, name):
    extract_file(tab, TABLES[name], name)
    found = documents(tab)
    identities = ["a", "12345678901234567890", "4"]
    assert [(str(row["id"]), row["text"]) for row in found] == list(
        zip(identities, [CSV_TEXT, "没有", "李明"], strict=True)
    )
    assert [[e["text"] for e in row["entities"]] for row in found] == [["三星", "北京"], [], ["李明"]]
    assert rows(tab)[0] == ["a", "company", "三星", "1", "3", "0.980"]
    assert [row["id"] for row in csv.DictReader(io.StringIO(saved(tab, "#csv").lstrip("\ufeff")))] == ["a", "a", "4"]


@pytest.mark.slow
def test_pasted_rows_are_rows_unless_they_are_said_to_be_one_text(tab):
    for table in (
        TABLES["rows.jsonl"],
        TABLES["rows.json"],
        TABLES["rows.csv"].lstrip("\ufeff"),
        TABLES["semicolon.csv"],
    ):
        tab.uncheck("#whole") if tab.is_visible("#whole") else None
        extract(tab, table)
        assert [[e["text"] for e in row["entities"]] for row in documents(tab)] == [["三星", "北京"], [], ["李明"]]
        tab.check("#whole")
        assert tab.is_visible("#stale")
        tab.click("#go")
        wait(tab, "!running && document.getElementById('stale').hidden")
        assert documents(tab)["text"] == tab.input_value("#text")
    tab.uncheck("#whole")
    for prose in (
        "三星,北京\n李明",
        "{三星}",
        "[1, 2]",
        '"三星", 他说\ntext',
        "{三星}\n{北京}",
        "text",
        "",
        "内容\n三星",
    ):
        extract(tab, prose + "三星")
        assert documents(tab)["text"] == prose + "三星"


BROKEN = [
    ("a.jsonl", '{"text": "三星"}\n\n{"text": "北京"\n', "3"),
    ("a.jsonl", '{"text": "三星"}\n{"words": "北京"}\n', "2"),
    ("a.jsonl", '{"text": "三星"}\n{"text": 7}\n', "2"),
    ("a.jsonl", '{"text": "三星", "id": 1.5}\n', "1"),
    ("a.json", '{"a": [', "1"),
    ("a.csv", "id,text\n1,三星\n2,北京,李明\n", "3"),
    ("a.csv", 'id,text\n1,"a\nb"\n2,"北京\n', "4"),
    ("a.csv", 'id,text\n1,"北京"人\n', "2"),
    ("a.csv", "id,name\n1,三星\n", "text"),
    ("a.csv", "id,text\n", ""),
    ("a.tsv", "id,text\n1,三星\n", "text"),
]


@pytest.mark.slow
def test_a_table_that_cannot_be_read_is_refused_with_the_place(tab):
    asked = []
    tab.on("request", lambda request: "extract" in request.url and asked.append(request.post_data_json["texts"]))
    for name, content, place in BROKEN:
        open_file(tab, content, name)
        told = tab.inner_text("#fault")
        assert place in told
        assert "作为一个文本" in told
        tab.click("#go")
        assert tab.inner_text("#fault") == told
    assert not asked
    tab.check("#whole")
    assert tab.is_hidden("#fault")
    tab.click("#go")
    wait(tab, "result && !running")
    assert asked == [[content]]


@pytest.mark.slow
def test_many_rows_are_asked_for_in_pieces_with_progress_and_can_be_stopped(tab, scripted):
    sizes = []
    tab.on("request", lambda request: "extract" in request.url and sizes.append(len(request.post_data_json["texts"])))
    lines = [json.dumps({"id": f"n{i}", "text": f"{i} 三星"}) for i in range(300)]
    lines[70] = json.dumps({"id": "n70", "text": "很" * 100_001})
    lines[71] = json.dumps({"id": "n71", "text": "\ud83d三星"})
    open_file(tab, "\n".join(lines), "many.jsonl")
    with held(scripted, after=2):
        tab.click("#go")
        wait(tab, "document.getElementById('bar').value > 0.1")
        assert tab.evaluate("document.getElementById('bar').value") < 0.9
        assert "/ 300" in tab.inner_text("#told")
    wait(tab, "!running")
    assert max(sizes) <= 64
    assert sum(sizes) == 299
    found = json.loads(saved(tab, "#json"))
    assert [row["id"] for row in found] == [f"n{i}" for i in range(300)]
    assert [row["id"] for row in found if "error" in row] == ["n70", "n71"]
    assert "2" in tab.inner_text("#fault")
    assert tab.locator("#shown .error").count() == 2
    assert tab.locator(".doc").count() == 200
    tab.click("#more")
    assert tab.locator(".doc").count() == 300
    with held(scripted, after=2):
        tab.click("#go")
        wait(tab, "document.getElementById('bar').value > 0.1")
        tab.click("#stop")
        wait(tab, "!running")
    assert tab.inner_text("#fault") == "已停止。"
    assert 0 < len(json.loads(saved(tab, "#json"))) < 300
    assert "300" in tab.inner_text("#note")


ENCODED = "李明说，三星在北京😀。"


@pytest.mark.slow
def test_the_encoding_of_a_file_is_told_or_the_file_refused(tab):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "gb18030"):
        open_file(tab, ENCODED.encode(encoding))
        assert tab.input_value("#text") == ENCODED, encoding
        assert ("GB18030" in tab.inner_text("#fault")) == (encoding == "gb18030")
    open_file(tab, b"\xfe\xff" + ENCODED.encode("utf-16-be"))
    assert tab.input_value("#text") == ENCODED
    traditional = "這項計畫將於明年開始實施，總統府發言人表示，台灣與美國的經濟關係將會更加緊密。"
    open_file(tab, traditional.encode("gb18030"))
    assert tab.input_value("#text") == traditional
    for content in (
        traditional.encode("big5"),
        b"PK\x03\x04\x14\0\x06\0 [Content_Types].xml",
        b"PK\x03\x04",
        b"%PDF-1.7\nabc",
        b"{\\rtf1 abc}",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"a\0b",
        ENCODED.encode("utf-16-le"),
        ENCODED.encode("utf-32"),
        "日本語のテキストです。東京".encode("shift_jis"),
        "déjà über".encode("cp1252"),
        b"\xff\xfe\x00",
    ):
        tab.fill("#text", "before")
        open_file(tab, content)
        assert "UTF-8" in tab.inner_text("#fault"), content
        assert tab.input_value("#text") == "before", content


@pytest.mark.slow
def test_a_file_too_large_for_a_browser_is_refused(tab):
    open_file(tab, "a" * 4_000_001)
    assert "predict" in tab.inner_text("#fault")
    assert tab.input_value("#text") == ""


@pytest.mark.slow
def test_gb18030_is_told_from_big5_sentence_by_sentence(tab):
    told = {}
    for encoding in ("gb18030", "big5"):
        files = [
            list(data)
            for e in read_dataset("sample", split="dev")
            if len(data := e.text.encode(encoding, "ignore")) > 20
        ]
        script = "(files) => files.map((bytes) => looksLikeGb18030(new Uint8Array(bytes)))"
        told[encoding] = tab.evaluate(script, files)
    assert all(told["gb18030"])
    assert not any(told["big5"])


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_offsets_are_those_of_the_file(tab, end):
    text = end.join(["😀三星", "", "北京", "李明"])
    extract_file(tab, text)
    assert documents(tab)["text"] == text
    assert [row[2] for row in rows(tab)] == [str(text.index(name)) for name in ("三星", "北京", "李明")]
    assert tab.is_hidden("#stale")


@pytest.mark.slow
def test_a_result_of_another_text_is_marked_and_keeps_its_own(tab):
    extract(tab, FIRST)
    assert tab.is_hidden("#stale")
    tab.fill("#text", "北京")
    assert tab.is_visible("#stale")
    assert documents(tab)["text"] == FIRST
    tab.fill("#text", FIRST)
    assert tab.is_hidden("#stale")
    tab.route("**/v1/extract", lambda route: route.fulfill(status=503, body=""))
    extract(tab, "北京")
    assert tab.is_visible("#stale")
    assert documents(tab)["text"] == FIRST


@pytest.mark.slow
def test_no_cell_of_the_csv_is_a_formula(tab):
    cells = ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "＝1", '=";"', "三-星", "'a"]
    text = "".join(cells)
    entities = [
        {"label": cell, "text": cell, "start": text.index(cell), "end": text.index(cell) + len(cell), "score": 0.5}
        for cell in cells
    ]
    answer = json.dumps({"index": 0, "entities": entities}) + "\n"
    tab.route("**/v1/extract", lambda route: route.fulfill(content_type="application/x-ndjson", body=answer))
    extract(tab, json.dumps({"id": "=2", "text": text}))
    table = list(csv.DictReader(io.StringIO(saved(tab, "#csv").lstrip("\ufeff"), newline="")))
    guarded = [f"'{cell}" for cell in cells[:-2]] + cells[-2:]
    assert [(row["id"], row["label"], row["text"], row["score"]) for row in table] == [
        ("'=2", g, g, "0.5") for g in guarded
    ]


@pytest.mark.slow
def test_a_file_dropped_anywhere_is_taken_and_the_page_stays(tab):
    drop = """([where, ...files]) => { const data = new DataTransfer();
        for (const content of files) data.items.add(new File([content], "dropped.txt"));
        return ["dragover", "drop"].map((kind) => document.querySelector(where).dispatchEvent(
            new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }))); }"""
    for where in ("body", "html", "#text", "footer"):
        assert tab.evaluate(drop, [where, f"三星 {where}"]) == [False, False]
        wait(tab, f"document.getElementById('text').value == '三星 {where}'")
    assert (
        tab.evaluate("""() => { const data = new DataTransfer();
        data.items.add(new File(["李明"], "pasted.txt"));
        const paste = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        return document.getElementById("text").dispatchEvent(paste); }""")
        is False
    )
    wait(tab, "document.getElementById('text').value == '李明'")
    tab.evaluate(drop, ["body", "a", "b"])
    wait(tab, "!document.getElementById('fault').hidden")
    assert tab.input_value("#text") == "李明"
    tab.fill("#text", "三星")
    assert tab.is_hidden("#fault")


@pytest.mark.slow
def test_the_focus_stays_and_the_result_is_announced(tab, scripted):
    focused = "document.activeElement.id"
    extract(tab, FIRST)
    assert tab.evaluate(focused) == "go"
    assert tab.get_attribute("#status", "role") == "status"
    assert "5" in tab.text_content("#status")
    tab.focus("#text")
    tab.keyboard.press("Control+Enter")
    wait(tab, "!running && document.getElementById('status').textContent")
    assert tab.evaluate(focused) == "text"
    tab.fill("#text", "三星在北京开会。" * 300)
    with held(scripted, after=0):
        tab.click("#go")
        tab.focus("#stop")
        tab.keyboard.press("Enter")
        wait(tab, "!running")
    assert tab.evaluate(focused) == "go"


@pytest.mark.slow
def test_a_label_may_have_any_name(tab, scripted):
    names = ["constructor", "__proto__", "toString", "hasOwnProperty"]
    html, policy = render_page(labels=dict.fromkeys(names, "d"), model="m", version="1", scores=None, characters=99, texts=9, examples=[])  # fmt: skip
    _, url = scripted
    headers = {"content-security-policy": policy}
    tab.route(f"{url}/", lambda route: route.fulfill(body=html, content_type="text/html", headers=headers))
    names.append("valueOf")  # which the model does not have
    found = [{"label": name, "text": "三", "start": i, "end": i + 1} for i, name in enumerate(names)]
    answer = json.dumps({"index": 0, "entities": found}) + "\n"
    tab.route("**/v1/extract", lambda route: route.fulfill(content_type="application/x-ndjson", body=answer))
    tab.goto(f"{url}/")
    extract(tab, "三三三三三")
    assert [row[0] for row in rows(tab)] == names
    assert sorted(" ".join(text.split()) for text in tab.locator("#labels .label").all_inner_texts()) == sorted(
        f"{name} 1" for name in names
    )
    assert tab.locator("#table .label").first.get_attribute("title") == "d"
    assert tab.locator("#table .label").last.get_attribute("title") == ""
    tab.uncheck("input[data-label=__proto__]")
    assert "__proto__" not in [row[0] for row in rows(tab)]


SELECT = """([from, to]) => { const box = document.querySelector(".doc"), places = [];
    const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) if (!walk.currentNode.parentElement.closest("sub")) {
        let at = 0;
        for (const character of walk.currentNode.data) { places.push([walk.currentNode, at, at + character.length]); at += character.length; } }
    getSelection().setBaseAndExtent(places[from][0], places[from][1], places[to - 1][0], places[to - 1][2]);
    box.dispatchEvent(new MouseEvent("mouseup", { bubbles: true })); }"""


@pytest.mark.slow
def test_corrected_entities_become_training_rows(tab, tmp_path):
    extract(tab, FIRST)
    tab.click("#table button:text-is('三星')")
    assert tab.evaluate("document.activeElement.id") == "relabel"
    tab.select_option("#relabel", "game")
    tab.click("#set")
    tab.click("mark:text-is('李明')")
    tab.click("#remove")
    tab.evaluate(SELECT, [5, 8])  # 😀开会, between two entities
    assert tab.inner_text("#edited") == "😀开会"
    tab.select_option("#relabel", "scene")
    tab.click("#set")
    assert tab.is_hidden("#edit")
    assert ["scene", "😀开会", "5", "8", ""] in rows(tab)
    tab.uncheck("input[data-label=address]")  # hidden, and annotated all the same
    tab.fill("input[data-floor=organization]", "0.95")
    file = tmp_path / "rows.jsonl"
    file.write_text(saved(tab, "#jsonl"), encoding="utf-8")
    (example,) = jsonl.read(file)
    assert example.text == FIRST
    kept = [(e.label, e.text, e.start, e.score) for e in example.entities]
    assert sorted(kept, key=lambda one: one[2]) == [
        ("game", "三星", 0, None),
        ("address", "北京", 3, 0.95),
        ("scene", "😀开会", 5, None),
        ("address", "浙江", 13, 0.6),
    ]


@pytest.mark.slow
def test_training_rows_leave_out_what_cannot_be_trained_on_and_say_so(tab, tmp_path):
    file = tmp_path / "rows.jsonl"
    extract_file(tab, "id,text\n7,三星\n8,\n9,北京\n", "rows.csv")
    file.write_text(saved(tab, "#jsonl"), encoding="utf-8")
    assert [(e.id, e.text) for e in jsonl.read(file)] == [("7", "三星"), ("9", "北京")]
    assert "1" in tab.inner_text("#note")
    extract_file(tab, '{"id": 31, "text": "三星"}\n{"id": "31", "text": "北京"}', "rows.jsonl")
    assert [row["id"] for row in documents(tab)] == [31, "31"]
    file.write_text(saved(tab, "#jsonl"), encoding="utf-8")
    assert [(e.id, e.text) for e in jsonl.read(file)] == [("1", "三星"), ("2", "北京")]
    assert "编号" in tab.inner_text("#note")


@pytest.mark.slow
def test_the_table_is_sorted_and_filtered_and_linked_to_the_text(tab):
    extract(tab, FIRST)
    tab.click("[data-sort=score]")
    assert [row[4] for row in rows(tab)] == ["0.400", "0.600", "0.900", "0.950", "0.980"]
    tab.click("[data-sort=score]")
    assert [row[4] for row in rows(tab)] == ["0.980", "0.950", "0.900", "0.600", "0.400"]
    assert tab.locator("th[aria-sort=descending]").count() == 1
    tab.fill("#find", "ADDRESS")
    assert [row[1] for row in rows(tab)] == ["北京", "浙江"]
    assert len(documents(tab)["entities"]) == 5
    tab.fill("#find", "大学")
    tab.hover("#table tr")
    assert tab.locator("mark.lit").all_inner_texts() == ["浙江", "大学"]
    tab.fill("#find", "")
    tab.hover("mark:text-is('李明')")
    assert tab.locator("tr.lit").all_inner_texts()[0].split("\t")[1] == "李明"
    tab.click("mark:text-is('李明')")
    assert tab.locator("tr.chosen").count() == 1


@pytest.mark.slow
def test_a_label_has_a_minimum_score_of_its_own(tab):
    extract(tab, FIRST)
    tab.fill("input[data-floor=address]", "0.7")
    assert sorted(row[1] for row in rows(tab)) == sorted(["三星", "北京", "李明", "浙江大学"])
    tab.focus("#floor")
    tab.keyboard.press("End")
    tab.fill("input[data-floor=name]", "0.4")
    assert [row[1] for row in rows(tab)] == ["北京", "李明"]
    assert [e["text"] for e in documents(tab)["entities"]] == ["北京", "李明"]
    tab.fill("input[data-floor=address]", "")
    assert [row[1] for row in rows(tab)] == ["李明"]


@pytest.mark.slow
def test_the_history_outlives_a_reload_until_it_is_cleared(tab):
    asked = []
    extract_file(tab, f"{FIRST}\r\n三星", "news.txt")
    tab.click("mark:text-is('李明')")
    tab.click("#remove")
    before = documents(tab)
    extract(tab, "北京")
    tab.reload()
    tab.on("request", lambda request: asked.append(request.url))
    tab.click("#history summary")
    assert tab.locator("#past li").count() == 2
    tab.click("#past button:has-text('news.txt')")
    assert documents(tab) == before
    assert tab.is_hidden("#stale")
    assert not [url for url in asked if "extract" in url]
    tab.click("#clear")
    tab.reload()
    assert tab.is_hidden("#history")
    assert tab.evaluate("localStorage.length") == 0


@pytest.mark.slow
def test_the_result_can_be_copied_without_the_clipboard_s_permission(tab):
    extract(tab, FIRST)
    tab.evaluate("document.addEventListener('copy', () => { window.copied = getSelection().toString(); })")
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    tab.click("#copy")
    wait(tab, "document.getElementById('note').textContent")
    assert "已复制" in tab.inner_text("#note")
    assert tab.evaluate("document.activeElement.id") == "copy"
