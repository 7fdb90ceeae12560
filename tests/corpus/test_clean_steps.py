"""Each step of cleaning by itself: what it keeps, what it changes, what it drops and why."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.corpus.clean import characters, language, lines, quality, redaction
from fabula.corpus.clean.decontamination import Evaluations
from fabula.corpus.clean.shingles import NearCopies, bands_for, resemblance, shingles, signature
from fabula.corpus.clean.step import Dropped
from fabula.corpus.fables import Fables
from fabula.corpus.words import words
from fabula.errors import SourceError

# ---- characters ---------------------------------------------------------------------------------------------


def spoilt(text: str, times: int = 1) -> str:
    """UTF-8 read as Windows-1252, as browsers do it: undefined bytes become control characters."""
    for _ in range(times):
        text = "".join(
            bytes([b]).decode("cp1252") if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(b) for b in text.encode()
        )
    return text


@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_put_right(times: int) -> None:
    text = "“¿Dónde está el niño?”, preguntó la cigüeña — ¡qué ‘día’… 😀 pingüino"
    assert spoilt(text, times) != text
    assert characters.mojibake(spoilt(text, times), "repair") == text
    assert isinstance(characters.mojibake(spoilt(text), "drop"), Dropped)


def test_a_quotation_mark_whose_last_byte_was_lost() -> None:
    assert characters.mojibake("â€œyes!â€ she said", "repair") == "“yes!” she said"


@pytest.mark.parametrize(
    "text",
    [
        "mañana, corazón, pingüino, ¡Él! «¿qué?» “café”… ‘el niño’ —está—",
        "là\u00a0» voilà\u00a0! ça\u00a0: déjà «\u00a0été\u00a0»",
        "MANHÃ” e CORAÇÃO, ÂNGELA",
        "Привет, мир. Ελληνικά. 日本語のテキスト。 한국어",
        "ÅÄÖ åäö ßøÆ ÐÞ ðþ",
        "naïve façade, “‘Quiero un café’” dijo",
    ],
)
def test_right_text_is_no_mojibake(text: str) -> None:
    assert characters.mojibake(text, "repair") == text
    assert characters.mojibake(text, "drop") == text
    assert not characters.has_mojibake(text)


@pytest.mark.corpora
@pytest.mark.parametrize(
    "name", ["quijote.txt", "cuentos-es.txt", "novelas-es.txt", "wikipedia-30.txt", "sherlock.txt"]
)
def test_real_books_have_no_mojibake(corpora: Path, name: str) -> None:
    text = (corpora / name).read_text(encoding="utf-8")
    changed = [(a, b) for a in text.split("\n") if (b := characters.mojibake(a, "repair")) != a]
    assert changed == []


def test_lost_characters_are_dropped_and_not_guessed() -> None:
    assert isinstance(characters.mojibake("ma\ufffdana", "drop"), Dropped)
    assert characters.mojibake("ma\ufffdana", "repair") == "ma\ufffdana"


@given(st.text())
def test_unicode_forms_keep_what_is_meant(text: str) -> None:
    composed = characters.unicode_form(text, "nfc")
    assert composed == unicodedata.normalize("NFC", text)
    forms = characters.unicode_form(text, "forms")
    assert characters.unicode_form(forms, "forms") == forms
    # Nothing that can be told apart in NFKC is lost.
    assert unicodedata.normalize("NFKC", forms) == unicodedata.normalize("NFKC", text)


def test_accents_survive_every_step() -> None:
    text = "el pingüino comió piñón en Ávila: ¡qué día!"
    for made in (
        characters.unicode_form(unicodedata.normalize("NFD", text), "forms"),
        characters.visible(text),
        characters.even_space(text),
        characters.mojibake(text, "repair"),
    ):
        assert made == text


@given(st.text())
def test_even_space_is_even_the_second_time(text: str) -> None:
    once = characters.even_space(text)
    assert characters.even_space(once) == once
    assert "\r" not in once
    assert "\n\n\n" not in once


def test_joiners_of_emoji_stay() -> None:
    assert characters.visible("👩\u200d🚀 و\u200cه") == "👩\u200d🚀 و\u200cه"
    assert characters.visible("a\u200bb\x00c\x1b[0m\u202e") == "abc[0m"


# ---- lines --------------------------------------------------------------------------------------------------

BOOK = """The Project Gutenberg eBook of Tales

Title: Tales

*** START OF THE PROJECT GUTENBERG EBOOK TALES ***

Once there was a fox.

It ran.

*** END OF THE PROJECT GUTENBERG EBOOK TALES ***

Updated editions will replace the previous one."""


def test_project_gutenberg_goes() -> None:
    assert lines.without_gutenberg(BOOK) == "Once there was a fox.\n\nIt ran."
    piece = "The end of the tale.\n\nYou may use Project Gutenberg-tm works\nas you like.\n\nMore tale."
    assert lines.without_gutenberg(piece) == "The end of the tale.\n\nMore tale."
    assert lines.without_gutenberg("Gutenberg printed.\n\n  Yes.") == "Gutenberg printed.\n\n  Yes."


@pytest.mark.parametrize(
    "line",
    [
        "Log in | Sign up",
        "We use cookies to improve your visit",
        "Política de privacidad",
        "© 2010. All rights reserved.",
    ],
)
def test_navigation_goes(line: str) -> None:
    assert lines.without_navigation(f"A real line.\n{line}\nAnother.") == "A real line.\nAnother."


@pytest.mark.parametrize(
    "line",
    [
        "Mum baked cookies and he accepted three of them.",
        '"Mommy, why is there a sign up ahead?" asked James.',
        "He explained at length how newsletters had changed the way in which his whole family read about the world.",
        "x " * 150 + "log in",
    ],
)
def test_prose_about_it_stays(line: str) -> None:
    assert lines.without_navigation(line) == line


def test_lines_of_many_documents_are_found_in_any_order_and_memory() -> None:
    texts = [f"story {i}\nShare this\n  Back \n{'rare' if i < 2 else i}" for i in range(9)]
    found = lines.frequent_lines(texts, 3)
    assert found == lines.frequent_lines(reversed(texts), 3)
    assert lines.without_lines(texts[0], found) == "story 0\nrare"
    small = lines.LineCounts(held=2)
    for text in texts:
        small.add(text)
    assert small.frequent(3) == found


def test_a_line_counts_once_for_a_document() -> None:
    assert lines.frequent_lines(["ha\nha\nha\nha"], 2) == frozenset()


# ---- quality ------------------------------------------------------------------------------------------------

FABLE = Fables("es", 0)[3].text
STORY = Fables("en", 0)[3].text


@pytest.mark.parametrize("text", [FABLE, STORY])
@pytest.mark.parametrize("rules", quality.RULES)
def test_fables_pass_the_rules(text: str, rules: str) -> None:
    assert quality.judge(text, [rules], {}) == text


@pytest.mark.parametrize(
    ("text", "rules", "why"),
    [
        ("too short", "gopher", "number of words 2 is below 50"),
        (STORY.replace(" ", " # "), "gopher", "number of #"),
        ("extraordinarily incomprehensibilities " * 60, "gopher", "mean length of a word"),
        (STORY + " 1234 5678" * 50, "gopher", "words with a letter"),
        ("zzz yyy " * 60, "gopher", "stop words"),
        ("\n".join(["• one of the things that he had with her"] * 30), "gopher", "bullet"),
        ("\n".join(["and that was the story of the..."] * 30), "gopher", "ellips"),
        ("The same line again.\n" * 20, "repetition", "repeated lines"),
        ("buy now " * 100, "repetition", "most frequent 2 words"),
        ("\n".join(["no mark here at all and more words in it"] * 3), "fineweb", "end with a mark"),
        ("\n".join(f"Line {i}." for i in range(30)), "fineweb", "up to 30 characters"),
        ("One sentence is not enough for it.", "c4", "number of sentences"),
        ("This is a whole long sentence. And one. And { more.", "c4", "curly braces"),
    ],
)
def test_what_breaks_a_rule_is_told_with_its_figure(text: str, rules: str, why: str) -> None:
    made = quality.judge(text, [rules], {})
    assert isinstance(made, Dropped)
    assert why in made.reason
    assert made.reason.endswith(f"({rules})")


def test_limits_can_be_others() -> None:
    assert isinstance(quality.judge("The cat and the dog sat.", ["gopher"], {}), Dropped)
    assert quality.judge("The cat and the dog sat.", ["gopher"], {"words_least": 3}) == "The cat and the dog sat."
    assert quality.LIMITS["words_least"] == 50


def test_c4_takes_out_lines() -> None:
    whole = "This is a whole sentence here. It has two.\nAnother line that ends well."
    text = f"menu\n{whole}\nPlease enable Javascript in your browser.\nno end mark on this line"
    assert quality.judge(text, ["c4"], {}) == whole


# ---- language -----------------------------------------------------------------------------------------------


def test_languages_are_told() -> None:
    pytest.importorskip("py3langid")
    assert language.language_of(FABLE)[0] == "es"
    assert language.language_of(STORY)[0] == "en"
    assert language.judge(FABLE, ["es"], 0.5, 100) == FABLE
    dropped = language.judge(STORY, ["es"], 0.5, 100)
    assert isinstance(dropped, Dropped)
    assert "the language is en" in dropped.reason
    assert language.judge("Hola", ["en"], 0.5, 100) == "Hola"
    with pytest.raises(ValueError, match='"xx"'):
        language.require(["xx"])


# ---- personal data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "made"),
    [
        ("escribe a maría.gil+x@correo.uni.es.", "email", "escribe a name@example.com."),
        ("call (555) 123-4567 now", "phone", "call (000) 000-0000 now"),
        ("tel. +34 91 123 45 67,", "phone", "tel. +00 00 000 00 00,"),
        ("llama al 600 123 456", "phone", "llama al 000 000 000"),
        ("from 10.0.0.255:80", "ip", "from 192.0.2.1:80"),
        ("at 2001:0db8:85a3:0:0:8a2e:0370:7334 there", "ip", "at 2001:db8::1 there"),
        ("card 4111 1111 1111 1111 ok", "card", "card 0000 0000 0000 0000 ok"),
        ("IBAN ES91 2100 0418 4502 0005 1332.", "iban", "IBAN ES00 0000 0000 0000 0000 0000."),
    ],
)
def test_personal_data_is_covered_in_its_shape(text: str, kind: str, made: str) -> None:
    assert redaction.redact(text, [kind], "substitute") == made
    assert redaction.redact(made, [kind], "substitute") == made
    assert f"[{kind}]" in redaction.redact(text, [kind], "placeholder")
    assert redaction.redact(text, [], "substitute") == text


@pytest.mark.parametrize(
    "text",
    [
        "In 1605 and 1615, pages 100-200; 3.14159 and 1,234,567.89",
        "4111 1111 1111 1112 is no card, 300.1.1.1 no address, 12:30:45 a time",
        "ES91 2100 0418 4502 0005 1333 is no IBAN",
        "std::vector<int> a::b; @twitter; a@b",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_other_numbers_stay(text: str) -> None:
    assert redaction.redact(text, ["email", "phone", "ip", "card", "iban"], "substitute") == text


@given(st.text(alphabet="0123456789 .-+()@:abcdefES", max_size=300))
def test_covering_up_ends(text: str) -> None:
    made = redaction.redact(text, ["email", "phone", "ip", "card", "iban"], "substitute")
    assert redaction.redact(made, ["email"], "substitute") == made


# ---- near copies --------------------------------------------------------------------------------------------


def changed(text: str, every: int) -> str:
    found = text.split()
    return " ".join("otherwise" if i % every == every - 1 else word for i, word in enumerate(found))


def test_shingles_are_of_words_in_their_order() -> None:
    assert len(shingles(["a", "b", "c"], 3)) == 1
    assert len(shingles(["a", "b"], 3)) == 0
    assert shingles(["a", "b", "c"], 3)[0] != shingles(["c", "b", "a"], 3)[0]
    assert list(shingles(["x", "a", "b"], 2)[1:]) == list(shingles(["a", "b"], 2))


def test_the_signature_estimates_the_resemblance() -> None:
    first, second = words(STORY), words(changed(STORY, 20))
    made, other = signature(first), signature(second)
    assert made is not None
    assert other is not None
    one, two = {*shingles(first, 5).tolist()}, {*shingles(second, 5).tolist()}
    true = len(one & two) / len(one | two)
    assert abs(resemblance(made, other) - true) < 0.15
    assert signature(words("only a few words here")) is None


def test_hashes_do_not_change_between_versions() -> None:
    # What was dropped once must be dropped again: these numbers are part of the format.
    assert [hex(int(h)) for h in shingles(["el", "zorro", "y", "la", "cigüeña"], 5)] == ["0x2ef133b080afd20d"]


def test_near_copies_are_found_and_the_first_stays() -> None:
    fables = [Fables("en", 0)[i].text for i in range(40)]
    near = " ".join(fables[7].split()[:-3])
    with NearCopies(0.8) as seen:
        for i, text in enumerate(fables):
            assert seen.copy_of(words(text), f"fable {i}") is None
        found = seen.copy_of(words(near), "near")
        assert found is not None
        assert found[0] == "fable 7"
        assert seen.copy_of(words(changed(fables[7], 4)), "far") is None


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_nearly_all_at_the_threshold(threshold: float) -> None:
    bands, rows = bands_for(threshold)
    assert bands * rows <= 128
    assert 1 - (1 - threshold**rows) ** bands >= 0.95


# ---- evaluation sets ----------------------------------------------------------------------------------------

ITEM = "Which of these animals would most likely be found far out in the open sea at night"


def sets(folder: Path, n: int = 13) -> Evaluations:
    path = folder / "set.jsonl"
    records = [{"id": "1", "query": ITEM, "choices": ["a fox", "a whale that sings"], "gold": 1}, {"text": "too short"}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return Evaluations((str(path),), n)


def test_a_shared_stretch_is_found(tmp_path: Path) -> None:
    found = sets(tmp_path)
    text = f"Nothing here. He read aloud: {ITEM.upper()}! And more."
    made = found.judge(text, "drop")
    assert isinstance(made, Dropped)
    assert "which of these animals" in made.reason
    assert found.judge(text, "cut") == "Nothing here. And more."
    assert found.judge("Which of these animals would sleep?", "drop") == "Which of these animals would sleep?"
    assert found.items == 6
    assert found.too_short == 3


def test_short_items_are_looked_for_whole(tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text("one two three four five six seven eight\n\nanother paragraph", encoding="utf-8")
    found = Evaluations((str(path),))
    assert isinstance(found.judge("zero One two, three four five six seven eight nine", "drop"), Dropped)
    assert isinstance(found.judge("one two three four five six seven", "drop"), str)


@pytest.mark.corpora
def test_real_evaluation_sets(corpora: Path) -> None:
    found = Evaluations((str(corpora / "mc-arc-easy.jsonl"), str(corpora / "mc-piqa.jsonl")))
    record = json.loads((corpora / "mc-arc-easy.jsonl").read_text(encoding="utf-8").split("\n")[0])
    leaked = f"{STORY}\n\n{record['query']} {record['choices'][record['gold']]}"
    assert isinstance(found.judge(leaked, "drop"), Dropped)
    assert found.judge(STORY, "drop") == STORY


def test_bad_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        Evaluations((str(tmp_path / "nothing.jsonl"),))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"query": \n', encoding="utf-8")
    with pytest.raises(SourceError, match="line 1"):
        _ = Evaluations((str(bad),)).items
    bad.write_text('{"query": "few words"}\n', encoding="utf-8")
    with pytest.raises(SourceError, match="nothing to look for"):
        _ = Evaluations((str(bad),)).items
