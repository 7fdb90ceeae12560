"""The verbs of the tokenizer, as a person calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> Path:
    """small/ and large/ tokenizers, a text of two sources."""
    for name, made in (("small", tiny_tokenizer), ("large", train_bpe(tiny_texts, 420))):
        (tmp_path / name).mkdir()
        made.save(tmp_path / name)
    (tmp_path / "es.txt").write_text("\n<|endoftext|>\n".join(tiny_texts), "utf-8")
    (tmp_path / "ru.txt").write_text("Жил-был ёж в лесу. " * 60, "utf-8")
    return tmp_path


def of(out: str) -> Any:
    return json.loads(out)


def test_report(cli: Cli, here: Path) -> None:
    code, out, err = cli("tokenizer", "report", "small", "es.txt,ru.txt")
    assert code == 0, err
    for words in ("bytes a token", "tokens a word", "Cyrillic", "fabula-1m", "longest", "cut into bytes", "es.txt"):
        assert words in out
    assert max(map(len, out.splitlines())) <= 100
    assert not set("ĠÃĊ") & set(out)
    code, out, _ = cli("tokenizer", "report", "small", "es.txt", "--json", "--model", "fabula-3m", "--rare", "3")
    found = of(out)
    assert code == 0
    assert found["rare"] == 3
    assert [cost["preset"] for cost in found["tokenizers"][0]["costs"]] == ["fabula-3m"]


def test_compare(cli: Cli, here: Path) -> None:
    code, out, err = cli("tokenizer", "compare", "small", "large", "--on", "es.txt", "--html", "page.html")
    assert code == 0, err
    assert out.splitlines()[2].split() == ["small", "large"]
    assert max(map(len, out.splitlines())) <= 100
    assert "Tokenizers side by side" in (here / "page.html").read_text("utf-8")
    _, out, _ = cli("tokenizer", "compare", "small", "large/tokenizer.json", "--on", "es.txt", "--json")
    small, large = of(out)["tokenizers"]
    assert (small["name"], large["name"]) == ("small", "large")
    assert large["bytes_per_token"] > small["bytes_per_token"]


def test_many_tokenizers_stay_within_the_width(cli: Cli, here: Path, tiny_tokenizer: Tokenizer) -> None:
    names = [f"a-rather-long-name-{n}" for n in range(6)]
    for name in names:
        (here / name).mkdir()
        tiny_tokenizer.save(here / name)
    code, out, _ = cli("tokenizer", "compare", *names, "--on", "es.txt,ru.txt")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100


def test_a_folder_of_hugging_face(cli: Cli, here: Path) -> None:
    folder = here / "theirs"
    folder.mkdir()
    data = json.loads((here / "small" / "tokenizer.json").read_text("utf-8"))
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] == "<|endoftext|>"]
    kept = {token["content"] for token in data["added_tokens"]}
    dropped = [t for t in ("<|pad|>", "<|endofturn|>", "<|system|>", "<|user|>", "<|assistant|>") if t not in kept]
    vocabulary = {t: i for t, i in data["model"]["vocab"].items() if t not in dropped}
    order = sorted(vocabulary, key=lambda token: vocabulary[token])
    data["model"]["vocab"] = {token: number for number, token in enumerate(order)}
    data["added_tokens"][0]["id"] = data["model"]["vocab"]["<|endoftext|>"]
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}', "utf-8")
    code, out, err = cli("tokenizer", "compare", "small", "theirs", "--on", "es.txt", "--json")
    assert code == 0, err
    small, theirs = of(out)["tokenizers"]
    assert theirs["tokens"] == small["tokens"]
    assert theirs["vocab_size"] == small["vocab_size"] - 5


def test_view(cli: Cli, here: Path) -> None:
    code, out, _ = cli("tokenizer", "view", "small", "a | b\nñ \\")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("|a|·|\\||·b|")
    assert lines[0].endswith("↵|")
    assert lines[1].endswith("|\\\\|")
    assert "tokens" in lines[-1]
    _, out, _ = cli("tokenizer", "view", "small", "🦊", "--ids", "--against", "large")
    assert "small:" in out
    assert "large:" in out
    assert out.count("|<0xF0>|<0x9F>|<0xA6>|<0x8A>|") == 2
    assert "f0" in out


def test_view_of_a_file(cli: Cli, here: Path) -> None:
    text = (here / "es.txt").read_text("utf-8")
    code, out, _ = cli("tokenizer", "view", "small", "--file", "es.txt", "--json", "--against", "large")
    found = of(out)
    assert code == 0
    assert found["text"] == text
    for one in (found, *found["against"]):
        assert bytes.fromhex("".join(one["bytes"])).decode() == text
    code, out, err = cli("tokenizer", "view", "small", "--file", "es.txt", "--html", "page.html")
    assert (code, out) == (0, "")
    assert "page.html" in err
    assert (here / "page.html").read_text("utf-8").count('class="t0"') > 100


def test_a_long_file_is_shown_from_its_beginning(cli: Cli, here: Path) -> None:
    (here / "long.txt").write_text("ñandú " * 200_000, "utf-8")
    code, out, err = cli("tokenizer", "view", "small", "--file", "long.txt", "--json")
    assert code == 0
    assert "the first 1 MB" in err
    assert 999_990 < len(of(out)["text"].encode()) <= 1_000_000


def test_colours_are_for_terminals(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fabula.cli import console

    assert "\x1b" not in cli("tokenizer", "view", "small", "uno")[1]
    monkeypatch.setattr(console, "coloured", lambda: True)
    out = cli("tokenizer", "view", "small", "uno\x1b[31m")[1]
    assert "\x1b[38;5;16;48;5;153m" in out
    assert "\x1b[31m" not in out
    assert "<0x1B>" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report", "nowhere", "es.txt"], 2, "no tokenizer at"),
        (["report", "small", "nowhere.txt"], 2, "nowhere.txt"),
        (["report", "small", "empty.txt"], 2, "empty.txt"),
        (["report", "small", "es.txt", "--model", "fabula-1n"], 2, 'did you mean "fabula-1m"'),
        (["report", "small", "es.txt", "--rare", "0"], 2, "--rare"),
        (["report", "small", "es.txt", "--most-bytes", "0"], 2, "--most-bytes"),
        (["report", "small", "es.txt", "--train.budget", "2m"], 2, "takes only corpus"),
        (["compare", "small", "--on", "es.txt"], 2, "two tokenizers or more"),
        (["compare", "small", "small", "--on", "es.txt"], 2, "named twice"),
        (["compare", "small", "a,b", "--on", "es.txt", "--train"], 2, "comma"),
        (["view", "small"], 2, "--file"),
        (["view", "small", "text", "--file", "es.txt"], 2, "one of the two"),
        (["view", "small", "--file", "nowhere.txt"], 2, "nowhere.txt"),
        (["view", "small", "--file", "latin.txt"], 2, "not UTF-8"),
    ],
)
def test_bad_input(cli: Cli, here: Path, arguments: list[str], code: int, words: str) -> None:
    (here / "empty.txt").write_text("\n", "utf-8")
    (here / "latin.txt").write_bytes("ñandú\n".encode("latin-1"))
    before = {path.name for path in here.iterdir()}
    got, out, err = cli("tokenizer", *arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
    assert {path.name for path in here.iterdir()} == before
