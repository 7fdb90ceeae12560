"""`fabula generate` with many prompts, several texts for one, tokens between bars, and log-probabilities."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula.cli import pieces
from tests.cli.test_cli import one_document, refused

Cli = Callable[..., tuple[int, str, str]]
FEW = ["--max-new-tokens", 5]


def ok(made: tuple[int, str, str]) -> str:
    code, out, err = made
    assert code == 0, err
    return out


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffEl conejo\r\n\n\tÉrase  \nLa\u2028rana".encode())
    return path


def test_a_file_of_prompts(cli: Cli, tiny_run: Path, prompts: Path, tmp_path: Path) -> None:
    found = lines(ok(cli("generate", tiny_run, "--prompts", prompts, *FEW, "--json")))
    assert [(f["number"], f["prompt"]) for f in found] == [(1, "El conejo"), (2, "\tÉrase  "), (3, "La\u2028rana")]
    for one in found:
        alone = one_document(ok(cli("generate", tiny_run, "--prompt", one["prompt"], *FEW, "--json")))
        assert (alone["text"], alone["ids"]) == (one["text"], one["ids"])
    other = tmp_path / "prompts.jsonl"
    other.write_text("".join(json.dumps({"prompt": f["prompt"], "id": 1}) + "\n" for f in found) + '""\n')
    again = lines(ok(cli("generate", tiny_run, "--prompts", other, *FEW, "--json")))
    assert again[:3] == found
    assert again[3]["prompt"] == ""
    shown = ok(cli("generate", tiny_run, "--prompts", prompts, *FEW))
    assert all(f["prompt"] + f["text"] in shown for f in found)
    assert "── prompt 3, " in shown


def test_several_texts_of_a_prompt(cli: Cli, tiny_run: Path, prompts: Path) -> None:
    made = one_document(ok(cli("generate", tiny_run, "--prompt", "El", "--n", 4, "--seed", 5, *FEW, "--json")))
    assert [s["sample"] for s in made["samples"]] == [1, 2, 3, 4]
    assert len({s["seed"] for s in made["samples"]}) == 4
    for one in made["samples"]:
        alone = cli("generate", tiny_run, "--prompt", "El", "--seed", one["seed"], *FEW, "--json")
        assert one_document(ok(alone))["ids"] == one["ids"]
    likeliest = one_document(
        ok(cli("generate", tiny_run, "--prompt", "El", "--best-of", 4, "--seed", 5, *FEW, "--json"))
    )
    expected = max(made["samples"], key=lambda s: s["mean_logprob"])
    assert likeliest["samples"][0]["ids"] == expected["ids"]
    both = lines(ok(cli("generate", tiny_run, "--prompts", prompts, "--n", 2, *FEW, "--json")))
    assert [(b["number"], b["sample"]) for b in both] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert "sample 2, " in ok(cli("generate", tiny_run, "--n", 2, *FEW))


def test_tokens_between_bars(cli: Cli, tiny_run: Path, prompts: Path) -> None:
    made = one_document(ok(cli("generate", tiny_run, "--prompt", "El conejo\nde", *FEW, "--logprobs", 3, "--json")))
    assert [len(place) for place in made["top"]] == [3] * 5
    shown = ok(cli("generate", tiny_run, "--prompt", "El conejo\nde", *FEW, "--view", "tokens", "--logprobs", 3))
    view, _, table = shown.partition("\n\n")
    assert view.startswith("|E|l|·con|")
    assert "↵|\n|d|e|" in view
    assert view.count("\n") >= 1
    assert len(table.splitlines()) == 2 + 5
    assert "likeliest" in table
    assert "\x1b" not in shown
    plain = ok(cli("generate", tiny_run, *FEW, "--logprobs", 0))
    assert "likeliest" not in plain
    assert "log p" in plain
    assert "|E|l|" in ok(cli("generate", tiny_run, "--prompts", prompts, *FEW, "--view", "tokens"))


def test_colours_of_a_terminal(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A control character that the model writes is shown also there, where colours go out as they are."""
    monkeypatch.setattr("fabula.cli.console.coloured", lambda: True)
    line = pieces.Barred(tiny_tokenizer, "a")
    for number in tiny_tokenizer.encode("\x1b]0;x\x07"):
        line.add(number, -0.1)
    line.add(tiny_tokenizer.special.end_of_document, -9.0)
    line.close()
    out = capsys.readouterr().out
    assert "<0x1B>" in out
    assert "<0x07>" in out
    assert "\x07" not in out
    assert "\x1b]" not in out
    assert "38;5;16;48;5;157m" in out
    assert "48;5;217m<|endoftext|>" in out


def test_interrupted_it_keeps_what_is_finished(
    cli: Cli, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fabula.generate.batch import Batch

    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"El {number}" for number in range(200)))
    steps, step = [], Batch.step

    def interrupted(self: Batch) -> bool:
        steps.append(1)
        if len(steps) == 9:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Batch, "step", interrupted)
    code, out, err = cli("generate", tiny_run, "--prompts", file, *FEW, "--json", "--engine", "torch")
    assert code == 130
    assert "those that were finished are there" in err
    found = lines(out)
    assert 0 < len(found) < 200
    assert [f["number"] for f in found] == sorted(f["number"] for f in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n", 0], ["--n 0"]),
        (["--best-of", -1], ["--best-of -1"]),
        (["--n", 2, "--best-of", 2], ["leave out one"]),
        (["--n", 2, "--temperature", 0], ["--temperature"]),
        (["--logprobs", -1], ["--logprobs -1"]),
        (["--logprobs", 99999], ["top_logprobs=99999"]),
        (["--logprobs", 1, "--lookup", 2], ["lookup=2", "do not go together"]),
        (["--view", "bars"], ["tokens"]),
        (["--prompts", "none.txt"], ["none.txt", "cannot be read"]),
    ],
)
def test_what_cannot_be(cli: Cli, tiny_run: Path, arguments: list[Any], words: list[str]) -> None:
    refused(cli("generate", tiny_run, *arguments), 2, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"uno\n\xff\n", ["a.txt, line 2", "UTF-8"]),
        ("a.txt", b"\n \n", ["no prompts"]),
        ("a.jsonl", b'"uno"\n{"prompt": 1}', ["a.jsonl, line 2", '"prompt"']),
        ("a.jsonl", b"uno", ["a.jsonl, line 1", "not JSON"]),
        ("a.txt", b"uno\n" + b"El conejo corre. " * 30, ["prompt 2 has", "holds 32"]),
    ],
)
def test_files_that_cannot_be_read(
    cli: Cli, tiny_run: Path, tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(cli("generate", tiny_run, "--prompts", tmp_path / name, *FEW), 2, *words)
    refused(cli("generate", tiny_run, "--prompts", tmp_path / name, "--prompt", "a"), 2, "leave out one")


def test_patterns(cli: Cli, tiny_run: Path, prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance", reason="the extra `generate` is not installed")
    digits = ["--regex", "-[0-9]{2}", "--prompt", "El"]
    assert ok(cli("generate", tiny_run, *digits)).startswith("El-")
    made = one_document(ok(cli("generate", tiny_run, *digits, "--json")))
    assert (made["complete"], made["finish_reason"], len(made["text"])) == (True, "end", 3)
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["búho", 7]}', encoding="utf-8")
    found = lines(ok(cli("generate", tiny_run, "--json-schema", schema, "--prompts", prompts, "--json")))
    assert [json.loads(f["text"]) in ("búho", 7) for f in found] == [True] * 3
    code, out, err = cli("generate", tiny_run, "--regex", "[0-9]{30}", *FEW)
    assert code == 0
    assert out.strip().isdigit()
    assert "does not yet meet the regular expression" in err
    refused(cli("generate", tiny_run, "--regex", "("), 2, "cannot be used", "unclosed group")
    refused(cli("generate", tiny_run, "--regex", "a", "--json-schema", schema), 2, "leave out one")
    refused(cli("generate", tiny_run, "--json-schema", "none.json"), 2, "cannot be read")
    refused(cli("generate", tiny_run, "--regex", "a", "--lookup", 2), 2, "do not go together")


def test_the_best_texts_of_a_search(cli: Cli, tiny_run: Path) -> None:
    search = ["generate", tiny_run, "--prompt", "El", "--beams", 4, *FEW]
    plain = one_document(ok(cli(*search, "--json")))
    best = one_document(ok(cli(*search, "--n", 3, "--beam-groups", 2, "--diversity", 3, "--json")))["samples"]
    assert len({tuple(b["ids"]) for b in best}) == len(best) == 3
    assert one_document(ok(cli(*search, "--beam-groups", 1, "--json")))["ids"] == plain["ids"]
    shown = ok(cli(*search, "--n", 2))
    assert "sample 2, " in shown
    assert "seed" not in shown
    refused(cli(*search, "--beam-groups", 3), 2, "beam_groups=3 must divide beams=4")
    refused(cli(*search, "--n", 5), 2, "finds no more texts")
    refused(cli(*search, "--best-of", 2), 2, "--temperature")


def test_models_together(cli: Cli, tiny_run: Path) -> None:
    """A model with itself is itself; other checkpoints have a say."""
    alone = one_document(ok(cli("generate", tiny_run, "--prompt", "El", *FEW, "--json")))
    both = one_document(ok(cli("generate", tiny_run, "--also", tiny_run, "--prompt", "El", *FEW, "--json")))
    assert both["ids"] == alone["ids"]
    assert both["engine"] == "ensemble"
    refused(cli("generate", tiny_run, "--also", "none"), 2, "no model at none")
