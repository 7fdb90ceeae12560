"""The ids of every form are those that `tokenizers` and transformers read from its file, whatever made them here."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from fabula import storage
from fabula.errors import InputError
from fabula.tokenizer import cuts, fast, forms, reference
from fabula.tokenizer.base import Tokenizer, byte_of_letter
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.ranks import by_bytes
from fabula.tokenizer.special import SPECIAL_TEXT
from tests.faults.test_tokenizer import any_text
from tests.tokenizer import variants

NASTY = [
    "",
    " ",
    "\0",
    "aaaa",
    "ab" * 33,
    "aab" * 50 + "a",
    " \n \n\n  x\r\n\r\n\ty  ",
    "don't DON'T it's 'sabc d'Él 'll",
    "12345 1 22 333 4444 ١٢٣٤ ²³½",
    "—¿Qué?—¡Ay!… «no», “sí” (¿o no?)",
    "e\u0301e\u0301 nin\u0303a \u0301",
    "<|endoftext|><|user|> <|pad|>",
    "\u2028\u2029\u0085\x1c\x1d\u00a0\u3000\u180e\ufeff",
    "🦊👩‍👩‍👧‍👦 漢字\U0010ffff\ufffe",
    "x" * 700 + " " * 700 + "!" * 700,
]


@pytest.fixture(scope="module", params=sorted(variants.VARIANTS))
def made(request: pytest.FixtureRequest, tiny_texts: list[str]) -> Tokenizer:
    return variants.make(request.param, tiny_texts)


def slow(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """The ids as `tokenizers` reads them from the file."""
    backend = Backend.from_str(tokenizer.to_json())
    backend.encode_special_tokens = True
    return lambda text: list(backend.encode(text, add_special_tokens=False).ids)


def quick(tokenizer: Tokenizer) -> fast.Encoder | None:
    return fast.encoder(json.loads(tokenizer.to_json()))


# ---- every form --------------------------------------------------------------------------------------------


def test_ids_are_those_of_the_file(made: Tokenizer, tiny_texts: list[str], tmp_path: Path) -> None:
    made.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == made.fingerprint
    assert loaded.to_json() == made.to_json()
    chance = random.Random(5)
    texts = [*NASTY, *tiny_texts[:10], *variants.TEXTS, *(any_text(case) for case in range(200))]
    for alphabet in ("a", "ab", "abc", "a ", "a \n", "aé ñ", "el .\n"):
        texts += ["".join(chance.choices(alphabet, k=chance.randrange(1, 90))) for _ in range(20)]
    expected = [slow(made)(text) for text in texts]
    loaded._seen = 1 << 20  # beyond the point where the fast encoder would be made: there is none
    assert [loaded.encode(text) for text in texts] == expected
    made._seen = 0
    assert made.encode_batch([*texts, "x " * (1 << 16)])[: len(texts)] == expected
    assert (made._encoder is None) == made.to_json().count('"Unigram"')
    assert [made.encode(text) for text in texts] == expected
    control = set(made.special.ids())
    for text, ids in zip(texts, expected, strict=True):
        assert made.decode(ids) == text
        assert control.isdisjoint(ids)


def test_threads_do_not_change_ids(made: Tokenizer, tiny_texts: list[str]) -> None:
    made.encode("x " * (1 << 16))
    batches = []
    for threads in (1, 2, 4):
        made.threads = threads
        batches.append(made.encode_batch([*tiny_texts, *NASTY]))
    made.threads = None
    assert batches[0] == batches[1] == batches[2] == [made.encode(t) for t in [*tiny_texts, *NASTY]]


def test_a_lone_surrogate(made: Tokenizer) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match=r"character 2 of the text is a lone surrogate \(U\+D83E\)"):
            made.encode("ab\ud83e")
        with pytest.raises(InputError, match="lone surrogate"):
            made.encode_batch(["a", "\udc00"])
        made.encode("x " * (1 << 16))


def test_transformers_reads_the_same(made: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in (*NASTY, *variants.TEXTS, *(any_text(case) for case in range(30))):
        # Theirs reads special tokens in a text unless it is told not to.
        assert theirs.encode(text, add_special_tokens=False, split_special_tokens=True) == made.encode(text), text
        assert theirs.decode(made.encode(text), clean_up_tokenization_spaces=False) == text


def test_it_is_exported_and_comes_back(made: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from fabula.export import hf_tokenizer

    for name, content in hf_tokenizer.files(made, 128).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    end = made.special.end_of_document
    for text in NASTY[1:]:
        assert theirs.encode(text, split_special_tokens=True) == [end, *made.encode(text)]
    assert theirs.eos_token_id == end
    assert theirs.pad_token_id == made.special.padding
    back = hf_tokenizer.read(tmp_path, {}, made.vocab_size)
    assert back.fingerprint == made.fingerprint


@pytest.mark.corpora
def test_nasty_corpora_and_random_strings(made: Tokenizer, corpora: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    texts = [any_text(case) for case in range(10_000)]
    for name in ("blns.txt", "utf8-demo.txt"):
        whole = (corpora / name).read_bytes().decode("utf-8")
        texts += [whole, *whole.split("\n")]
    ids = made.encode_batch(texts)
    assert theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ids
    assert [made.decode(i) for i in ids] == texts


def test_a_long_piece(made: Tokenizer) -> None:
    """Without a break: the ids are those of `tokenizers`, and nobody gives up or takes for ever."""
    chance, size = random.Random(3), 1 << 17
    made.encode("x " * size)
    for text in (
        *("a" * size, "\n" * size, "".join(chance.choices("abcdeñ", k=size))),
        "palabra " * 9 + " " * size + "\n \n",
    ):
        ids = made.encode(text)
        assert ids == slow(made)(text)
        assert made.decode_bytes(ids) == text.encode()


# ---- when the fast way is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize("members", [r"\p{L}", r"\p{N}", r"\p{M}", r"\s", r"[^\s\p{L}\p{N}]"])
def test_both_libraries_agree_on_every_character(members: str) -> None:
    """What is a letter, a number, a mark or a space: else pieces would be cut in other places."""
    tiktoken = pytest.importorskip("tiktoken")
    from tokenizers import Regex

    encoding = tiktoken.Encoding(
        "bytes", pat_str=members, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    removing = pre_tokenizers.Split(Regex(members), "removed")
    for start in range(0, 0x110000, 0x8000):
        text = "".join(chr(c) for c in range(start, start + 0x8000) if not 0xD800 <= c <= 0xDFFF)
        theirs = set(bytes(encoding.encode_ordinary(text)).decode("utf-8"))
        others = {c for piece, _ in removing.pre_tokenize_str(text) for c in piece}
        assert theirs == set(text) - others


def test_a_tokenizer_of_before_is_what_it_was(tmp_path: Path) -> None:
    """Those that `tokenizers` trained before: the same file, fingerprint and ids, and the fast way after a look."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        min_frequency=2,
        special_tokens=list(SPECIAL_TEXT.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["el conejo y la zorra, el zorro y la coneja; ¿niño o niña? " * 3] * 4, trainer=trainer)
    (tmp_path / "tokenizer.json").write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert loaded.to_json() == backend.to_str(pretty=True) + "\n"
    assert loaded.fingerprint == storage.hash_data(json.loads(backend.to_str()))
    backend.encode_special_tokens = True
    encoder = quick(loaded)
    assert encoder is not None
    for text in [*NASTY, *(any_text(case) for case in range(300)), "el conejo y la niña"]:
        assert encoder.encode(text) == loaded.encode(text) == backend.encode(text, add_special_tokens=False).ids


def _bpe(merges: list[tuple[str, str]], order: list[str] | None = None) -> dict[str, Any]:
    """The data of a BPE over a few letters with any merges."""
    data = json.loads(train_bpe(["x"], forms.SMALLEST).to_json())
    for token in order or ["".join(pair) for pair in merges]:
        data["model"]["vocab"].setdefault(token, len(data["model"]["vocab"]))
    data["model"]["merges"] = [list(pair) for pair in merges]
    return data


@pytest.mark.parametrize(
    "merges",
    [
        [("a", "b"), ("b", "c"), ("a", "bc")],  # abc is ab c before the third merge is reached
        [("b", "c"), ("a", "b"), ("ab", "c")],
        [("a", "a"), ("a", "aa")],  # aaa is aa a
        [("a", "b"), ("ab", "a"), ("b", "a"), ("a", "ba")],  # a token with two splits
        [("a", "a"), ("aa", "aa"), ("aa", "a"), ("aaa", "a")],
    ],
)
def test_merges_that_are_not_found_by_their_bytes(merges: list[tuple[str, str]]) -> None:
    assert fast.encoder(_bpe(merges)) is None


@given(st.data())
@settings(max_examples=150)
def test_what_is_let_through_gives_the_same_ids(data: st.DataObject) -> None:
    """Merges at random, most of which nobody would learn: either they are refused or every text has the same ids."""
    tokens, merges = ["a", "b", "c"], []
    for _ in range(data.draw(st.integers(1, 7))):
        pair = data.draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        merges.append(pair)
        if "".join(pair) not in tokens:
            tokens.append("".join(pair))
    made = _bpe(merges)
    encoder = fast.encoder(made)
    numbers = made["model"]["vocab"]
    pairs = [(numbers[a], numbers[b]) for a, b in merges]
    assert (encoder is None) == (by_bytes(pairs, [numbers[a + b] for a, b in merges]) is None)
    if encoder is None:
        return
    backend = Backend.from_str(json.dumps(made))
    for text in data.draw(st.lists(st.text(alphabet="abc", max_size=30), min_size=5, max_size=9)):
        assert encoder.encode(text) == backend.encode(text).ids


@given(st.text(alphabet="ab", min_size=2, max_size=60), st.text(alphabet="ab", max_size=200))
@settings(max_examples=150)
def test_runs_and_periods_have_the_references_ids(learnt_from: str, text: str) -> None:
    made = train_bpe([learnt_from], forms.SMALLEST + 30, exact=False, boundary="none")
    merges = reference.learn([learnt_from.encode()], 30)
    letters = {byte: letter for letter, byte in byte_of_letter().items()}
    vocabulary = json.loads(made.to_json())["model"]["vocab"]
    numbers = [vocabulary[letters[byte]] for byte in range(256)]
    numbers += range(forms.SMALLEST, forms.SMALLEST + len(merges))
    encoder = quick(made)
    assert encoder is not None
    assert encoder.encode(text) == slow(made)(text) == [numbers[i] for i in reference.encode(text.encode(), merges)]


@given(
    st.text(alphabet="ab", min_size=2, max_size=80),
    st.one_of(st.text(alphabet="ab", max_size=200), st.integers(0, 200).map(lambda n: "a" * n)),
    st.integers(1, 9),
)
@settings(max_examples=300)
def test_a_long_document_in_parts_has_the_ids_of_the_whole(learnt_from: str, text: str, part: int) -> None:
    made = train_bpe([learnt_from], forms.SMALLEST + 30, exact=False, boundary="none")
    encoder = quick(made)
    if isinstance(encoder, fast._Merging):
        encoder.part = part
        assert encoder.encode(text) == slow(made)(text)
        assert encoder.encode_batch([text, text[1:]], 2) == [slow(made)(text), slow(made)(text[1:])]


def test_parts_of_a_text(tiny_texts: list[str]) -> None:
    made = variants.make("none", tiny_texts)
    encoder, text = quick(made), "\n".join([*tiny_texts, *NASTY])
    assert isinstance(encoder, fast._Merging)
    expected = slow(made)(text)
    for part in (1, 2, 3, 7, 50, 1000):
        encoder.part = part
        assert encoder.encode(text) == expected


def _changed(**parts: Any) -> dict[str, Any]:
    return {**_bpe([("a", "b")]), **parts}


def test_only_what_is_sure_goes_the_fast_way() -> None:
    assert fast.encoder(_bpe([("a", "b")])) is not None
    assert fast.encoder(_bpe([("a", "b"), ("c", "d")], ["cd", "ab"])) is None  # ids in another order than the merges
    assert fast.encoder(_changed(normalizer={"type": "NFC"})) is None
    assert fast.encoder(_changed(pre_tokenizer={"type": "Digits", "individual_digits": True})) is None
    model = _bpe([("a", "b")])["model"]
    for change in ({"dropout": 0.1}, {"ignore_merges": True}, {"byte_fallback": True}, {"end_of_word_suffix": "b"}):
        assert fast.encoder(_changed(model={**model, **change})) is None
    token = {"id": 6, "content": "ab", "special": False, "lstrip": False, "rstrip": False, "normalized": True}
    assert fast.encoder(_changed(added_tokens=[token])) is None
    assert cuts.named({"type": "ByteLevel", "add_prefix_space": 0, "use_regex": 1}) is None
