"""The built-in fables: correct texts, stable across processes, with exactly known probabilities."""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fabula.corpus.fables import (
    CHANCES,
    FEATURES,
    LANGUAGES,
    SETUPS,
    Fable,
    Fables,
    choice_points,
    entropy_estimate,
    parse,
    surprisal_bits,
)
from fabula.corpus.fables.choice import Draw, Entry, Memory, Node, Outlook, Telling, WordList
from fabula.corpus.fables.notation import Grammar, spoken
from fabula.corpus.fables.spanish import agreement, lexicon
from fabula.corpus.fables.tale import story

KEPT = 20_000  # documents per language read in full
COUNTED = 100_000  # documents per language of which only a hash is kept


@dataclass(frozen=True)
class Shelf:
    language: str
    fables: list[Fable]  # the first KEPT
    hashes: set[int]  # of the first COUNTED


@pytest.fixture(scope="module", params=LANGUAGES)
def shelf(request: pytest.FixtureRequest) -> Shelf:
    language: str = request.param
    fables = Fables(language)
    kept = list(fables.take(KEPT))
    hashes = {hash(fable.text) for fable in kept}
    hashes.update(hash(fable.text) for fable in fables.take(COUNTED - KEPT, start=KEPT))
    return Shelf(language, kept, hashes)


# ---- determinism -------------------------------------------------------------------------------------------

# Changing any text changes these: a corpus made with an older version is then another corpus.
GOLDEN = {
    ("es", 0, 0): "83409890b6cd8cd5",
    ("es", 0, 12345): "0e6fc7a6e432c574",
    ("es", 7, 10**9): "291358291a3222fa",
    ("en", 0, 0): "91ef4485db8b9a10",
    ("en", 0, 12345): "a8a10503a1fdab1a",
    ("en", 7, 10**9): "264b7149aa6a505b",
}


@pytest.mark.parametrize(("language", "seed", "index"), GOLDEN)
def test_golden_documents(language: str, seed: int, index: int) -> None:
    text = Fables(language, seed)[index].text
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN[language, seed, index]


def test_a_document_does_not_depend_on_the_others() -> None:
    fables = Fables("es", 3)
    in_order = list(fables.take(5, start=10))
    assert [Fables("es", 3)[i] for i in (14, 13, 12, 11, 10)] == in_order[::-1]
    assert fables[10] != Fables("es", 4)[10]
    assert fables[10].text != fables[11].text


def test_another_process_with_another_hash_seed_tells_the_same() -> None:
    program = (
        "import hashlib; from fabula.corpus.fables import Fables; "
        "texts = [f.text for l in ('es', 'en') for f in Fables(l, 5).take(40)]; "
        "print(hashlib.sha256('|'.join(texts).encode()).hexdigest())"
    )
    seen = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="es, en"):
        Fables("fr")
    with pytest.raises(IndexError):
        Fables("es")[-1]
    with pytest.raises(ValueError, match="at least 2"):
        entropy_estimate("es", 1)


# ---- size and variety --------------------------------------------------------------------------------------


def test_length_of_every_document(shelf: Shelf) -> None:
    lengths = [len(fable.text.split()) for fable in shelf.fables]
    assert min(lengths) >= 60
    assert max(lengths) <= 220


@pytest.mark.parametrize("language", LANGUAGES)
def test_length_is_proved_for_all_derivations(language: str) -> None:
    root = story(language)
    for setup in _setup_list(root).entries:
        least, most = root.span(Outlook(fixed={"S": setup}), (0, 0))
        assert least + 1 >= 60, setup.name
        assert most + 1 <= 220, setup.name


def test_distinct_documents(shelf: Shelf) -> None:
    assert len(shelf.hashes) >= 0.999 * COUNTED


def test_vocabulary(shelf: Shelf) -> None:
    forms: set[str] = set()
    for fable in shelf.fables:
        forms.update(re.findall(r"[^\W\d_]+", fable.text.casefold()))
    assert len(forms) >= 1_500


# ---- set-ups and features ----------------------------------------------------------------------------------


def test_setups_are_equally_frequent(shelf: Shelf) -> None:
    counts = Counter(fable.setup for fable in shelf.fables)
    assert set(counts) == set(SETUPS)
    assert len(SETUPS) == 12
    for setup in SETUPS:
        assert counts[setup] / KEPT == pytest.approx(1 / 12, abs=0.01)


def test_features_have_about_their_stated_probability(shelf: Shelf) -> None:
    # "About": a feature is only tossed for while there is room, so long fables have slightly fewer.
    for feature in FEATURES:
        default, special = CHANCES[feature]
        for setup in SETUPS:
            group = [fable for fable in shelf.fables if fable.setup == setup]
            share = sum(feature in fable.features for fable in group) / len(group)
            assert share == pytest.approx(special.get(setup, default), abs=0.06), (feature, setup)


def test_features_can_be_seen_in_the_text(shelf: Shelf) -> None:
    mark = "—" if shelf.language == "es" else '"'
    for fable in shelf.fables:
        body = re.sub(r'written: "[^"]*"', "", fable.text)
        assert (mark in body) == ("dialogue" in fable.features), fable.text
        assert fable.text.count("\n") >= 3
    lines_with = Counter(f.text.split("\n")[-1].split()[0] for f in shelf.fables if "moral" in f.features)
    assert lines_with["Moraleja:" if shelf.language == "es" else "Moral:"] > 0.2 * lines_with.total()


# ---- the texts ---------------------------------------------------------------------------------------------

# Pattern -> why it must never be found.
BLEMISHES = {
    r"  |\t|\n\n|^\s|\s$| \n|\n ": "stray blanks",
    r" [,.;:!?»)]": "a blank before a mark",
    r"[,;:]{2}|[,;:]\.|\.[,;:]|\.\.": "two marks in a row",
    r"[\[\]{}<>|¶*#^~_]": "notation left in the text",
    r"[.] [a-záéíóúñ]": "a sentence without a capital",
    r"\b(\w+) \1\b": "a word twice in a row",
}
BLEMISHES_OF = {
    "es": {
        r"\b(?:a|de) el\b": "a contraction is missing",
        r"\b[yY] h?i(?!e)": "y before an i sound",
        r"\bla (?:águila|arpa|hacha|haya)\b": "el before a stressed a",
        r"\bel (?:tortuga|rana|cometa|manta|azada|sandía|araña|ardilla|abeja)\b": "wrong article",
        r"\b(?:una|la) (?:zorro|oso|tambor|cesto|melón|patinete|reloj)\b": "wrong article",
        r"(?m)^[^A-ZÁÉÍÓÚÑ¿¡—]": "a paragraph without a capital",
        r'"': "an English quotation mark",
        r"[.,] —": "a mark before the dash of an aside",
    },
    "en": {
        r"\ba (?!uni|use|uku|one|euc|ewe)[aeiou]": "a before a vowel",
        r"\ban (?!hon|hour|heir)[^aeiou]": "an before a consonant",
        r'(?m)^[^A-Z"]': "a paragraph without a capital",
        r"[¿¡—«»]": "a Spanish mark",
        r'[^,.!?]" (?:said|answered|replied|murmured)': "no mark before the closing quotation mark",
        r'[^,:] "[a-z]': "speech without a capital",
    },
}


def test_no_blemish(shelf: Shelf) -> None:
    for pattern, why in {**BLEMISHES, **BLEMISHES_OF[shelf.language]}.items():
        found = re.compile(pattern)
        for fable in shelf.fables[:8_000]:
            match = found.search(fable.text)
            assert match is None, f"{why}: {match and match.group()!r} in\n{fable.text}"


def test_marks_are_balanced(shelf: Shelf) -> None:
    for fable in shelf.fables:
        for line in fable.text.split("\n"):
            assert line.count("«") == line.count("»")
            assert line.count('"') % 2 == 0
            assert line[-1] in '.!?"'
            if shelf.language == "es":
                assert line.count("¿") == line.count("?")
                assert line.count("¡") == line.count("!")


def test_spanish_adjectives_agree() -> None:
    forms = agreement.adjective
    for source, expected in {
        "viejo": ("viejo", "vieja", "viejos", "viejas"),
        "feliz": ("feliz", "feliz", "felices", "felices"),
        "glotón": ("glotón", "glotona", "glotones", "glotonas"),
        "soñador": ("soñador", "soñadora", "soñadores", "soñadoras"),
        "cortés/cortés": ("cortés", "cortés", "corteses", "corteses"),
        "hecho a mano": ("hecho a mano", "hecha a mano"),
        "de segunda mano": ("de segunda mano", "de segunda mano"),
    }.items():
        entry = forms(source)
        found = tuple(_fixed_text(entry.forms[key]) for key in ("m", "f", "mp", "fp") if key in entry.forms)
        assert found == expected
    eagle = agreement.noun("el* águila").forms
    told = [_fixed_text(eagle[key]) for key in ("el", "un", "del", "al", "este", "o")]
    assert told == ["el águila", "un águila", "del águila", "al águila", "esta águila", "a"]


def test_spanish_things_agree_with_their_colour() -> None:
    things = [noun.split(" ", 1) for noun in agreement.items(lexicon.TOYS + lexicon.GOODS) if "*" not in noun]
    colours = [entry.forms for _, entry in agreement.adjectives(lexicon.COLOURS)]
    changing = [(_fixed_text(c["m"]), _fixed_text(c["f"])) for c in colours]
    patterns = []
    for article, wrong in (("la", 0), ("el", 1)):
        nouns = "|".join(re.escape(bare) for gender, bare in things if gender[-2:] == article)
        forms = "|".join(pair[wrong] or "" for pair in changing if pair[0] != pair[1])
        patterns.append(rf"\b{'una' if article == 'la' else 'un'} (?:{nouns}) (?:{forms})\b")
    mismatch = re.compile("|".join(patterns))
    for fable in Fables("es", seed=2).take(3_000):
        assert mismatch.search(fable.text) is None, fable.text


def test_characters_stay_the_same(shelf: Shelf) -> None:
    # A name that opens the story is used again in it.
    pattern = {"es": r"llamad[oa] ([A-ZÁÉÍÓÚ]\w+)", "en": r"named ([A-Z]\w+)"}[shelf.language]
    for fable in shelf.fables[:5_000]:
        for name in re.findall(pattern, fable.text):
            assert len(re.findall(rf"\b{name}\b", fable.text)) >= 2, fable.text


TENSES = {
    "es": {
        "imperfecto": r"\b(?:vivía|tenía|era|olía|sabía|quería)",
        "indefinido": r"\b(?:respondió|dijo|encontraron|aceptó|volvió)\b",
        "pluscuamperfecto": r"\bhabían? \w+[ai]do\b",
        "presente": r"\b(?:es|vale|enseña|tiene)\b",
        "futuro": r"\b(?:daré|ayudarás|pasará|encargaré|comeremos)\b",
        "condicional": r"\b(?:podríamos|deberíamos|harías?|habría|llegarían)\b",
        "imperativo": r"\b(?:Toma|Ten|Vayamos|Hagamos|Míralo|Probemos)\b",
        "subjuntivo": r"\b(?:hiciera|tuviera|decida|pierda|llamara|quisiera|jugaran)\b",
    },
    "en": {
        "past": r"\b(?:said|went|found|gave)\b",
        "past perfect": r"\bhad (?:left|forgotten|been|taught|remembered)\b",
        "past continuous": r"\bwere (?:walking|resting|singing|strolling)\b",
        "present": r"\b(?:is|costs|breaks|teaches)\b",
        "future": r"\b(?:will|shall)\b",
        "conditional": r"\b(?:could|would|should)\b",
        "imperative": r"\b(?:Take|Listen|Remember|Let)\b",
    },
}


def test_tenses_are_present(shelf: Shelf) -> None:
    texts = [fable.text for fable in shelf.fables[:3_000]]
    for tense, pattern in TENSES[shelf.language].items():
        assert sum(bool(re.search(pattern, text)) for text in texts) >= 30, tense


# ---- exact probabilities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_has_one_derivation_with_the_recorded_surprisal(language: str) -> None:
    for fable in Fables(language, seed=9).take(60):
        derivations = parse(fable.text, language)
        assert len(derivations) == 1, fable.text
        assert derivations[0].surprisal_bits == pytest.approx(fable.surprisal_bits, abs=1e-6)
        assert derivations[0].setup == fable.setup
        assert derivations[0].features == fable.features
        assert surprisal_bits(fable.text, language) == pytest.approx(fable.surprisal_bits, abs=1e-6)


def test_a_foreign_text_has_no_derivation() -> None:
    text = Fables("es")[0].text
    assert parse(text + " ", "es") == []
    assert surprisal_bits(text.replace(" ", "  ", 1), "es") == math.inf
    assert parse(text, "en") == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_options_of_a_choice_are_distinct_and_sum_to_one(language: str) -> None:
    points = choice_points(language)
    assert len(points) > 400
    for point in points:
        options = [option for option, _ in point.options]
        assert len(set(options)) == len(options), point.name
        if not point.name.startswith("toss"):
            assert math.fsum(p for _, p in point.options) == pytest.approx(1.0)
        assert all(0.0 <= p <= 1.0 for _, p in point.options)


@pytest.mark.parametrize("language", LANGUAGES)
def test_forms_of_a_word_list_are_distinct(language: str) -> None:
    # Two entries with one and the same form would leave no trace of which of them was drawn.
    for draw in _walk(story(language)):
        if not isinstance(draw, Draw) or draw.bind == "S":
            continue
        keys = ["m", "f", "mp", "fp"] if draw.agree else [draw.form]
        for key in filter(None, keys):
            forms = [_fixed_text(entry.forms[key]) for entry in draw.words.entries if key in entry.forms]
            told = [form for form in forms if form is not None]
            assert len(set(told)) == len(told), (draw.words.name, key)


@pytest.mark.parametrize("language", LANGUAGES)
def test_entropy_estimate(language: str) -> None:
    estimate = entropy_estimate(language, 2_000)
    assert estimate.documents == 2_000
    assert 0.2 < estimate.bits_per_byte < 0.6
    assert 0 < estimate.standard_error < 0.002
    other = entropy_estimate(language, 2_000, seed=1)
    distance = abs(estimate.bits_per_byte - other.bits_per_byte)
    assert distance < 5 * math.hypot(estimate.standard_error, other.standard_error)


# ---- the machine on a grammar small enough to count --------------------------------------------------------


def small_grammar() -> Grammar:
    grammar = Grammar("the", lambda first, _: first, {"late": (0.25, {})})
    words = [(1, _word("fox")), (2, _word("owl")), (1, _word("ant"))]
    grammar.words("animal", words)
    grammar.rule("tail", "2*.", ", [at last|of course].")
    grammar.rule("start", "{X=animal} and {animal}{?late}<late: late> for {X}<#5:{tail}|!>")
    return grammar


def _word(text: str) -> Entry:
    return Entry(text, "", spoken({"the": text}))


def test_probabilities_of_all_texts_of_a_small_grammar() -> None:
    start = small_grammar().rules["start"]
    seen: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for seed in range(20_000):
        telling = Telling(seed)
        start.tell(telling)
        text = "".join(telling.out)
        seen[text] = telling.bits
        counts[text] += 1
    probability = {text: 2**-bits for text, bits in seen.items()}
    # Six pairs; without "late" there is room for three tails, with it there is none.
    assert len(probability) == 6 * (3 + 1)
    assert math.fsum(probability.values()) == pytest.approx(1.0)
    for text, p in probability.items():
        steps = [bits for end, _, bits in start.read(text, 0, Memory()) if end == len(text)]
        assert steps == [pytest.approx(-math.log2(p))]
        assert counts[text] / 20_000 == pytest.approx(p, abs=5 * math.sqrt(p / 20_000))


def test_a_choice_that_leaves_no_trace_is_refused() -> None:
    grammar = small_grammar()
    with pytest.raises(ValueError, match="no trace"):
        grammar.rule("twin", "[same|same]")
    with pytest.raises(ValueError, match="repeated entries"):
        grammar.words("twins", [(1, _word("fox")), (1, _word("fox"))])
    with pytest.raises(ValueError, match="weight"):
        grammar.rule("never", "[0*a|b]")


@pytest.mark.parametrize(
    ("source", "message"),
    [("{nobody}", "unknown name"), ("[a|b", "expected"), ("a]", "stray"), ("{a b}", "cannot read")],
)
def test_faulty_notation_is_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_grammar().compile(source, "faulty")


def test_a_name_has_one_meaning() -> None:
    with pytest.raises(ValueError, match="defined twice"):
        small_grammar().rule("animal", "beast")


# ---- walking a grammar -------------------------------------------------------------------------------------


def _walk(root: Node) -> Iterator[Node]:
    """Every node once, including those inside the forms of word lists."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        waiting.extend(node.children())
        if isinstance(node, Draw):
            waiting.extend(form for entry in node.words.entries for form in entry.forms.values())


def _setup_list(root: Node) -> WordList:
    return next(node.words for node in _walk(root) if isinstance(node, Draw) and node.bind == "S")


def _fixed_text(node: Node) -> str | None:
    """What a node without any choice writes; None if it has choices."""
    text = getattr(node, "text", None)
    return text if isinstance(text, str) else None
