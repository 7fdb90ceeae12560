"""Rows T1 to T6: a tokenizer that is given nothing, everything, damaged files, or one endless word."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.errors import DamagedError, InputError
from fabula.generate.run import encode_prompt
from fabula.tokenizer.base import FILE, Tokenizer, byte_of_letter
from fabula.tokenizer.bpe import train_bpe, without_endless
from fabula.tokenizer.forms import SMALLEST
from fabula.tokenizer.run import TokenizerConfig, run
from fabula.tokenizer.special import SPECIAL_TEXT
from tests import tiny
from tests.tokenizer import variants

Cli = Callable[..., tuple[int, str, str]]

# ---- T1 ----------------------------------------------------------------------------------------------------

_EVERYTHING = "".join(map(chr, range(256)))
# (texts, the vocabulary asked for, a word of the error or, without one, of the rule that says why it is smaller)
LITTLE: list[tuple[list[str], int | str, str, str]] = [
    ([], "auto", "got no text", ""),
    (["", "", ""], "auto", "got no text", ""),
    (["a"], "auto", "", "repeats only enough for 262"),
    (["a"], 300, "is larger than the corpus supports", ""),
    (["a" * (1 << 20)], "auto", "", "repeats only enough for"),
    ([_EVERYTHING], "auto", "", "repeats only enough for"),
    ([_EVERYTHING * 50], "auto", "", "repeats only enough for"),
    ([" " * 10_000, "\n" * 10_000], "auto", "", "repeats only enough for"),
    (["\x00" * 1000], "auto", "", "repeats only enough for"),
    (["\U0001f98a\U0010ffff\ufffe" * 100], 280, "is larger than the corpus supports", ""),
    (["".join(SPECIAL_TEXT.values())] * 100, "auto", "", "repeats only enough for"),
    (["la niña y el búho " * 100], SMALLEST, "", ""),
]


@pytest.mark.row("T1", cases=12)
def test_training_on_next_to_nothing(tmp_path: Path, cases: int) -> None:
    for case in range(cases):
        texts, wanted, error, rule = LITTLE[case]
        config = TokenizerConfig(vocab_size=wanted)  # type: ignore[arg-type]
        folder = tmp_path / str(case)
        if error:
            with pytest.raises(InputError, match=error):
                run(config, texts, sum(map(len, texts)), folder)
            assert not folder.exists()
            continue
        made = run(config, texts, sum(map(len, texts)), folder)
        assert rule in (made.rule or ""), case
        assert bool(made.rule) == (wanted == "auto")
        assert Tokenizer.load(folder).fingerprint == made.tokenizer.fingerprint
        for text in texts:
            assert made.tokenizer.decode(made.tokenizer.encode(text)) == text


@pytest.mark.row("T1", cases=6)
def test_training_on_what_is_no_text(cli: Cli, tmp_path: Path, cases: int) -> None:
    contents = [b"", b"\x7fELF\0\0\0", bytes(range(256)), b"\x80\x81\x82", b"\xff\xfea\0", b" \n"]
    for case in range(cases):
        (tmp_path / "a.txt").write_bytes(contents[case])
        code, out, err = cli("tokenizer", "train", "a.txt", "--out", "made")
        assert (code, out) == (2, ""), err
        assert "a.txt" in err
        assert not (tmp_path / "made").exists()


# ---- T2 ----------------------------------------------------------------------------------------------------

_PLANES = [(0, 0x80), (0x80, 0x250), (0x300, 0x370), (0x2000, 0x2070), (0x4E00, 0x9FFF), (0xE000, 0xF900)]
_PLANES += [(0xFE00, 0x10000), (0x1F300, 0x1FAFF), (0x20000, 0x2FFFF), (0xF0000, 0x110000)]
_WORDS = [
    "la",
    " niña",
    "¡",
    "\r\n",
    "\n\n",
    "   ",
    "\t",
    "e\u0301",
    "ﬁ",
    "<|endoftext|>",
    "<|",
    "|>",
    "Ġ",
    "ĊĠ",
    "'s",
    "10",
]
_WORDS += ["\x00", "\x1b[31m", "\ufeff", "\u202e", "👩‍👩‍👧‍👦", "\ufffd", "ÿ", "\u2028", "Él", "ÉL", "straße", "İ"]


def any_text(case: int) -> str:
    """A text of any characters but surrogates, which no text has."""
    chance = random.Random(case)
    parts = []
    for _ in range(chance.randrange(1, 9)):
        kind = chance.randrange(3)
        if kind == 0:
            parts.append(chance.choice(_WORDS))
        elif kind == 1:
            low, high = chance.choice(_PLANES)
            parts.append("".join(chr(chance.randrange(low, high)) for _ in range(chance.randrange(1, 6))))
        else:
            parts.append(chance.choice("aeñ \n.") * chance.randrange(1, 12))
    return "".join(parts)


@pytest.mark.row("T2", cases=20_000, nightly=2_000_000)
def test_every_text_comes_back(tiny_tokenizer: Tokenizer, cases: int) -> None:
    control = set(tiny_tokenizer.special.ids())
    for start in range(0, cases, 1000):
        texts = [any_text(case) for case in range(start, min(start + 1000, cases))]
        for text, ids in zip(texts, tiny_tokenizer.encode_batch(texts), strict=True):
            assert tiny_tokenizer.decode(ids) == text
            assert control.isdisjoint(ids)
        assert tiny_tokenizer.encode(texts[0]) == tiny_tokenizer.encode_batch(texts[:1])[0]


@pytest.mark.row("T2", cases=20_000, nightly=2_000_000)
def test_any_ids_are_their_bytes(tiny_tokenizer: Tokenizer, cases: int) -> None:
    """Ids in any order, also such as no text has: the bytes are those of the vocabulary, read without our code."""
    letters = byte_of_letter()
    vocabulary = json.loads(tiny_tokenizer._backend.to_str())["model"]["vocab"]
    special = set(SPECIAL_TEXT.values())
    table = {n: b"" if t in special else bytes(letters[c] for c in t) for t, n in vocabulary.items()}
    assert len(table) == tiny_tokenizer.vocab_size
    for case in range(cases):
        chance = random.Random(case)
        ids = chance.choices(range(tiny_tokenizer.vocab_size), k=chance.randrange(12))
        raw = b"".join(table[i] for i in ids)
        assert tiny_tokenizer.decode_bytes(ids) == raw
        assert tiny_tokenizer.decode(ids) == raw.decode("utf-8", "replace")


# ---- T3 ----------------------------------------------------------------------------------------------------

_ODD: list[Any] = [None, True, 0, -1, 1 << 31, 1 << 64, 1e308, "", "a", "\x00", [], {}, [[]], {"a": 1}, "Ġ" * 5000]
_PATTERN = {"type": "Split", "pattern": {"Regex": r"(a+)+$"}, "behavior": "Isolated", "invert": False}
_HOSTILE: list[Callable[[dict[str, Any]], Any]] = [
    lambda d: {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}},  # panics
    lambda d: d["model"].update(vocab={"a": 0, "b": 1}, merges=[["a", "b"]]),
    lambda d: d["model"]["merges"].append(["zzz", "qqq"]),
    lambda d: d["model"]["merges"].append(["a"]),
    lambda d: d["model"].update(merges=d["model"]["merges"] * 2000),
    lambda d: d["model"]["vocab"].update(nueva=1 << 31),
    lambda d: d["model"]["vocab"].update(a=0),
    lambda d: d["model"]["vocab"].pop("a"),
    lambda d: d["model"].update(dropout=0.5),
    lambda d: d["model"].update(dropout=float("nan")),
    lambda d: d["model"].update(unk_token="zzz"),
    lambda d: d["model"].update(continuing_subword_prefix="##"),
    lambda d: d["model"].update(type="WordPiece"),
    lambda d: d["model"].update(type="Unigram", vocab=[["a", -1.0]], unk_id=7),
    lambda d: d.update(pre_tokenizer=_PATTERN),
    lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [_PATTERN, d["pre_tokenizer"]]}),
    lambda d: d.update(pre_tokenizer=None),
    lambda d: d["pre_tokenizer"].update(add_prefix_space=True),
    lambda d: d["pre_tokenizer"].update(use_regex=False),
    lambda d: d.update(normalizer={"type": "NFKC"}),
    lambda d: d.update(normalizer={"type": "Lowercase"}),
    lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 100_000}),
    lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    lambda d: d.update(normalizer={"type": "Sequence", "normalizers": []}),
    lambda d: d.update(decoder={"type": "Fuse"}),
    lambda d: d.update(post_processor={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
    lambda d: d["added_tokens"].append({**d["added_tokens"][0], "id": 9999, "content": "niña"}),
    lambda d: d["added_tokens"].append({**d["added_tokens"][0], "id": 70, "content": " ", "special": False}),
    lambda d: d["added_tokens"].append({**d["added_tokens"][0], "id": 4_000_000_000, "content": "x"}),
    lambda d: d["added_tokens"][0].update(special=False),
    lambda d: d["added_tokens"][0].update(lstrip=True, rstrip=True),
    lambda d: d["added_tokens"][0].update(id=1),
    lambda d: d["added_tokens"].pop(),
    lambda d: d["added_tokens"].clear(),
    lambda d: d.update(truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}),
    lambda d: d.update(padding={"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_id": 0}),
    lambda d: d.update(version="99"),
    lambda d: [],
]


def mutated(source: bytes, case: int) -> bytes:
    """A tokenizer.json with something wrong: hostile by design, damaged JSON, or JSON with another value somewhere."""
    chance = random.Random(case)
    if case < len(_HOSTILE):
        data = json.loads(source)
        made = _HOSTILE[case](data)
        return json.dumps(made if isinstance(made, (dict, list)) else data).encode()
    if case == len(_HOSTILE):
        return b"[" * 500_000
    kind = case % 3
    raw = bytearray(source)
    if kind == 0:
        for _ in range(chance.choice([1, 1, 2, 20])):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
    elif kind == 1:
        at = chance.randrange(len(raw))
        raw[at : at + chance.choice([1, 50, len(raw)])] = chance.choice([b"", b"\x00" * 9, b'"', b"}", bytes(raw[:99])])
    else:
        data = json.loads(source)
        for _ in range(chance.choice([1, 1, 3])):
            _change(data, chance)
        return json.dumps(data).encode()
    return bytes(raw)


def _change(data: Any, chance: random.Random) -> None:
    """Put an odd value anywhere in plain data, take something out, or take it twice."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = chance.choice(keys)
        if isinstance(data[key], (dict, list)) and data[key] and chance.random() < 0.7:
            data = data[key]
            continue
        what = chance.randrange(3)
        if what == 0:
            data[key] = chance.choice(_ODD)
        elif what == 1:
            del data[key]
        elif isinstance(data, dict):
            data[f"{key}"] = data[chance.choice(keys)]
        else:
            data.append(data[key])
        return


def load_mutated(folder: Path, cases: int, first: int = 0) -> None:
    """Load them all; prints the number of files refused and the longest time. Runs as a process of its own."""
    source = (folder / FILE).read_bytes()
    right = Tokenizer.load(folder)
    text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! El niño <|endoftext|> y la  niña\r\n 🦊"
    path = folder / "mutated.json"
    refused, longest = 0, 0.0
    for case in range(first, first + cases):
        path.write_bytes(mutated(source, case))
        before = time.perf_counter()
        try:
            made = Tokenizer.load(path)
        except DamagedError as error:
            message = str(error)
        else:
            # What is let through keeps every promise, whatever was changed.
            ids = made.encode(text)
            assert ids == made.encode(text), case
            assert made.decode(ids) == text, case
            assert set(ids).isdisjoint(made.special.ids()), case
            assert made.special == right.special or made.fingerprint != right.fingerprint, case
            message = ""
        refused += bool(message)
        assert not message or (str(path) in message and "\n" not in message), (case, message)
        longest = max(longest, time.perf_counter() - before)
    print(refused, longest)


@pytest.mark.row("T3", cases=300, nightly=10_000)
def test_damaged_and_hostile_files(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    tiny_tokenizer.save(tmp_path)
    refused, longest = _apart(tmp_path, cases, 0)
    assert refused > cases // 2
    assert longest < 5  # a second is meant; the machine may be busy


@pytest.mark.parametrize("form", ["word-spanish", "superword", "none", "unigram", "char", "byte"])
@pytest.mark.row("T3", cases=60, nightly=3000)
def test_damaged_files_of_every_form(tmp_path: Path, tiny_texts: list[str], form: str, cases: int) -> None:
    """What is hostile by design is known for merges alone; here values, bytes and ends are changed at random."""
    variants.make(form, tiny_texts).save(tmp_path)
    refused, longest = _apart(tmp_path, cases, len(_HOSTILE) + 1)
    assert refused > cases // 4
    assert longest < 5


@pytest.mark.row("T3", cases=9)
def test_hostile_unigrams(tmp_path: Path, tiny_texts: list[str], cases: int) -> None:
    variants.make("unigram", tiny_texts).save(tmp_path)
    source = (tmp_path / FILE).read_text(encoding="utf-8")
    hostile: list[Callable[[dict[str, Any]], Any]] = [
        lambda d: d["model"]["vocab"].append(["<|endoftext|>", -0.5]),
        lambda d: d["model"]["vocab"].append(["", -0.5]),
        lambda d: d["model"]["vocab"].append(d["model"]["vocab"][0]),
        lambda d: d["model"]["vocab"][0].__setitem__(1, float("nan")),
        lambda d: d["model"]["vocab"][0].__setitem__(1, -1e300),
        lambda d: d["model"]["vocab"][0].__setitem__(1, 5.0),
        lambda d: d["model"].update(unk_id=3),
        lambda d: d["added_tokens"][0].update(id=0),
        lambda d: d.update(pre_tokenizer={**d["pre_tokenizer"], "use_regex": False}),
    ]
    for change in hostile[:cases]:
        data = json.loads(source)
        change(data)
        (tmp_path / FILE).write_text(json.dumps(data), encoding="utf-8")
        with pytest.raises(DamagedError, match=FILE):
            Tokenizer.load(tmp_path)


def _apart(folder: Path, cases: int, first: int) -> tuple[int, float]:
    """Load mutated files in a process of its own, since what the library is given here may end one."""
    program = "import sys; from pathlib import Path; from tests.faults.test_tokenizer import load_mutated; "
    program += "load_mutated(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
    made = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(cases), str(first)],
        cwd=Path(__file__).parents[2],
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, tiny.tail(made.stderr, 20)
    refused, longest = made.stdout.split()
    return int(refused), float(longest)


@pytest.mark.row("T3", cases=4)
def test_the_command_says_so_and_lives(cli: Cli, tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    tiny_tokenizer.save(tmp_path)
    source = (tmp_path / FILE).read_bytes()
    for case in range(cases):
        (tmp_path / FILE).write_bytes(mutated(source, case))
        code, out, err = cli("tokenizer", "view", tmp_path, "hola")
        assert (code, out) == (4, "")
        assert FILE in err
        assert "Traceback" not in err


# ---- T4 ----------------------------------------------------------------------------------------------------

_LONG: list[Callable[[random.Random, int], str]] = [
    lambda chance, size: "a" * size,
    lambda chance, size: "".join(chance.choices("abcdefghijklmnñopqrstuvwxyz", k=size)),
    lambda chance, size: "".join(chance.choices("!?.,;:-_()[]{}«»…", k=size)),
    lambda chance, size: " " * size,
    lambda chance, size: "".join(chance.choices("0123456789", k=size)),
    lambda chance, size: "\n" * size,
    lambda chance, size: "el" * (size // 2),  # merges all the way
    lambda chance, size: "\x00" * size,
    lambda chance, size: "e\u0301" * (size // 3),
    lambda chance, size: "\u00a0" * (size // 2),
]


@pytest.mark.row("T4", cases=6, nightly=10)
def test_one_long_piece_takes_its_share_of_time(tiny_texts: list[str], cases: int) -> None:
    """A MiB without a break against a MiB of fables: at most twenty times as long (measured: at most twice).

    A time in proportion to the square would be thousands of times as long.
    """
    size = 1 << 20
    tokenizer = train_bpe(tiny_texts, 600, exact=False)
    fables = "\n".join(tiny_texts)
    ordinary = fables * (size // len(fables) + 1)

    def seconds(text: str) -> float:
        before = time.perf_counter()
        ids = tokenizer.encode(text)
        took = time.perf_counter() - before
        assert tokenizer.decode_bytes(ids) == text.encode()
        return took

    usual = max(seconds(ordinary), 0.1)
    for case in range(cases):
        text = _LONG[case](random.Random(case), size)
        assert seconds(text) < 20 * usual or seconds(text) < 20 * usual, case


@pytest.mark.row("T4", cases=4, nightly=10)
def test_learning_from_one_long_piece_does_too(tiny_texts: list[str], cases: int) -> None:
    size = 1 << 18
    fables = "\n".join(tiny_texts)

    def seconds(text: str) -> float:
        before = time.perf_counter()
        made = train_bpe([text], 600, exact=False)
        took = time.perf_counter() - before
        assert made.decode(made.encode(text[:5000])) == text[:5000]
        return took

    usual = max(seconds(fables * (size // len(fables) + 1)), 0.1)
    for case in range(cases):
        text = _LONG[case](random.Random(case), size)
        assert seconds(text) < 20 * usual or seconds(text) < 20 * usual, case


def test_words_of_a_language_are_never_cut(tiny_texts: list[str]) -> None:
    """So the tokenizers of ordinary texts are what they were; an endless stretch is cut, and nothing of it is lost."""
    assert list(without_endless(tiny_texts)) == tiny_texts
    text = "uno " + "a" * 1300 + " dos" + " " * 700 + "\ntres " + "b" * 512
    pieces = list(without_endless([text]))
    assert "".join(pieces) == text
    assert [len(p) for p in pieces] == [4 + 512, 512, 276 + 4 + 512, 189 + 5 + 512]


# ---- T5 ----------------------------------------------------------------------------------------------------

_SPELLED = list(SPECIAL_TEXT.values())
_LOOKALIKES = ["<|im_start|>", "<s>", "</s>", "<|eot_id|>", "[INST]", "<pad>", "<bos>", "\u003c|endoftext|\u003e"]


def hostile(case: int) -> str:
    """Texts that would be control tokens if anyone looked for them: whole, split, nested, glued, as ids, escaped."""
    chance = random.Random(case)
    parts = []
    for _ in range(chance.randrange(1, 6)):
        text = chance.choice(_SPELLED)
        kind = chance.randrange(8)
        if kind == 0:
            cut = chance.randrange(1, len(text))
            text = text[:cut] + chance.choice(["", "\u200b", " ", "\n", "\x00", chance.choice(_SPELLED)]) + text[cut:]
        elif kind == 1:
            text = f"{text[: len(text) // 2]}{text}{text[len(text) // 2 :]}"
        elif kind == 2:
            text = text.upper() if chance.random() < 0.5 else text.replace("|", "｜")
        elif kind == 3:
            text = f"{chance.choice(['<0x', '<id:', '<|', '&lt;|'])}{chance.randrange(300):02x}|>"
        elif kind == 4:
            text = chance.choice(_LOOKALIKES)
        elif kind == 5:
            text = f"  {text}\t{text}\r\n"
        elif kind == 6:
            text = text * chance.randrange(2, 5)
        parts.append(text + chance.choice(["", "", " ", "niña", "Ġ"]))
    return "".join(parts)


@pytest.mark.row("T5", cases=10_000, nightly=200_000)
def test_content_is_never_a_control_id(tiny_tokenizer: Tokenizer, cases: int) -> None:
    control = set(tiny_tokenizer.special.ids())
    for start in range(0, cases, 1000):
        texts = [hostile(case) for case in range(start, min(start + 1000, cases))]
        for text, ids in zip(texts, tiny_tokenizer.encode_batch(texts), strict=True):
            assert control.isdisjoint(ids), text
            assert tiny_tokenizer.decode(ids) == text
        for text in texts[:20]:
            assert control.isdisjoint(tiny_tokenizer.encode(text))
            # A prompt begins where a document begins: that one id is ours.
            first, *rest = encode_prompt(tiny_tokenizer, text)
            assert first == tiny_tokenizer.special.end_of_document
            assert control.isdisjoint(rest)


# ---- T6 ----------------------------------------------------------------------------------------------------

_TRAIN = """
import hashlib
from fabula.corpus.fables import Fables
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.characters import train_characters
from fabula.tokenizer.unigram import train_unigram
fables = [Fables(language, 0) for language in ("es", "en")]
texts = [f[i].text for i in range(120) for f in fables]
for made in (
    train_bpe(texts, 1200, exact=False),
    train_bpe(texts, 900, exact=False, pattern="spanish"),
    train_bpe(texts, 900, exact=False, boundary="superword"),
    train_bpe(texts, 900, exact=False, boundary="none"),
    train_unigram(texts[:60], 500),
    train_characters(texts, 400, exact=False),
):
    ids = made.encode_batch(texts)
    content = repr((made.to_json(), ids)).encode()
    print(hashlib.sha256(content).hexdigest(), made.fingerprint)
"""


@pytest.mark.row("T6", cases=9, nightly=30)
def test_threads_do_not_change_the_tokenizer(cases: int) -> None:
    """1, 2 and 4 threads, three times each, in processes of their own; of every kind that is learnt."""
    seen = set()
    for case in range(cases):
        env = tiny.environment(RAYON_NUM_THREADS=str((1, 2, 4)[case % 3]), PYTHONHASHSEED=str(case))
        made = subprocess.run([sys.executable, "-c", _TRAIN], env=env, capture_output=True, text=True, check=False)
        assert made.returncode == 0, tiny.tail(made.stderr)
        assert made.stdout.count("\n") == 6
        seen.add(made.stdout)
    assert len(seen) == 1
