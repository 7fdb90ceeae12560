"""Rows T3 and T5 for tokenizers from elsewhere and for conversations."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fabula.errors import DamagedError, InputError
from fabula.tokenizer import imports
from fabula.tokenizer.base import FILE, Tokenizer
from fabula.tokenizer.chat import ChatTemplate
from fabula.tokenizer.special import SPECIAL_TEXT
from tests import tiny
from tests.faults.test_tokenizer import mutated
from tests.tokenizer.test_chat import hostile, made_by
from tests.tokenizer.test_imports import alexandria, spm, write_gpt2, write_ranks
from tests.tokenizer.test_published import llama2, t5

# ---- T3 ----------------------------------------------------------------------------------------------------

_ENDS = '{"eos_token": "</s>"}'


def _write_json(data: object, folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


# What is written into a folder, the file that is mutated, and what is imported.
FORMS: dict[str, tuple[Callable[[Path, list[str]], object], str]] = {
    "vocab.json": (write_gpt2, "vocab.json"),
    "merges.txt": (write_gpt2, "merges.txt"),
    "tiktoken": (lambda folder, texts: write_ranks(folder / "a.tiktoken", texts), "a.tiktoken"),
    "alexandria": (lambda folder, texts: _write_json(alexandria(texts[:4]), folder, "alex.json"), "alex.json"),
    "unigram": (lambda folder, texts: _write_json(t5(texts), folder, FILE), FILE),
    "llama2": (lambda folder, texts: _write_json(llama2(texts), folder, FILE), FILE),
    "sentencepiece": (lambda folder, texts: (folder / "a.model").write_bytes(spm(texts)), "a.model"),
    "sentencepiece-bpe": (
        lambda folder, texts: (folder / "a.model").write_bytes(spm(texts, model_type="bpe")),
        "a.model",
    ),
}


def _changed(source: bytes, case: int, is_json: bool) -> bytes:
    if is_json:
        return mutated(source, case + 40)  # past those that are made for Fabula's own files
    chance = random.Random(case)
    raw = bytearray(source)
    kind = case % 4
    for _ in range(chance.choice([1, 1, 2, 20])):
        at = chance.randrange(len(raw))
        if kind == 0:
            raw[at] = chance.randrange(256)
        elif kind == 1:
            raw[at : at + chance.choice([1, 50])] = chance.choice([b"", b"\x00" * 9, b"\n", b" ", bytes(raw[:99])])
        elif kind == 2:
            raw[at] ^= 1 << chance.randrange(8)
        else:
            del raw[at + 1 :]
            break
    return bytes(raw)


def bring_mutated(folder: Path, name: str, cases: int) -> None:
    """Import them all; prints the number of files refused and the longest time. Runs as a process of its own."""
    source = (folder / name).read_bytes()
    path = folder if name in ("vocab.json", "merges.txt", FILE) else folder / name
    pattern = "cl100k" if name.endswith(".tiktoken") else None
    refused, longest = 0, 0.0
    text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa! El niño <|endoftext|></s> y la  niña\r\n 🦊"
    for case in range(cases):
        (folder / name).write_bytes(_changed(source, case, name.endswith(".json")))
        before = time.perf_counter()
        try:
            made = imports.bring(path, pattern=pattern).tokenizer
        except (DamagedError, InputError) as error:
            said = str(error)
        else:
            said = ""
            # What is let through keeps the promises, whatever was changed.
            ids = made.encode(text)
            assert not made.controls & set(ids), case
            assert made.changes is not None or made.decode(ids) == text, case
        refused += bool(said)
        assert "\n" not in said, (case, said)
        longest = max(longest, time.perf_counter() - before)
    print(refused, longest)


@pytest.mark.row("T3", cases=40, nightly=1000)
@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_from_elsewhere(form: str, tmp_path: Path, tiny_texts: list[str], cases: int) -> None:
    """In a process of its own, since what the libraries are given here may end one."""
    write, name = FORMS[form]
    write(tmp_path, tiny_texts[:20])
    (tmp_path / "special_tokens_map.json").write_text(_ENDS)
    program = "import sys; from pathlib import Path; from tests.faults.test_elsewhere import bring_mutated; "
    program += "bring_mutated(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    made = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), name, str(cases)],
        cwd=Path(__file__).parents[2],
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, tiny.tail(made.stderr, 20)
    refused, longest = made.stdout.split()
    assert int(refused) > cases // 4
    assert float(longest) < 10  # a second is meant; the machine may be busy


# ---- T5 ----------------------------------------------------------------------------------------------------


@pytest.mark.row("T5", cases=10_000, nightly=200_000)
def test_no_message_gives_a_control_id(tiny_tokenizer: Tokenizer, cases: int) -> None:
    """Whole, split, nested and escaped control tokens in everything that is said: four strings at a time."""
    ours = ChatTemplate.of(tiny_tokenizer)
    controls, special = tiny_tokenizer.controls, tiny_tokenizer.special
    roles = ["system", "user", "assistant", "user"]
    expected = [special.begin]
    for role in roles:
        expected += [special.of(role), special.of("end_of_turn")]
    contents = list(hostile(list(SPECIAL_TEXT.values()), cases, seed=7))
    for start in range(0, cases, 4):
        said = contents[start : start + 4]
        made = ours.render([{"role": role, "content": text} for role, text in zip(roles, said, strict=True)])
        assert [number for number in made.ids if number in controls] == expected, said
        assert tiny_tokenizer.decode(made.ids, specials=True) == made.text


@pytest.mark.row("T5", cases=2_000, nightly=20_000)
def test_no_message_gives_a_control_id_in_a_template_of_others(
    tmp_path: Path, tiny_texts: list[str], cases: int
) -> None:
    tokenizer = made_by("marked", tiny_texts, tmp_path)
    ours = ChatTemplate.of(tokenizer)
    contents = list(hostile(list(tokenizer.control_texts()), cases, seed=8))
    start, end = (tokenizer.control_texts()[name] for name in ("<|im_start|>", "<|im_end|>"))
    for place in range(0, cases, 4):
        one, two, three, four = contents[place : place + 4]
        messages = [{"role": one, "content": two}, {"role": "user", "content": three}, {"role": two, "content": four}]
        made = ours.render(messages, tools=[{"name": four}])
        assert [number for number in made.ids if number in tokenizer.controls] == [start, end] * 4, messages
