"""Tokenizers from elsewhere give the ids of the tool they come from, or say why they cannot."""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError, InputError
from fabula.tokenizer import foreign_files, imports, trials
from fabula.tokenizer.base import FILE, Tokenizer, byte_of_letter
from fabula.tokenizer.foreign import ForeignTokenizer
from tests.tokenizer.test_foreign import byte_level

_LETTERS = {byte: letter for letter, byte in byte_of_letter().items()}


def merged(texts: list[str]) -> tuple[dict[str, int], list[list[str]]]:
    """A small vocabulary over bytes and its merges."""
    model = byte_level("gpt2", texts)["model"]
    return model["vocab"], model["merges"]


def write_gpt2(folder: Path, texts: list[str]) -> None:
    vocab, merges = merged(texts)
    vocab = {**vocab, "<|endoftext|>": len(vocab)}
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def write_ranks(file: Path, texts: list[str]) -> dict[bytes, int]:
    _, merges = merged(texts)
    letters = byte_of_letter()
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes(letters[c] for c in left + right) for left, right in merges]
    file.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return {token: rank for rank, token in enumerate(tokens)}


def alexandria(texts: list[str], controls: tuple[str, ...] = ("<UNK>", "<EOS>", "<PAD>"), count: int = 60) -> Any:
    """A tokenizer as Alexandria wrote them: the most frequent pair of ids of whole texts becomes the next id."""
    rows = [list(text.encode()) for text in texts]
    pieces = {byte: bytes([byte]) for byte in range(256)}
    shown = {byte: chr(byte) if 32 < byte < 127 else "·" if byte == 32 else f"<0x{byte:02X}>" for byte in range(256)}
    shown |= dict(enumerate(controls, 256))
    merges = {}
    for number in range(256 + len(controls), 256 + len(controls) + count):
        pairs: dict[tuple[int, int], int] = {}
        for row in rows:
            for pair in itertools.pairwise(row):
                pairs[pair] = pairs.get(pair, 0) + 1
        best = max(pairs, key=lambda pair: (pairs[pair], -pair[0], -pair[1]))
        merges[f"({best[0]}, {best[1]})"] = number
        pieces[number] = pieces[best[0]] + pieces[best[1]]
        shown[number] = pieces[number].decode(errors="replace")
        rows = [ranks_applied(row, best, number) for row in rows]
    return {"max_merges": count, "vocab_str": {str(k): v for k, v in shown.items()}, "merges": merges}


def ranks_applied(row: list[int], pair: tuple[int, int], number: int) -> list[int]:
    made: list[int] = []
    for value in row:
        if made and (made[-1], value) == pair and made[-1] != number:
            made[-1] = number
        else:
            made.append(value)
    return made


def spm(texts: list[str], **settings: Any) -> bytes:
    sentencepiece = pytest.importorskip("sentencepiece")
    made = io.BytesIO()
    given = {"vocab_size": 400, "hard_vocab_limit": False, "character_coverage": 0.999, **settings}
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=made, minloglevel=2, **given)
    return made.getvalue()


def random_texts(count: int, seed: int = 5) -> list[str]:
    """Texts of any characters of Unicode."""
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        numbers = (chance.randrange(0x110000) for _ in range(chance.randrange(1, 24)))
        made.append("".join(chr(n) for n in numbers if not 0xD800 <= n < 0xE000))
    return made


# ---- GPT-2 -----------------------------------------------------------------------------------------------------


@pytest.mark.corpora
def test_gpt2_gives_the_ids_of_tiktoken_and_transformers(corpora: Path, tmp_path: Path) -> None:
    import tiktoken
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    transformers = pytest.importorskip("transformers")
    made = imports.bring(corpora / "gpt2")
    imports.write(made, tmp_path / "gpt2")
    ours = Tokenizer.load(tmp_path / "gpt2")
    folder = corpora / "gpt2"
    table = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    theirs = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=table, special_tokens={})
    loaded = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "gpt2" / FILE))
    texts = [(corpora / name).read_text(encoding="utf-8") for name in ("blns.txt", "utf8-demo.txt")]
    texts += json.loads((corpora / "blns.json").read_text(encoding="utf-8"))
    texts += random_texts(10_000)
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids == theirs.encode_ordinary(text), text
        assert ours.decode(ids) == text
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        assert loaded(part, add_special_tokens=False)["input_ids"] == ours.encode_batch(part)
    assert ours.vocab_size == 50257
    assert ours.special.end_of_document == 50256


def test_a_small_pair_of_files(tmp_path: Path, tiny_texts: list[str]) -> None:
    write_gpt2(tmp_path, tiny_texts)
    for path in (tmp_path, tmp_path / "merges.txt"):
        made = imports.bring(path)
        assert made.format == "gpt2"
        assert made.tokenizer.control_texts() == {"<|endoftext|>": made.tokenizer.vocab_size - 1}
    other = imports.bring(tmp_path, end="</doc>").tokenizer
    assert other.special.end_of_document == made.tokenizer.vocab_size


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("zzz qqq", r"joins 'zzz', which no line before it makes"),
        ("Ġ \u6f22", r"joins '漢'"),
        ("q z", r"makes 'qz', which vocab.json does not have"),
        ("a", "is not two tokens"),
        ("a b c", "is not two tokens"),
        ("e n", r"makes 'en' a second time|which vocab.json does not have"),
    ],
)
def test_merges_that_refer_to_nothing(line: str, said: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    write_gpt2(tmp_path, tiny_texts)
    with (tmp_path / "merges.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DamagedError, match=said):
        imports.bring(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(a=0), "not 0, 1, 2 and so on, each once"),
        (lambda v: v.update(nuevo=1 << 40), "not 0, 1, 2"),
        (lambda v: v.update(nuevo="9"), "not 0, 1, 2"),
        (lambda v: v.clear(), "of the 256 bytes"),
    ],
)
def test_a_vocabulary_with_two_ids_for_one_text(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path, tiny_texts: list[str]
) -> None:
    write_gpt2(tmp_path, tiny_texts)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    change(vocab)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    with pytest.raises(DamagedError, match=said):
        imports.bring(tmp_path)


# ---- tiktoken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["gpt2", "r50k_base", "cl100k", "o200k"])
def test_ranks(pattern: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    file = tmp_path / "small.tiktoken"
    table = write_ranks(file, tiny_texts)
    made = imports.bring(file, pattern=pattern)
    assert (made.format, made.library) == ("tiktoken", "tiktoken")
    assert made.tokenizer.special.end_of_document == len(table)
    assert made.tokenizer.decode([len(table) - 1]).encode() == next(t for t, r in table.items() if r == len(table) - 1)
    transformers = pytest.importorskip("transformers")
    imports.write(made, tmp_path / "out")
    loaded = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "out" / FILE))
    texts = [text for text in (*trials.nasty(7), *random_texts(300)) if "<|endoftext|>" not in text]
    assert loaded(texts, add_special_tokens=False)["input_ids"] == made.tokenizer.encode_batch(texts)


def test_ranks_that_no_merge_reaches(tmp_path: Path, tiny_texts: list[str]) -> None:
    """A word of the vocabulary that cannot be put together is found as a whole, as tiktoken does."""
    file = tmp_path / "small.tiktoken"
    table = write_ranks(file, tiny_texts)
    with file.open("ab") as more:
        more.write(base64.b64encode(b"xyzzyq") + b" %d\n" % len(table))
    made = imports.bring(file, pattern="gpt2").tokenizer
    assert made.encode("xyzzyq") == [len(table)]
    assert len(made.encode("xyzzyqx")) > 1


def test_holes_among_ranks_are_reserved(tmp_path: Path, tiny_texts: list[str]) -> None:
    """As in p50k, where the end of a document stands between the ranks."""
    file = tmp_path / "small.tiktoken"
    table = write_ranks(file, tiny_texts)
    lines = file.read_bytes().splitlines(keepends=True)
    last = lines.pop().split()[0]
    file.write_bytes(b"".join(lines) + last + b" %d\n" % (len(table) + 3))
    made = imports.bring(file, pattern="gpt2")
    assert made.notes == ["4 ids that no token has are reserved control tokens"]
    assert f"<|reserved_{len(table)}|>" in made.tokenizer.control_texts()


@pytest.mark.corpora
def test_the_published_size_gets_the_published_end(corpora: Path, tmp_path: Path) -> None:
    made = foreign_files.gpt2(corpora / "gpt2")
    letters = byte_of_letter()
    vocab = made.data["model"]["vocab"]
    lines = [
        base64.b64encode(bytes(letters[c] for c in text)) + b" %d\n" % number
        for text, number in vocab.items()
        if text != "<|endoftext|>"
    ]
    (tmp_path / "r50k_base.tiktoken").write_bytes(b"".join(lines))
    again = imports.bring(tmp_path / "r50k_base.tiktoken", pattern="r50k").tokenizer
    assert (again.vocab_size, again.special.end_of_document) == (50257, 50256)
    for text in trials.nasty(9):
        assert again.encode(text) == made.reference(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, rows[300].split()[0] + b" 9999\n"], "two ids for one text"),
        (lambda rows: [*rows, base64.b64encode(b"nueva") + b" 300\n"], "have the same rank 300"),
        (lambda rows: rows[1:], "1 of the 256 bytes have no rank"),
        (lambda rows: [*rows, b"!! 5\n"], "is not a token in base64"),
        (lambda rows: [*rows, b"YWFh\n"], "is not a token in base64"),
        (lambda rows: [*rows, base64.b64encode(b"nueva") + b" 99999\n"], "ranks are missing"),
        (lambda rows: [*rows, base64.b64encode(b"a" * 600) + b" 330\n"], "600 bytes long"),
    ],
)
def test_damaged_ranks(change: Callable[[Any], Any], said: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    file = tmp_path / "small.tiktoken"
    write_ranks(file, tiny_texts)
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(DamagedError, match=said):
        imports.bring(file, pattern="gpt2")


def test_a_pattern_is_named_from_a_list(tmp_path: Path, tiny_texts: list[str]) -> None:
    write_ranks(tmp_path / "small.tiktoken", tiny_texts)
    with pytest.raises(InputError, match=r"does not say its pattern; name it: --pattern gpt2\|cl100k\|o200k"):
        imports.bring(tmp_path / "small.tiktoken")
    with pytest.raises(InputError, match="'cl100' is not known; did you mean"):
        imports.bring(tmp_path / "small.tiktoken", pattern="cl100")
    write_gpt2(tmp_path / "gpt2", tiny_texts)
    with pytest.raises(InputError, match="is for files of ranks"):
        imports.bring(tmp_path / "gpt2", pattern="gpt2")


# ---- Alexandria ------------------------------------------------------------------------------------------------


def bring_json(data: Any, folder: Path) -> imports.Imported:
    (folder / "alex.json").write_text(json.dumps(data), encoding="utf-8")
    return imports.bring(folder / "alex.json")


def test_alexandria(tmp_path: Path, tiny_texts: list[str]) -> None:
    """Its ids are those of its own rule, and its merges go across words."""
    data = alexandria(tiny_texts[:8], count=120)
    made = bring_json(data, tmp_path)
    tokenizer = made.tokenizer
    assert made.format == "alexandria"
    assert tokenizer.special.end_of_document == 257
    assert tokenizer.special.padding == 258
    rules = {tuple(json.loads(f"[{key[1:-1]}]")): number for key, number in data["merges"].items()}
    for text in (*trials.nasty(3, 60), *tiny_texts[:3]):
        assert tokenizer.encode(text) == foreign_files.lowest_first(text, rules)  # type: ignore[arg-type]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert any(" " in tokenizer.decode([n]).strip() for n in range(259, tokenizer.vocab_size))
    imports.write(made, tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out").fingerprint == tokenizer.fingerprint


def test_padding_is_never_an_id_of_text(tmp_path: Path, tiny_texts: list[str]) -> None:
    """Alexandria's first tokenizer has no padding; id 258, which was used for it, is a piece of text."""
    made = bring_json(alexandria(tiny_texts[:8], controls=("<UNK>", "<EOS>")), tmp_path)
    tokenizer = made.tokenizer
    assert tokenizer.special.padding is None
    assert tokenizer.decode([258])
    assert 258 not in tokenizer.controls
    assert any("there is no padding token: id 258 is the text" in note for note in made.notes)
    # What fills a row is never read, and it is no text.
    assert tokenizer.special.filler in tokenizer.controls


_A = {"(97, 98)": 259, "(98, 99)": 260, "(259, 99)": 261}


@pytest.mark.parametrize(
    ("merges", "said"),
    [
        ({**_A, "(97, 260)": 262}, r"tokens 261 and 262 collide: two ids for the text b'abc'"),
        ({"(97, 98)": 258}, "makes id 258, which is a byte's or a control token's"),
        ({"(97, 98)": 40}, "makes id 40, which is a byte's"),
        ({"(97, 98)": 259, "(98, 99)": 259}, "make the same id 259"),
        ({"(97, 98)": 260}, "without a hole"),
        ({"(97, 98)": 1 << 40}, "without a hole"),
        ({"(97, 300)": 259}, "uses a token that is not made yet"),
        ({"(97, 257)": 259}, "uses a token that is not made yet"),
        ({"(97, 259)": 259}, "uses a token that is not made yet"),
        ({"__import__('os')": 259}, "is not a merge of two ids"),
        ({"(97, 98)": "259"}, "is not a merge of two ids"),
        ({f"({255 + i}, {255 + i})" if i > 3 else "(97, 97)": 255 + i + 0 for i in (4,)}, "not made yet|no hole|hole"),
    ],
)
def test_collisions_in_alexandria(merges: dict[str, Any], said: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    data = alexandria(tiny_texts[:2], count=1)
    data["merges"] = merges
    data["vocab_str"] = {key: text for key, text in data["vocab_str"].items() if int(key) < 259}
    with pytest.raises(DamagedError, match=said):
        bring_json(data, tmp_path)


def test_control_tokens_of_one_name_and_endless_tokens(tmp_path: Path, tiny_texts: list[str]) -> None:
    with pytest.raises(DamagedError, match="ids 256 and 258 are both the control token <UNK>"):
        bring_json(alexandria(tiny_texts[:2], ("<UNK>", "<EOS>", "<UNK>"), count=2), tmp_path)
    with pytest.raises(InputError, match="no token ends a document"):
        bring_json(alexandria(tiny_texts[:2], ("<UNK>",), count=2), tmp_path)
    doubling = {"(97, 97)": 259} | {f"({n}, {n})": n + 1 for n in range(259, 300)}
    data = {"vocab_str": {"256": "<UNK>", "257": "<EOS>", "258": "<PAD>"}, "merges": doubling}
    with pytest.raises(DamagedError, match="longer than 4,096 bytes"):
        bring_json(data, tmp_path)
    data = {"vocab_str": {"256": "<UNK>", "257": "<EOS>", "999": "x"}, "merges": {}}
    with pytest.raises(DamagedError, match="'999', a token that no merge makes"):
        bring_json(data, tmp_path)


# ---- SentencePiece ---------------------------------------------------------------------------------------------

_AS_IT_IS = {"normalization_rule_name": "identity"}
_PLAIN = {**_AS_IT_IS, "add_dummy_prefix": False, "remove_extra_whitespaces": False}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize(
    "settings",
    [_AS_IT_IS, {**_PLAIN, "byte_fallback": True, "vocab_size": 600}, {}, {"normalization_rule_name": "nfkc_cf"}],
    ids=["identity", "bytes", "nmt_nfkc", "nfkc_cf"],
)
def test_sentencepiece(kind: str, settings: dict[str, Any], tmp_path: Path, tiny_texts: list[str]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    raw = spm(tiny_texts, model_type=kind, **settings)
    (tmp_path / "x.model").write_bytes(raw)
    made = imports.bring(tmp_path)
    imports.write(made, tmp_path / "out")
    ours = Tokenizer.load(tmp_path / "out")
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw)
    assert (made.format, made.library) == ("sentencepiece", "sentencepiece")
    assert isinstance(ours, ForeignTokenizer)
    apart = 0
    # Where the table of characters is the identity, every text; else those that are read alike, nearly all.
    texts = [*trials.nasty(11), *random_texts(500), *tiny_texts]
    for text in texts:
        ids = theirs.encode(text, out_type=int)
        if ours.form.bytes_by_name and "<0x" in text:
            continue
        if "normalization_rule_name" in settings and settings["normalization_rule_name"] == "identity":
            assert ours.encode(text) == ids, text
        elif ours.encode(text) != ids:
            apart += 1
            assert theirs.normalize(text) != ours.shown().normalizer.normalize_str(text), text
    assert apart < len(texts) // 20
    for text in tiny_texts:
        assert ours.encode(text) == theirs.encode(text, out_type=int)
    if settings.get("byte_fallback"):
        assert "unknown" not in (ours.changes or "")
        assert ours.decode(ours.encode("  El 漢字 🦊\n ")) == "  El 漢字 🦊\n "
    else:
        assert "characters that it has no token for become unknown" in (ours.changes or "")
        assert ours.form.unknown in ours.encode("漢")
    for text in ("<s>", "</s>", "a</s>b", " <unk> "):
        assert not ours.controls & set(ours.encode(text))


def test_sentencepiece_that_cannot_be_held(tmp_path: Path, tiny_texts: list[str]) -> None:
    def refused(said: str, **settings: Any) -> None:
        (tmp_path / "x.model").write_bytes(spm(tiny_texts, **settings))
        with pytest.raises(DamagedError, match=said):
            imports.bring(tmp_path / "x.model")

    refused("a char model", model_type="char")
    refused("the space at the end of a word", treat_whitespace_as_suffix=True)
    refused("symbols of the user's", user_defined_symbols=["<x>"])
    (tmp_path / "x.model").write_bytes(spm(tiny_texts, eos_id=-1))
    with pytest.raises(InputError, match="no token ends a document; name or add one"):
        imports.bring(tmp_path / "x.model")
    made = imports.bring(tmp_path / "x.model", end="</doc>").tokenizer
    assert made.control_texts()["</doc>"] == made.special.end_of_document == made.vocab_size - 1


def test_symbols_of_the_users_beside_nothing_else(tmp_path: Path, tiny_texts: list[str]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    raw = spm(tiny_texts, model_type="bpe", user_defined_symbols=["<x>", "\n\n"], **_PLAIN)
    (tmp_path / "x.model").write_bytes(raw)
    ours = imports.bring(tmp_path / "x.model").tokenizer
    theirs = sentencepiece.SentencePieceProcessor(model_proto=raw)
    for text in ("a<x>b", " <x> ", "<x><x>", "uno\n\ndos\n\n\n", "<x"):
        assert ours.encode(text) == theirs.encode(text, out_type=int)


# ---- what detection and writing say ----------------------------------------------------------------------------


def test_what_is_no_tokenizer(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="no file or folder"):
        imports.bring(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no tokenizer in this folder; it may be a folder with vocab.json and"):
        imports.bring(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="say --format gpt2"):
        imports.bring(tmp_path / "a.txt")
    with pytest.raises(InputError, match="'gpt' is not known; did you mean \"gpt2\""):
        imports.bring(tmp_path / "a.txt", "gpt")
    for text in ("{", "[1]", "[" * 100_000, '{"a": 1, "a": 2}', "\udcff"):
        (tmp_path / "a.json").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DamagedError):
            imports.bring(tmp_path / "a.json")


def test_only_a_tokenizer_is_replaced(tmp_path: Path, tiny_texts: list[str]) -> None:
    write_gpt2(tmp_path / "in", tiny_texts)
    made = imports.bring(tmp_path / "in")
    imports.write(made, tmp_path / "out")
    imports.write(made, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="a folder with other things in it"):
        imports.write(made, tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_our_own_comes_back_as_it_was(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    from fabula.export import hf_tokenizer

    for name, text in hf_tokenizer.files(tiny_tokenizer, 64).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = imports.bring(tmp_path)
    assert type(made.tokenizer) is Tokenizer
    assert made.tokenizer.fingerprint == tiny_tokenizer.fingerprint


def test_a_difference_refuses_the_import(
    tmp_path: Path, tiny_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail: another pattern than the tool's gives other ids somewhere."""
    write_gpt2(tmp_path, tiny_texts)
    other = r"(?s:.)"  # no merges at all
    named = foreign_files.NAMED["gpt2"]
    monkeypatch.setitem(foreign_files.NAMED, "gpt2", foreign_files._Rank(other, named.ours, named.size, named.controls))
    with pytest.raises(DamagedError, match=r"cannot be held exactly: .* has the ids .* with tiktoken"):
        imports.bring(tmp_path)
