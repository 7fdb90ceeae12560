"""The pages of `fabula serve` in a real browser, before real servers: each of the four is driven by mouse and keyboard,
on a desk and on a phone, in light and dark; what goes wrong is said in words; what a model writes stays text.

Every page is watched: nothing is asked of another origin, nothing is written to the console, no script error.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import serving as served
from tests import tiny

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium was found")

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
LONG = {"prompt": "El", "max_tokens": 2000, "alternatives": 20}
PAGES = ("playground", "chat", "evolution", "tokens")
DESK, PHONE = (1180, 900), (375, 800)
WEB = Path(__file__).parents[2] / "src" / "fabula" / "serve" / "web"

# Forty ways in which a text has become a script somewhere; each calls `owned()` where it runs.
PAYLOADS = (
    "<script>owned()</script>", "<SCRIPT SRC=//evil.invalid/x.js></SCRIPT>", "<img src=x onerror=owned()>",
    "<img/src/onerror=owned()>", "<svg onload=owned()>", "<svg><script>owned()</script></svg>", "<body onload=owned()>",
    "<iframe src=javascript:owned()>", "<iframe srcdoc='<script>parent.owned()</script>'>",
    "<a href=javascript:owned()>x</a>",
    "<details open ontoggle=owned()>", "<video><source onerror=owned()></video>", "<audio src=x onerror=owned()>",
    "<input autofocus onfocus=owned()>", "<select autofocus onfocus=owned()>", "<marquee onstart=owned()>",
    "<object data=javascript:owned()>", "<embed src=javascript:owned()>", "<form action=javascript:owned()><button>x",
    "<math href=javascript:owned()>x</math>", "<link rel=stylesheet href=//evil.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=javascript:owned()'>", "<base href=//evil.invalid/>",
    "<style>@import'//evil.invalid/x.css'</style>", "<style onload=owned()></style>",
    "<template><script>owned()</script>",
    "</script><script>owned()</script>", "</textarea><script>owned()</script>", "</title><img src=x onerror=owned()>",
    "--><script>owned()</script><!--", "]]><script>owned()</script>", "'\"><img src=x onerror=owned()>",
    "\"onmouseover=owned() x=\"", "javascript:owned()//", "data:text/html,<script>owned()</script>",
    "&lt;script&gt;owned()&lt;/script&gt;", "&#60;img src=x onerror=owned()&#62;",
    "{{constructor.constructor('owned()')()}}",
    "${owned()}", "\u202e<img src=x onerror=owned()>\u2066",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Iterator[served.Asking]:
    """A server of a run that was trained: it has checkpoints and a curve, and a context of 32 tokens."""
    import fabula

    with served.serving(fabula.load(tiny_run), folder=str(tiny_run)) as made:
        yield made


@pytest.fixture(scope="module")
def talker(tiny_tokenizer: Any) -> Any:
    """A model of drawn numbers that writes anything but control tokens: its texts are as long as they are asked for."""
    import torch

    from fabula.device import choose
    from fabula.language_model import LanguageModel
    from fabula.model.kinds import build_model

    torch.manual_seed(0)
    model = build_model(tiny.model_config(context_length=2048, tied=False, head_bias=True))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
        model.head_bias[sorted(tiny_tokenizer.controls)] = -30.0
    return LanguageModel(model, tiny_tokenizer, choose("cpu", 1), None)


@pytest.fixture(scope="module")
def asking(talker: Any) -> Iterator[served.Asking]:
    with served.serving(talker) as made:
        yield made


Opening = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Opening]:
    """Opens a page of a server and watches it."""
    contexts, wrong = [], []

    def open_(
        server: served.Asking, name: str, size: tuple[int, int] = DESK, scheme: str = "light", **more: Any
    ) -> Any:
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, reduced_motion="reduce", **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        origin = server.server.address + "/"
        page.on("request", lambda asked: asked.url.startswith((origin, "data:")) or wrong.append(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and wrong.append(said.text))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.add_init_script("window.runs = 0; window.owned = () => { window.runs += 1; }")
        page.goto(f"{origin}#{name}")
        page.wrong = wrong
        return page

    yield open_
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.runs") == 0
        context.close()
    assert wrong == []


def write(page: Any, prompt: str, tokens: int, seed: int | None = 1) -> None:
    """Let the playground write, and wait for the end."""
    page.locator("#playground-max_tokens").fill(str(tokens))
    page.locator("#playground-seed").fill("" if seed is None else str(seed))
    page.locator("#prompt").fill(prompt)
    page.get_by_role("button", name="Write", exact=True).click()
    settled(page)


def settled(page: Any) -> None:
    """It is busy from the click on."""
    page.locator(".sheet[aria-busy=false]").wait_for()


def tokens(page: Any) -> Any:
    return page.locator(".sheet [data-at]")


# ---- playground --------------------------------------------------------------------------------------------------


def test_the_playground_shows_what_the_server_writes(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    write(page, "El conejo", 30)
    usual = {"temperature": 0.7, "max_tokens": 30, "seed": 1, "logprobs": 10}
    said = asking.complete("El conejo", **usual)
    assert tokens(page).count() == 30
    # Bytes that form no character yet are dots on the page; at its end the server says what they are.
    assert page.locator(".sheet").text_content().rstrip("\ufffd") == "El conejo" + said["text"].rstrip("\ufffd")
    shades = [element.get_attribute("class") for element in tokens(page).all()]
    least = (0.8, 0.5, 0.2, 0.05, 0.01, 0.0)
    for shade, logprob in zip(shades, said["logprobs"]["token_logprobs"], strict=True):
        place = next(i for i, limit in enumerate(least) if 2.718281828459045**logprob >= limit)
        assert shade.split()[0] == f"p{place}"
    tokens(page).nth(4).hover()
    assert re.match(r"[\d.]+ % .*; id \d+$", page.locator("#playground .readout").inner_text())


def test_tokens_are_moved_over_and_left_for_others_with_the_keyboard(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    write(page, "El conejo", 12)
    first = [t.text_content() for t in tokens(page).all()]
    tokens(page).first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.at") == "3"
    assert page.locator("#playground .readout.said").is_visible()
    page.keyboard.press("Enter")
    others = page.locator("#alternatives li button")
    others.first.wait_for()
    assert others.count() in (10, 11)  # the one that was drawn need not be among the likeliest
    word, list_ = (page.locator(at).bounding_box() for at in (".sheet .asked", "#alternatives"))
    assert not all(
        word[start] < list_[start] + list_[size] and list_[start] < word[start] + word[size]
        for start, size in (("x", "width"), ("y", "height"))
    )
    page.keyboard.press("Escape")
    page.locator("#alternatives").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.at") == "3"

    page.keyboard.press("Enter")
    others.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    chosen = others.nth(1).locator(".token").text_content().replace("·", " ").replace("↵", "\n").removesuffix(" ←")
    page.keyboard.press("Enter")
    page.locator(".tree li li button[aria-current]").wait_for()
    settled(page)
    second = [t.text_content() for t in tokens(page).all()]
    assert second[:3] == first[:3]
    if "U+" not in chosen and not re.fullmatch("[0-9A-F ]+", chosen):
        assert second[3] == chosen
    assert len(second) == 3 + 1 + 12
    assert "turn" in tokens(page).nth(3).get_attribute("class")

    # Back to the text that was left, which is as it was and knows where it was left.
    page.locator(".tree > ul > li > button").click()
    assert [t.text_content() for t in tokens(page).all()] == first
    assert "fork" in tokens(page).nth(3).get_attribute("class")
    page.get_by_role("button", name="Forget all").click()
    assert page.locator("#playground .empty").is_visible()
    assert page.get_by_role("button", name="Go on").is_hidden()
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_a_branch_goes_on_from_ids(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    write(page, "ñandú €", 8)
    asked: list[Any] = []
    page.on(
        "request", lambda request: request.url.endswith("/fabula/generate") and asked.append(request.post_data_json)
    )
    tokens(page).nth(2).click()
    page.locator("#alternatives li button").first.click()
    page.locator(".tree li li button[aria-current]").wait_for()
    settled(page)
    prompt = asking.post("/tokenize", {"text": "ñandú €"}).data["tokens"]
    assert asked[0]["prompt"][: len(prompt)] == prompt
    assert len(asked[0]["prompt"]) == len(prompt) + 3


def test_writing_is_stopped_and_gone_on_with(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    page.locator("#playground-max_tokens").fill("2000")
    page.locator("#prompt").fill("El")
    page.locator("#prompt").press("Control+Enter")
    tokens(page).nth(5).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    asking.quiet()
    page.locator("#playground-max_tokens").fill("5")
    before = tokens(page).count()
    assert before < 2000
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("As many as were asked for").wait_for()
    assert tokens(page).count() == before + 5


def test_a_stop_text_is_shown_as_what_it_is(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    write(page, "El", 40)
    text = "".join(t.text_content() for t in tokens(page).all())
    stop = text[20:22]
    page.locator("#playground-stop").fill(stop.replace("\n", "\\n"))
    write(page, "El", 40)
    page.get_by_text("It came to a stop text").wait_for()
    assert page.locator(".sheet .beyond").count() >= 1


def test_settings_are_kept_and_checked(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    field = page.locator("#playground-temperature")
    field.fill("0.25")
    field.fill("7")
    assert field.get_attribute("aria-invalid") == "true"
    page.locator("#prompt").fill("Un búho")
    assert field.input_value() == "0.25"
    page.reload()
    assert page.locator("#playground-temperature").input_value() == "0.25"
    assert page.locator("#prompt").input_value() == "Un búho"
    page.get_by_role("link", name="Chat").click()
    assert page.locator("#chat-temperature").input_value() == "0.25"
    page.locator("#chat").get_by_role("button", name="As at first").click()
    assert page.locator("#playground-temperature").input_value() == "0.7"


# ---- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_told_with_both_numbers(opened: Opening, run: served.Asking) -> None:
    page = opened(run, "playground")
    page.locator("#prompt").fill("El conejo y el búho. " * 20)
    page.get_by_role("button", name="Write", exact=True).click()
    told = page.locator("#playground .problem")
    told.wait_for()
    assert re.search(r"The prompt has \d+ tokens, the model's context holds 32", told.inner_text())
    assert page.locator("#playground .paper").is_hidden()  # nothing came of it
    page.wrong[:] = [line for line in page.wrong if "400 (Bad Request)" not in line]


def test_a_busy_server_a_stopping_one_and_none_at_all(opened: Opening, talker: Any) -> None:
    with served.serving(talker, slots=1, queue=0) as asking:
        page = opened(asking, "playground")
        page.locator("#prompt").fill("El")
        told = page.locator("#playground .problem")
        with asking.stream("/fabula/generate", LONG) as (_, events):
            next(events)
            page.get_by_role("button", name="Write", exact=True).click()
            told.wait_for()
            assert told.inner_text().startswith("The server is busy.")
            assert re.search(r"Try again in \d+ s\.", told.inner_text())
        asking.quiet()
        page.locator("#playground-max_tokens").fill("5")
        told.get_by_role("button", name="Try again").click()
        settled(page)
        assert told.is_hidden()
        asking.server.gate.stopping = True
        page.get_by_role("button", name="Write", exact=True).click()
        page.get_by_text("The server takes nothing now.").wait_for()
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text("The server cannot be reached. Is fabula serve still running?").wait_for()
    # The browser itself notes refused requests in the console.
    page.wrong[:] = [line for line in page.wrong if "Failed to load resource" not in line]


def test_a_server_that_wants_a_token_is_given_one(opened: Opening, talker: Any) -> None:
    with served.serving(talker, token="a-token-of-sixteen-or-more") as asking:
        page = opened(asking, "tokens")
        dialog = page.get_by_role("dialog")
        dialog.wait_for()
        page.keyboard.type("not-this-one-at-all")
        page.keyboard.press("Enter")
        dialog.get_by_text("That token is not the one.").wait_for()
        page.keyboard.type("a-token-of-sixteen-or-more")
        page.keyboard.press("Enter")
        dialog.wait_for(state="hidden")
        page.locator("#text").fill("El")
        page.locator(".chip").first.wait_for()
        page.reload()
        page.locator(".chip").first.wait_for()  # kept for this tab
        assert page.evaluate("JSON.stringify(localStorage)").count("a-token-of") == 0
        page.evaluate("sessionStorage.clear()")
        page.reload()
        dialog.get_by_role("button", name="Not now").click()
        page.get_by_text("The server wants a token, and none was given.").wait_for()
        page.get_by_role("button", name="Try again").wait_for()
        page.wrong[:] = [line for line in page.wrong if "401 (Unauthorized)" not in line]


# ---- chat --------------------------------------------------------------------------------------------------------


def test_a_conversation(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "chat")
    page.locator("#chat .empty").wait_for()
    page.locator("#chat-max_tokens").fill("12")
    page.locator("#chat-seed").fill("3")
    page.locator("#said").fill("¿Quién eres?")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"^12 tokens, \d+ a second")).wait_for()
    messages = [{"role": "user", "content": "¿Quién eres?"}]
    settings = {"max_tokens": 12, "seed": 3, "temperature": 0.7}
    said = asking.post("/v1/chat/completions", {"messages": messages, **settings}).data["choices"][0]["message"][
        "content"
    ]
    assert page.locator(".assistant .text").text_content() == said
    page.locator("#said").fill("una línea")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("otra")
    page.get_by_role("button", name="Send").click()
    page.locator(".turns li").nth(3).locator(".after", has_text="12 tokens").wait_for()
    assert page.locator(".user .text").nth(1).text_content() == "una línea\notra"
    page.get_by_role("button", name="Answer again").click()
    page.locator(".turns li").nth(3).locator(".after", has_text="12 tokens").wait_for()
    assert page.locator(".turns li").count() == 4
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turns li").count() == 0
    page.locator("#chat-max_tokens").fill("1500")
    page.locator("#said").fill("más")
    page.keyboard.press("Enter")
    page.locator(".turns li.writing .text", has_text=re.compile(r"\S")).wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped", exact=True).wait_for()
    asking.quiet()


def test_a_conversation_that_no_longer_fits_loses_its_oldest_turn_when_asked(
    opened: Opening, run: served.Asking
) -> None:
    page = opened(run, "chat")
    page.locator("#chat-max_tokens").fill("2")
    told = page.locator("#chat .problem")
    for number in range(1, 10):
        page.locator("#said").fill("El búho.")
        page.keyboard.press("Enter")
        page.locator(".turns li").nth(2 * number - 1).locator("button").or_(told.locator("button")).first.wait_for()
        if told.is_visible():
            break
    assert re.search(r"The conversation has \d+ tokens, the model's context holds 32", told.inner_text())
    told.get_by_role("button", name="Leave out the oldest turn").click()
    page.locator(".turns li.assistant").last.locator(".after", has_text="tokens").wait_for()
    page.wrong[:] = [line for line in page.wrong if "400 (Bad Request)" not in line]


# ---- evolution ---------------------------------------------------------------------------------------------------


def test_every_checkpoint_writes_and_the_slider_goes_through_them(opened: Opening, run: served.Asking) -> None:
    page = opened(run, "evolution")
    history = run.get("/fabula/checkpoints").data["checkpoints"]
    assert len(history) >= 2
    page.locator(".strip li").nth(len(history) - 1).wait_for()
    assert page.locator(".curve .dot").count() == page.locator(".strip li").count() == len(history)
    assert page.locator(".curve svg").get_attribute("aria-label").startswith("Bits per byte over steps: from ")
    page.locator("#evolution-tokens").fill("6")
    page.locator("#evolution-prompt").fill("El conejo")
    page.get_by_role("button", name="Write with each").click()
    page.get_by_text(f"{len(history)} checkpoints wrote.").wait_for()
    assert page.locator(".step").inner_text() == f"Step {history[-1]['step']}"
    for text in page.locator(".strip .text").all():
        assert text.text_content().startswith("El conejo")
        assert len(text.text_content()) > len("El conejo")
    slider = page.locator("#when")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator(".step").inner_text() == f"Step {history[0]['step']}"
    assert f"{history[0]['bits_per_byte']:.4f}" in page.locator(".quality").inner_text()
    assert page.locator(".strip li").first.get_attribute("aria-current") == "true"
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext").startswith(f"step {history[1]['step']}, ")
    page.get_by_role("button", name="Checkpoint before").click()
    assert page.locator(".strip li").first.get_attribute("aria-current") == "true"
    page.locator(".curve .dot .reach").last.click()
    assert page.locator(".step").inner_text() == f"Step {history[-1]['step']}"
    page.get_by_role("button", name="Play").click()
    assert page.locator(".step").inner_text() == f"Step {history[0]['step']}"
    page.locator(".step", has_text=f"Step {history[1]['step']}").wait_for()


def test_a_model_without_a_run_has_no_evolution(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "evolution")
    page.get_by_text("This model comes without a run").wait_for()
    assert page.locator("#evolution .present").is_hidden()
    page.wrong[:] = [line for line in page.wrong if "404 (Not Found)" not in line]


# ---- tokens ------------------------------------------------------------------------------------------------------


def test_any_text_is_cut_and_what_cannot_be_seen_is_shown(opened: Opening, asking: served.Asking) -> None:
    text = "El  búho\n\t€\u200b\u202e👩‍🌾\x07 e\u0301"
    page = opened(asking, "tokens")
    page.locator("#tokens .empty").wait_for()
    page.locator("#text").fill(text)
    pieces = asking.post("/tokenize", {"text": text}).data["pieces"]
    chips = page.locator(".chip")
    chips.nth(len(pieces) - 1).wait_for()
    assert chips.count() == len(pieces)
    shown = "".join(chips.all_text_contents())
    for sign in ("·", "↵", "→", "U+0007"):
        assert sign in shown
    for hidden in ("\n", "\t", "\x07", "\u200b", "\u202e"):
        assert hidden not in shown
    for chip, piece in zip(chips.all(), pieces, strict=True):
        if bytes(piece["bytes"]).decode("utf-8", "ignore") == "":
            assert chip.text_content() == " ".join(f"{byte:02X}" for byte in piece["bytes"])
    counts = page.locator(".counts").inner_text().replace("\n", " ")
    assert f"Tokens {len(pieces)}" in counts
    assert f"Characters {len(text)}" in counts
    assert f"Bytes {len(text.encode())}" in counts
    chips.first.focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.at") == str(len(pieces) - 1)
    assert f"id {pieces[-1]['id']}" in page.locator("#tokens .readout").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.at") != "0"
    page.get_by_label("Ids").check()
    page.locator(".chip", has_text=re.compile(rf"^{pieces[0]['id']}$")).first.wait_for()
    assert page.locator(".chip").all_text_contents() == [str(piece["id"]) for piece in pieces]


def test_a_written_text_is_looked_at_as_tokens(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "playground")
    write(page, "El conejo", 5)
    text = page.locator(".sheet").text_content()
    page.get_by_role("button", name="See its tokens").click()
    page.locator(".chip").first.wait_for()
    assert page.locator("#text").input_value() == text


# ---- everywhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_on_a_phone_in_light_and_dark(opened: Opening, run: served.Asking, name: str) -> None:
    papers = []
    for scheme in ("light", "dark"):
        page = opened(run, name, PHONE, scheme)
        page.locator(f"#{name}").wait_for()
        if name == "playground":
            page.locator("#prompt").fill("El")
            page.get_by_role("button", name="Write", exact=True).click()
            settled(page)
            tokens(page).first.click()
            page.locator("#alternatives").wait_for()
            assert page.locator("#alternatives").bounding_box()["x"] == 0
        if name == "tokens":
            page.locator("#text").fill("x" * 300 + " <|endoftext|> ")
            page.locator(".chip").first.wait_for()
        if name == "evolution":
            page.locator(".curve svg").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        assert all(
            box["x"] + box["width"] <= PHONE[0] for box in (a.bounding_box() for a in page.locator("nav a").all())
        )
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]


def test_the_other_light_can_be_chosen_and_is_kept(opened: Opening, asking: served.Asking) -> None:
    page = opened(asking, "tokens")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(paper)
    page.reload()
    assert page.evaluate(paper) == dark != light
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("name", PAGES)
def test_every_control_has_a_name(opened: Opening, run: served.Asking, name: str) -> None:
    page = opened(run, name)
    page.locator(f"#{name}").wait_for()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, a")]
        .filter((one) => one.checkVisibility() && one.getAttribute("aria-hidden") !== "true")
        .filter((one) => !one.ariaLabel && !one.textContent.trim())
        .filter((one) => ![...(one.labels ?? [])].some((label) => label.textContent.trim()))
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []
    assert page.locator("h1:not([hidden] h1)").count() == 1
    assert page.title().endswith(", Fabula")
    assert page.locator("nav a[aria-current=page]").count() == 1


def test_one_of_several_models_is_chosen(opened: Opening, talker: Any, tiny_run: Path) -> None:
    import fabula
    from fabula.serve.config import ServeConfig
    from fabula.serve.run import background

    with background(ServeConfig(port=0), [talker, fabula.load(tiny_run)], [Path("toy"), tiny_run]) as server:
        page = opened(served.Asking(server), "evolution")
        page.get_by_text("This model comes without a run").wait_for()
        page.get_by_label("Model", exact=True).select_option(tiny_run.name)
        page.locator(".curve svg").wait_for()
        page.get_by_role("link", name="Playground").click()
        write(page, "El", 4)
        page.reload()
        page.locator("#model-facts span").first.wait_for()
        assert page.get_by_label("Model", exact=True).input_value() == tiny_run.name
        page.goto("about:blank")  # before the server goes: it would be asked how long the prompt is
        page.wrong[:] = [line for line in page.wrong if "404 (Not Found)" not in line]


# ---- S15: what a model writes stays text -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Asking]:
    """A model that writes nothing but the payloads: each is one token, and all are about as likely. Its run has a name
    of the same kind."""
    import torch

    import fabula
    from fabula import checkpoint
    from fabula.model.kinds import build_model
    from fabula.tokenizer.bpe import train_bpe

    tokenizer = train_bpe(list(PAYLOADS) * 4, 8192, exact=False, boundary="none")
    ids = [tokenizer.encode(payload) for payload in PAYLOADS]
    assert all(len(found) == 1 for found in ids)
    folder = tmp_path_factory.mktemp("runs") / "<img src=x onerror=owned()>"
    for step in (1, 2):
        torch.manual_seed(step)
        size = tokenizer.vocab_size
        model = build_model(tiny.model_config(vocab_size=size, context_length=512, tied=False, head_bias=True))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.05)
                elif name == "head_bias":
                    parameter[[found[0] for found in ids]] = 14.0
        checkpoint.save(
            checkpoint.RunFolder(folder).checkpoints, step, model, tokenizer, {}, {}, {"bits_per_byte": 3.0 / step}
        )
    with served.serving(fabula.load(folder), folder=str(folder)) as made:
        yield made


@pytest.mark.row("S15", cases=len(PAYLOADS))
def test_what_a_model_writes_stays_text(opened: Opening, hostile: served.Asking, cases: int) -> None:
    page = opened(hostile, "playground")
    active = (
        "script, img, svg, iframe, a, style, link, object, embed, form, base, meta, math, video, audio, details, input"
    )

    def text_only(place: str) -> str:
        found = page.locator(place)
        assert found.locator(active).count() == 0
        handlers = """(all) => all.flatMap((one) => [one, ...one.querySelectorAll("*")])
            .filter((one) => [...one.attributes].some(({ name }) => name.startsWith("on"))).length"""
        assert found.evaluate_all(handlers) == 0
        return "".join(found.all_text_contents())

    write(page, "".join(PAYLOADS), 400)
    said = text_only(".sheet")
    assert said.startswith("".join(PAYLOADS))
    written = said.removeprefix("".join(PAYLOADS))
    assert sum(payload in written for payload in PAYLOADS) == cases
    tokens(page).nth(3).click()
    page.locator("#alternatives li button").nth(5).wait_for()
    text_only("#alternatives")
    page.locator("#alternatives li button").nth(5).click()
    page.locator(".tree li li").wait_for()
    settled(page)
    text_only(".tree")
    tokens(page).nth(9).hover()
    text_only("#playground .readout")

    page.get_by_role("link", name="Tokens").click()
    page.locator("#text").fill("".join(PAYLOADS))
    page.locator(".chip").nth(len(PAYLOADS) - 1).wait_for()
    for chip in page.locator(".chip").all():
        chip.focus()
    assert "owned()" in text_only(".chips")
    text_only("#tokens .readout")

    page.get_by_role("link", name="Chat").click()
    page.locator("#chat-max_tokens").fill("60")
    page.locator("#said").fill("".join(PAYLOADS[:20]))
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"^60 tokens")).wait_for()
    assert "owned()" in text_only(".turns")

    page.get_by_role("link", name="Evolution").click()
    page.locator("#evolution-prompt").fill("".join(PAYLOADS[20:]))
    page.get_by_role("button", name="Write with each").click()
    page.get_by_text("2 checkpoints wrote.").wait_for()
    assert "owned()" in text_only(".strip .text")
    text_only("header .model")
    page.wait_for_timeout(200)
    assert page.evaluate("window.runs") == 0
    assert page.evaluate("document.scripts.length") == 2


def test_the_sources_are_small_and_make_no_markup_of_text() -> None:
    files = [path for path in WEB.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|style=|<style|<script>|<script(?![^>]*src=)", page)
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        addresses = set(re.findall(r"https?://[^\s'\")]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path
