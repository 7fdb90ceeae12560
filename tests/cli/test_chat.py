"""`fabula chat`, line by line through a pipe and in a terminal."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_cli import refused

Cli = Callable[..., tuple[int, str, str]]
Talk = Callable[..., tuple[int, str, str]]


@pytest.fixture
def talk(cli: Cli, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Talk:
    """Lines in, then what `cli` gives."""

    def run(lines: str | bytes, *arguments: object) -> tuple[int, str, str]:
        raw = lines.encode() if isinstance(lines, str) else lines
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        few = [] if "--max-new-tokens" in arguments else ["--max-new-tokens", 4]
        return cli("chat", tiny_run, *few, *arguments)

    return run


def test_lines_through_a_pipe(talk: Talk, tmp_path: Path) -> None:
    code, out, err = talk("El zorro\n\n/save a.json\nuno\\\ndos\n/save b.json\n//quit\n/save c.json")
    assert code == 0, err
    assert "not tuned for conversations" in err
    assert "context of 32 tokens" in err
    assert "tokens/s" in err
    assert "of 32 tokens of context" in err
    first, second, third = (json.loads((tmp_path / f"{n}.json").read_text())["messages"] for n in "abc")
    assert [m["role"] for m in first] == ["user", "assistant", "assistant"]
    assert first[0]["content"] == "El zorro"
    assert second[3]["content"].endswith("uno\ndos")
    answers = [m["content"] for m in second if m["role"] == "assistant"]
    shown = out.replace("\ufffd", "")
    assert all(answer in shown for answer in answers)
    assert len(third) == len(second) or third[-2]["content"].endswith("/quit"), err
    assert "\x1b" not in out + err


def test_commands(talk: Talk, tmp_path: Path) -> None:
    lines = [
        "/help",
        "/undo",
        "/retry",
        "Hola",
        "/retry",
        "/view tokens",
        "/retry",
        "/view rows",
        "/set",
        "/set temperature",
        "/set temperature 0",
        "/set max-new-tokens 3",
        "/set temperature -1",
        "/save",
        "/save story.json",
        "/reset",
        "/load story.json",
        "/load none.json",
        "/undo",
        "/system Eres un búho.",
        "/sing",
        "/quit",
        "never read",
    ]
    code, out, err = talk("\n".join(lines))
    assert code == 0
    for words in (
        "/view tokens|text",
        "! there is nothing to take back",
        "! there is no answer yet",
        "! write /view tokens",
        "repetition_penalty",
        "! write /set NAME VALUE",
        "(temperature = 0.0)",
        "(max-new-tokens = 3)",
        "! temperature=-1.0 must be at least 0",
        "! name a file",
        "(2 turns in story.json)",
        "(a new beginning)",
        "(2 turns from story.json; ",
        "! none.json cannot be read",
        "(taken back; 0 of 32 tokens",
        "! a plain model continues one text",
        "! no command /sing",
    ):
        assert words in err, words
    assert out.count("\n") >= 3
    assert out.splitlines()[-1].startswith("|") or "|\n" in out
    assert "never read" not in json.loads((tmp_path / "story.json").read_text())["messages"][0]["content"]


def test_turns_as_the_template_writes_them(talk: Talk, tmp_path: Path) -> None:
    code, _, err = talk("\nHola\n/save chat.json\n/system\n", "--mode", "chat", "--system", "Sí.")
    assert code == 0
    assert "as its chat template" in err
    saved = json.loads((tmp_path / "chat.json").read_text())
    assert (saved["mode"], [m["role"] for m in saved["messages"]]) == ("chat", ["system", "user", "assistant"])
    assert "(the system says nothing)" in err
    refused(talk("a", "--system", "Sí."), 2, "plain model")


def test_what_does_not_fit_is_said_and_the_talk_goes_on(talk: Talk) -> None:
    code, _, err = talk("uno\n" + "conejo " * 40 + "\ndos\n/set max_new_tokens 30\n/retry\n")
    assert code == 0
    assert "! that would be" in err
    assert "context holds 32" in err
    assert "room for" in err
    assert err.count("tokens/s") >= 2


def test_bytes_that_are_no_text(talk: Talk) -> None:
    code, out, err = talk(b"uno \xff dos\nHola\n")
    assert code == 0
    assert "surrogate" in err
    assert out.strip() != "" or "0 tokens" not in err
    assert err.count("of 32 tokens of context") == 1


def test_ctrl_c_keeps_the_answer(talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fabula.generate.batch import Batch

    step, steps = Batch.step, []

    def interrupted(self: Batch) -> bool:
        steps.append(1)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Batch, "step", interrupted)
    code, _, err = talk("Hola\n/save a.json\n", "--max-new-tokens", 25, "--engine", "torch")
    assert code == 0, err
    assert "stopped; " in err
    assert [m["role"] for m in json.loads((tmp_path / "a.json").read_text())["messages"]] == ["user", "assistant"]


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal(tiny_run: Path, tmp_path: Path) -> None:
    """A prompt, an answer, colours, Ctrl-C at the prompt, Ctrl-D; nothing of the model moves the cursor."""
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fabula", "chat", str(tiny_run), "--max-new-tokens", "4", "--view", "tokens"]
    env = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    env.pop("NO_COLOR", None)
    running = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env, start_new_session=True
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = b""

    def until(mark: bytes, count: int = 1) -> None:
        nonlocal seen
        limit = time.monotonic() + 60
        while seen.count(mark) < count and time.monotonic() < limit:
            try:
                seen += os.read(ours, 4096)
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # it has ended
                break
        assert seen.count(mark) >= count, seen

    try:
        until(b"> ")
        os.write(ours, b"Hola\n")
        until(b"tokens of context")
        assert b"\x1b[38;5;16;48;5;" in seen
        running.send_signal(signal.SIGINT)
        until(b"Ctrl-D or /quit leaves")
        os.write(ours, b"\x04")
        assert running.wait(timeout=60) == 0
    finally:
        running.kill()
        running.wait()
        os.close(ours)
