"""The page in headless Chromium, over the running application. Where the machine has no Chromium these tests are skipped."""

import re
from pathlib import Path

import httpx
import pytest
from over_http import service
from playwright.sync_api import expect
from the_page import ask, marked, shown

PAGE = Path(__file__).resolve().parents[2] / "deploy" / "page"
QUESTION = "How is the pump primed?"
KEY = "lodge-key-number-1"
EVIL = "<script>document.title='owned'</script>"
PASSAGES = [
    {"doc_id": "handbook", "title": "Handbook", "section": "Start", "text": "Wear gloves.\n\nThe pump is primed by\nhand. Ask."},
    {"doc_id": "log", "title": "", "text": "How it is, is how the log of the lodge is."},
    {"doc_id": "notices", "title": "Winter <b>notices</b>", "text": "Is the fan of the pump cold? It is how ice forms on it."},
    {"doc_id": "evil", "title": EVIL, "section": EVIL, "text": "<img src=x onerror=\"document.title='owned'\"> A primed charge."},
    {"doc_id": "handbook", "title": "Handbook", "text": "How the crew is called is on the board; the number is on it."},
    {"doc_id": "handbook", "title": "Handbook", "text": "A pump that was opened is primed anew."},
    {"doc_id": "notices", "title": "Winter <b>notices</b>", "text": "Keys hang in the lodge."},
]  # fmt: skip
ORIGIN = {
    "model": "uae-retriever", "version": 3, "promoted_at": "2026-11-20T10:11:12+00:00",
    "metrics": {"map": 0.7401, "reader_5_best_at_both_ends/token_f1": 0.0625, "recall@1": 0.5962},
}  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with service(tmp_path_factory.mktemp("service"), PASSAGES, origin=ORIGIN) as address:
        yield address


def found(url: str, system: str, **body) -> list[dict]:
    reply = httpx.post(f"{url}/v1/search", json={"query": QUESTION, "k": 5, "system": system} | body, timeout=30)
    return reply.json()["results"][0]["passages"]


def test_both_sides_stand_beside_each_other_as_the_service_ranked_them(page, url):
    page.goto(url)
    expect(page.locator("#question")).to_be_focused()
    ask(page, QUESTION)
    sides = {system: found(url, system) for system in ("base", "uae")}
    places = {system: {hit["passage_id"]: n for n, hit in enumerate(hits, 1)} for system, hits in sides.items()}
    assert places["base"] != places["uae"], "the sides agree: the test shows nothing"
    for system, hits in sides.items():
        column = page.locator(f".{system}")
        assert shown(page, system) == [hit["passage_id"] for hit in hits]
        assert column.locator(".score").all_inner_texts() == [f"{hit['score']:.3f}" for hit in hits]
        assert column.locator(".rank").all_inner_texts() == ["1", "2", "3", "4", "5"]
        assert column.locator("h3").all_inner_texts() == [hit["title"] or hit["source"] for hit in hits]
        assert column.locator(".source").all_inner_texts() == [hit["source"] for hit in hits]
        assert column.locator(".passage").all_text_contents() == [hit["text"] for hit in hits]
        expect(column.locator(".took")).to_have_text(re.compile(r"^\d+ ms$"))
    moves = []
    for hit in sides["uae"]:
        before, now = places["base"].get(hit["passage_id"]), places["uae"][hit["passage_id"]]
        steps = f"{'+' if before > now else '−'}{abs(before - now)}" if before else "new"
        moves.append("same rank" if before == now else steps)
    assert page.locator(".uae .move > span:first-child").all_inner_texts() == moves
    assert len(set(moves)) > 2
    assert page.locator(".base .move > span:first-child").all_inner_texts() == [
        "dropped" if not (there := places["uae"].get(name)) else "same rank" if there == rank else f"UAE: {there}"
        for name, rank in places["base"].items()
    ]
    expect(page.locator("#status")).to_have_text(
        f"5 passages each: {moves.count('same rank')} at the same rank, {moves.count('new')} new with UAE."
    )
    left, right = (page.locator(f".{system}").bounding_box() for system in ("base", "uae"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_the_sentence_nearest_to_the_question_is_marked_and_not_called_the_answer(page, url):
    page.goto(url)
    ask(page, QUESTION)
    passage = page.locator(".uae li[data-passage=p0] .passage")
    assert passage.locator("mark").all_text_contents() == ["The pump is primed by\nhand."]
    assert passage.text_content() == PASSAGES[0]["text"]
    assert page.locator("#results mark").count() == page.locator("#results li").count()
    expect(page.locator("#legend")).to_contain_text("the sentence nearest to the question")
    expect(page.locator("#legend")).to_contain_text("It need not hold the answer")


def test_without_vectors_there_are_results_without_marks(page, url):
    body = {"error": {"message": "the queue is full", "type": "t", "code": "c", "param": None}}
    page.route("**/v1/embeddings", lambda route: route.fulfill(status=429, json=body))
    page.goto(f"{url}/?q=pump")
    expect(page.locator("#legend")).to_have_text("No sentence is marked: the queue is full")
    assert page.locator("#results li").count() == 10
    assert page.locator("#results mark").count() == 0


def test_what_passages_hold_is_text(page, url):
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.goto(url)
    ask(page, "primed charge")
    item = page.locator(".uae li[data-passage=p3]")
    expect(item.locator("h3")).to_have_text(EVIL)
    expect(item.locator(".section")).to_have_text(EVIL)
    expect(item.locator(".passage")).to_have_text(PASSAGES[3]["text"])
    assert page.locator("#results :is(img, script, b)").count() == 0
    assert page.title().startswith("primed charge")


def test_the_page_would_run_no_script_of_another(url):
    policy = httpx.get(url, timeout=30).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_release_is_shown_and_its_fingerprint_can_be_copied(page, url):
    page.goto(url)
    release = httpx.get(f"{url}/v1/release", timeout=30).json()
    shown_release = page.locator("#release")
    for part in (
        "uae-retriever 3, registered 2026-11-20",
        "map 0.740 · recall@1 0.596",
        release["fingerprint"][:12],
        release["backend"],
        "7",
    ):
        expect(shown_release).to_contain_text(part)
    expect(shown_release).not_to_contain_text("token_f1")
    page.locator(".copy").click()
    expect(page.locator(".copy")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == release["fingerprint"]


def test_release_without_base_encoder_and_registry(page, tmp_path):
    with service(tmp_path, PASSAGES, base=False) as url:
        page.goto(url)
        ask(page, QUESTION)
        assert page.locator("#results > section").count() == 1
        expect(page.locator("#status")).to_contain_text("This release holds no base encoder, so there is nothing to compare with")
        expect(page.locator("#release")).to_contain_text("not from a registry")
        assert page.locator(".move").count() == 0


def test_key_is_asked_for_and_stays_in_the_tab(page, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    with service(tmp_path, PASSAGES, keys_file=tmp_path / "keys") as url:
        page.goto(f"{url}/?q=pump")
        expect(page.locator("#key")).to_be_focused()
        expect(page.locator("#key-why")).to_have_text("The service asks for an API key.")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-why")).to_have_text("The service does not know this API key.")
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        marked(page)
        expect(page.locator("#unlock")).to_be_hidden()
        page.reload()
        marked(page)
        assert KEY not in page.url
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_keyboard_alone(page, url):
    page.goto(url)
    ask(page, QUESTION)

    def at() -> tuple[str, str] | None:
        return page.evaluate(
            "(() => { const item = document.activeElement.closest('li');"
            " return item && [item.closest('section').className, item.querySelector('.rank').textContent]; })()"
        )

    walk = [
        ("ArrowDown", ["base", "1"]), ("j", ["base", "2"]), ("ArrowDown", ["base", "3"]), ("k", ["base", "2"]),
        ("ArrowRight", ["uae", "2"]), ("ArrowRight", ["uae", "2"]), ("ArrowUp", ["uae", "1"]), ("ArrowLeft", ["base", "1"]),
    ]  # fmt: skip
    for key, place in walk:
        page.keyboard.press(key)
        assert at() == place, key
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("/")
    expect(page.locator("#question")).to_be_focused()
    assert page.evaluate(outline) == "solid"
    page.keyboard.type("j/k")  # what was selected is replaced; in the field these are letters
    expect(page.locator("#question")).to_have_value("j/k")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(page.locator("#question")).to_be_focused()
    assert page.locator("#status").get_attribute("role") == "status"


def test_twin_is_pointed_at_on_the_other_side(page, url):
    page.goto(url)
    ask(page, QUESTION)
    both = set(shown(page, "base")) & set(shown(page, "uae"))
    name = min(both)
    page.locator(f".uae li[data-passage={name}]").hover()
    assert [item.get_attribute("data-passage") for item in page.locator("li.twin").all()] == [name, name]


def test_address_can_be_shared_and_gone_back_to(page, url):
    page.goto(url)
    page.locator("#k").select_option("2")
    page.locator("#question").focus()
    ask(page, QUESTION)
    assert page.url == f"{url}/?q=How+is+the+pump+primed%3F&k=2"
    page.locator(".uae li[data-passage=p0] button").click()
    expect(page.locator("#filter-name")).to_have_text("Handbook")
    marked(page)
    assert page.url.endswith("&doc=handbook")
    assert shown(page, "uae") == [hit["passage_id"] for hit in found(url, "uae", k=2, filters={"doc_id": "handbook"})]
    shared = page.url
    page.go_back()
    expect(page.locator("#filter")).to_be_hidden()
    expect(page.locator("#results")).not_to_have_attribute("aria-busy", "true")
    page.goto(shared)
    marked(page)
    expect(page.locator("#question")).to_have_value(QUESTION)
    expect(page.locator("#filter-name")).to_have_text("handbook")
    assert shown(page, "base") == [hit["passage_id"] for hit in found(url, "base", k=2, filters={"doc_id": "handbook"})]
    page.locator("#unfilter").click()
    expect(page.locator("#filter")).to_be_hidden()


def test_what_the_service_refuses_is_said(page, url):
    page.goto(f"{url}/?q=pump")
    marked(page)
    body = {"error": {"message": "the queue is full", "type": "t", "code": "c", "param": None}}
    page.route("**/v1/search", lambda route: route.fulfill(status=429, json=body, headers={"Retry-After": "3"}))
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_have_text("the queue is full (try again in 3 s)")
    assert page.locator("#results li").count() == 0
    page.unroute("**/v1/search")
    page.route("**/v1/search", lambda route: route.abort())
    page.keyboard.press("Enter")
    expect(page.locator("#error")).to_have_text("The service could not be reached.")
    page.unroute("**/v1/search")
    page.keyboard.press("Enter")
    marked(page)
    expect(page.locator("#error")).to_be_hidden()


def test_sides_of_two_releases_are_asked_again(page, url):
    answers = []

    def swapped_once(route):
        reply = route.fetch()
        body = reply.json()
        answers.append(body)
        other = {"release": "0" * 64} if len(answers) == 1 else {}  # at once: the other side's answer comes meanwhile
        route.fulfill(response=reply, json=body | other)

    page.route("**/v1/search", swapped_once)
    page.goto(f"{url}/?q=pump")
    marked(page)
    assert len(answers) == 4
    assert page.locator(".move").count() == 10


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out(page, url, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{url}/?q=primed+charge+of+the+pump")
    marked(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    left, right = (page.locator(f".{system}").bounding_box() for system in ("base", "uae"))
    assert (left["y"] == right["y"]) == (width == 1200)


def test_dark_where_the_reader_wants_it_dark(page, url):
    page.goto(url)
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(255, 255, 255)", "rgb(19, 24, 29)"]


def test_page_is_small_and_whole():
    assert sum(path.stat().st_size for path in PAGE.iterdir()) < 25_000
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)|https?://", html)
    script = (PAGE / "app.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_uae_can_be_shown_beside_another_of_its_parts(page, tmp_path):
    """A release with several systems: the choice stands in the address, and what is said names what is compared."""
    with service(tmp_path, PASSAGES, systems=("uae", "dense", "bm25", "base", "uae_reranked")) as url:
        page.goto(url)
        ask(page, QUESTION)
        assert shown(page, "base") == [hit["passage_id"] for hit in found(url, "base")]
        assert page.locator("#against option").all_inner_texts() == ["Base encoder", "Dense leg", "BM25", "Second stage"]
        page.select_option("#against", "bm25")
        expect(page.locator(".bm25 li").first).to_be_visible()
        marked(page)
        assert page.url.endswith("against=bm25")
        assert shown(page, "bm25") == [hit["passage_id"] for hit in found(url, "bm25")]
        assert page.locator(".base").count() == 0
        assert "with BM25" in page.locator(".uae .move .hidden").first.inner_text() or "of BM25" in page.content()
        assert page.locator(".uae .score").first.get_attribute("title") == "cosine; compare it within one side only"
        page.reload()
        marked(page)
        assert page.input_value("#against") == "bm25"
        page.go_back()
        expect(page.locator(".base li").first).to_be_visible()


def test_with_one_other_system_there_is_nothing_to_choose(page, url):
    page.goto(url)
    ask(page, QUESTION)
    expect(page.locator("#versus")).to_be_hidden()
