"""The page in a real browser: typing, clicking, and a phone's screen."""

import csv
import json
import shutil
import threading
import time

import pytest

from qwen_ner.entities import CLUENER
from qwen_ner.serving.page import render_page

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
FIRST = "三星在北京😀开会，李明去了浙江大学"


def about(**changed):
    labels = {label.name: label.description for label in CLUENER}
    given = {"model": "ner", "version": "1", "scores": None, "characters": 100, "examples": ["三星"]}
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


@pytest.fixture(scope="module")
def scripted(asked_folder):
    """A server whose model finds known surfaces, so that the page has entities to show."""
    uvicorn = pytest.importorskip("uvicorn")
    from qwen_ner.codec import Decoded, ground
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

    def read(texts, **options):
        time.sleep(0.05)
        found = [ground(text, known) for text in texts]
        return [Decoded(one).scored({(e.label, e.text): scores[e.text] for e in one}) for one in found]

    extractor.read = read
    app = create_app(extractor, name="ner", limits=Limits(batch_tokens=500), examples=["三星在北京"],
                     scores={"f1": 0.8, "span_f1": 0.79, "macro_f1": 0.78, "data": "sample", "split": "dev", "rows": 300})  # fmt: skip
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
        if not message.startswith("Failed to load resource: the server responded with a status of 4")
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
def test_a_dropped_file_an_example_and_a_long_document_with_its_progress(tab, tmp_path):
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
    tab.click("#go")
    wait(tab, "document.getElementById('bar').value > 0.1 && document.getElementById('bar').value < 0.9")
    assert "已读" in tab.inner_text("#told")
    wait(tab, "document.getElementById('progress').hidden")
    assert len(rows(tab)) == 1000
    assert rows(tab)[-1][1:4] == ["北京", "3995", "3997"]
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
    assert tab.inner_text("#fault") == "a token is needed"
    tab.fill("#token", "s3cret")
    extract(tab, FIRST)
    assert brought == [None, "Bearer s3cret"]
    assert tab.is_hidden("#fault")
    assert len(rows(tab)) == 5


@pytest.mark.slow
def test_an_error_is_shown(tab):
    tab.fill("#text", "很" * 100_001)
    tab.click("#go")
    wait(tab, "!document.getElementById('fault').hidden")
    assert "100,001 characters of text exceed the limit of 100,000" in tab.inner_text("#fault")


@pytest.mark.slow
def test_the_docs_make_no_third_party_requests(tab, scripted):
    """Nor may they: the `tab` fixture watches the requests, the policy would stop them."""
    _, url = scripted
    answer = tab.goto(f"{url}/docs")
    assert "https:" not in answer.headers["content-security-policy"]
    tab.click('[data-path="/v1/extract"]')
    tab.wait_for_selector(".example")
    assert "魔兽争霸3" in tab.inner_text(".responses-wrapper")
