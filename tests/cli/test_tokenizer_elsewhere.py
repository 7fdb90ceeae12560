"""`fabula tokenizer import` and `fabula tokenizer chat`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from fabula.cli.tokenizer_chat import bracketed, painted
from fabula.tokenizer.base import Tokenizer
from tests.tokenizer.test_imports import alexandria, write_gpt2, write_ranks

Cli = Callable[..., tuple[int, str, str]]


def test_import(cli: Cli, tmp_path: Path, tiny_texts: list[str]) -> None:
    write_gpt2(tmp_path / "two", tiny_texts)
    code, out, err = cli("tokenizer", "import", "two", "--out", "made")
    assert (code, err) == (0, "")
    assert "the same ids as tiktoken on 724 texts" in out
    assert "none: every text comes back as it was" in out
    code, out, _ = cli("tokenizer", "view", "made", "El niño")
    assert (code, out.split("\n")[1][-13:]) == (0, "bytes a token")
    code, out, _ = cli("tokenizer", "import", "two", "--out", "made", "--json")
    facts = json.loads(out)
    assert facts["fingerprint"] == Tokenizer.load(tmp_path / "made").fingerprint
    assert (facts["format"], facts["changes"]) == ("gpt2", None)


def test_import_says_what_is_missing(cli: Cli, tmp_path: Path, tiny_texts: list[str]) -> None:
    write_ranks(tmp_path / "a.tiktoken", tiny_texts)
    code, out, err = cli("tokenizer", "import", "a.tiktoken", "--out", "made")
    assert (code, out) == (2, "")
    assert "--pattern gpt2|cl100k|o200k" in err
    assert not (tmp_path / "made").exists()
    code, _, err = cli("tokenizer", "import", "a.tiktoken", "--out", "made", "--pattern", "o200k")
    assert (code, err) == (0, "")
    data = alexandria(tiny_texts[:2], count=2)
    data["merges"]["(97, 98)"] = 259
    (tmp_path / "alex.json").write_text(json.dumps(data))
    code, out, err = cli("tokenizer", "import", "alex.json", "--out", "other")
    assert (code, out) == (4, "")
    assert "make the same id 259" in err
    assert not (tmp_path / "other").exists()


def test_chat(cli: Cli, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    tiny_tokenizer.save(tmp_path)
    said = ("--message", "user: ¿Y <|user|>?", "--message", "assistant: El búho.")
    code, out, err = cli("tokenizer", "chat", ".", *said, "--prompt")
    assert (code, err) == (0, "")
    line, count = out.strip().split("\n")
    assert line.startswith("|<|endoftext|>|<|user|>|<0xC2>|<0xBF>|Y")
    assert line.endswith("<|endofturn|>⟧|<|assistant|>|")
    assert line.count("⟦") == line.count("⟧") == 1
    code, out, _ = cli("tokenizer", "chat", ".", *said, "--json")
    facts = json.loads(out)
    assert facts["ids"].count(tiny_tokenizer.special.user) == 1
    assert len(facts["ids"]) == len(facts["mask"]) == len(facts["pieces"])
    assert f"{sum(facts['mask'])} of them for the assistant to learn" in count
    assert facts["mask_from"] == "generation"


def test_chat_of_a_file_with_another_template(cli: Cli, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    tiny_tokenizer.save(tmp_path)
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endofturn|>{% endfor %}"
    (tmp_path / "t.jinja").write_text(template)
    for name, text in (
        ("a.json", json.dumps(messages)),
        ("b.json", json.dumps({"messages": messages, "tools": []})),
        ("c.jsonl", json.dumps({"messages": messages}) + "\n{\n"),
    ):
        (tmp_path / name).write_text(text)
        code, out, err = cli("tokenizer", "chat", ".", name, "--template", "t.jinja")
        assert (code, err) == (0, "")
        assert "2 of them for the assistant to learn (by the origin of the text" in out


def test_chat_says_what_is_wrong(cli: Cli, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    (tmp_path / "loop.jinja").write_text("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}")
    for arguments, said in (
        ((), "name a conversation"),
        (("--message", "hola"), "is not ROLE:TEXT"),
        (("--message", "king: x"), "is not ROLE:TEXT"),
        (("a.json",), "not JSON"),
        (("b.json",), "not a list of messages"),
        (("c.json",), "no file c.json"),
        (("--message", "user:x", "--template", "loop.jinja"), "takes longer than 1 s"),
        (("--message", "tool:x"), "the role of a message is system, user or assistant, not tool"),
    ):
        code, out, err = cli("tokenizer", "chat", ".", *arguments)
        assert (code, out) == (2, ""), err
        assert said in err


def test_how_it_is_shown() -> None:
    assert bracketed(["a", "b", "c", "d"], [1, 0, 1, 1]) == "|⟦a⟧|b|⟦c|d⟧|"
    assert painted(["a", "b", "c"], [False, True, True], [0, 0, 1]) == ("|a|\x1b[2mb\x1b[0m|\x1b[30;42mc\x1b[0m|")
