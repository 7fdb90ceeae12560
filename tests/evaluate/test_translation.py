"""BLEU and chrF: known values, several references, a library that is not there."""

from __future__ import annotations

import math
import sys

import pytest

from fabula.errors import MachineError
from fabula.evaluate import translation
from fabula.evaluate.translation import Translated, bleu_and_chrf


def test_equal_texts_have_a_hundred() -> None:
    texts = ["el gato está en la alfombra verde", "no lo sé, la verdad"]
    found = bleu_and_chrf(texts, [[t] for t in texts])
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert found["brevity_penalty"] == 1


def test_bleu_by_hand() -> None:
    """Precisions 4/5, 2/4, 1/3 and, with no 4-gram in common, 1/(2 * 2); both texts have five words."""
    found = bleu_and_chrf(["the cat sat on mat"], [["the cat sat by mat"]])
    by_hand = math.exp(sum(math.log(p) for p in (4 / 5, 2 / 4, 1 / 3, 1 / 4)) / 4)
    assert found["bleu"] == pytest.approx(100 * by_hand)
    assert found["length_ratio"] == 1


def test_a_short_text_pays_for_it() -> None:
    found = bleu_and_chrf(["one two three four"], [["one two three four five six"]])
    assert found["bleu"] == pytest.approx(100 * math.exp(1 - 6 / 4))
    assert found["brevity_penalty"] == pytest.approx(math.exp(1 - 6 / 4))


def test_every_reference_counts() -> None:
    texts = ["no tengo ni idea de eso", "ven aquí ahora mismo por favor"]
    one = [["no lo sé en absoluto hoy"], ["ven aquí ahora mismo por favor"]]
    several = [["no lo sé en absoluto hoy", "no tengo ni idea de eso"], ["ven aquí ahora mismo por favor"]]
    assert bleu_and_chrf(texts, one)["bleu"] < 99
    assert bleu_and_chrf(texts, several)["bleu"] == pytest.approx(100)
    assert bleu_and_chrf(texts, several)["chrf"] == pytest.approx(100)


def test_the_signatures_say_how_it_was_counted() -> None:
    found = bleu_and_chrf(["uno dos"], [["uno dos", "dos uno"]])
    assert "nrefs:2" in found["bleu_signature"]
    assert "tok:13a" in found["bleu_signature"]
    assert "version:" in found["chrf_signature"]


def test_nothing_to_compare_is_a_mistake() -> None:
    for texts, references in (([], []), (["a"], [[]]), (["a"], [["a"], ["b"]])):
        with pytest.raises(ValueError, match="at least one reference"):
            bleu_and_chrf(texts, references)


def test_a_missing_library_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    translation.require()
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (translation.require, lambda: bleu_and_chrf(["a"], [["a"]])):
        with pytest.raises(MachineError, match=r"pip install 'fabula\[evaluate\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_translation_as_data() -> None:
    made = Translated("Go.", "Ve.", ("Ve.", "Vete."), -0.5, True)
    assert made.to_data() == {
        "source": "Go.",
        "text": "Ve.",
        "references": ["Ve.", "Vete."],
        "score": -0.5,
        "ended": True,
    }
