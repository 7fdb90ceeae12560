"""The command line: what it prints where, with which exit code, and what it never does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabula import storage
from fabula.cli import console, overrides
from fabula.cli.main import _VERBS, build_app
from fabula.errors import InputError
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

PARTS = ["corpus show", "corpus write", "tokenizer train", "tokenizer view", "data prepare", "data show"]
PARTS += ["tokenizer report", "tokenizer compare", "model list", "model show", "model masks"]


def one_document(text: str) -> Any:
    """The one JSON document of an output; more or less than one is an error."""
    return json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


def refused(made: tuple[int, str, str], code: int, *words: str) -> str:
    """An error: its exit code, nothing on stdout, one message without traceback that has these words."""
    got, out, err = made
    assert got == code, err
    assert out == ""
    assert "Traceback" not in err
    assert "fault of fabula" not in err
    assert any(line.startswith("fabula: ") for line in err.splitlines())
    for word in words:
        assert word in err
    return err


# ---- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", *_VERBS, *PARTS])
def test_help_of_every_verb(cli: Cli, verb: str) -> None:
    code, out, err = cli(*verb.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert err == ""


def test_no_help_imports_torch() -> None:
    """Nor anything else that is slow; one process for all verbs, since help only ever adds modules."""
    program = f"""
import contextlib, io, sys
from fabula.cli.main import main
slow = ("torch", "tokenizers", "safetensors", "pyarrow", "numpy.testing")
for verb in {["", "--version", *_VERBS, *PARTS]!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*verb.split(), "--help"] if not verb.startswith("-") else [verb])
    found = [m for m in slow if m in sys.modules]
    assert not found, (verb, found)
"""
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_importing_the_package_or_the_command_imports_no_torch() -> None:
    made = subprocess.run(
        [sys.executable, "-c", "import sys, fabula, fabula.cli.main; sys.exit('torch' in sys.modules)"], check=False
    )
    assert made.returncode == 0


def test_settings_are_in_the_help(cli: Cli) -> None:
    _, out, _ = cli("run", "--help")
    words = out.replace("\n", " ")
    for name in ("train.budget", "corpus.source", "generate.prompts", "train.optimizer.kind"):
        assert name in words


def test_version(cli: Cli) -> None:
    import fabula

    assert cli("--version")[:2] == (0, fabula.__version__ + "\n")


# ---- what is typed wrong -----------------------------------------------------------------------------------


def test_unknown_words_are_told_the_nearest(cli: Cli, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    for arguments, word in (
        (["generat"], '"generate"'),
        (["run", recipe, "--nam", "x"], "--name"),
        (["run", recipe, "--train.bugdet", "5m"], 'did you mean "budget"?'),
        (["run", recipe, "--train-budget", "5m"], "--train-budget"),
        (["run", recipe, "--set", "train.bugdet=5m"], 'did you mean "budget"?'),
        (["run", recipe, "--set", "train"], "NAME=VALUE"),
        (["run", recipe, "--train.budget"], "a value is missing"),
        (["run", recipe, "--train.budget", "--model.d_model", "3"], "a value is missing"),
        (["run", recipe, "--train.budget", "1", "--train.budget.x", "1"], "both as a value and as a table"),
        (["run"], "RECIPE"),
        (["run", "none.toml"], "no such recipe: none.toml"),
        (["run", tmp_path], "known: .markdown"),
        (["run", recipe, "--name", "../x"], "folder's name"),
        (["model", "show", "fabula-1mm"], '"fabula-1m"'),
        (["model", "show", "fabula-1m", "--train.budget", "5m"], "only --model.NAME"),
        (["corpus", "show", "fables:es", "--train.budget", "5m"], "takes only corpus settings"),
        (["corpus", "shw", "fables:es"], '"show"'),
        (["evaluate", "runs/none"], "no model at runs/none"),
        (["generate", "runs/none"], "no model at runs/none"),
        (["resume", "runs/none"], "not a run folder"),
        (["report", "runs/none"], "no such run folder"),
        (["data", "show", "none"], "no prepared data"),
        (["tokenizer", "view", "none", "x"], "no tokenizer at"),
    ):
        refused(cli(*arguments), 2, word)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]


def test_all_problems_of_a_recipe_at_once(cli: Cli, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    error = refused(cli("run", recipe, "--train.bugdet", "5m", "--model.d_model", "wide", "--corpus.seed", "x"), 2)
    assert "3 problems" in error
    for word in ("train.bugdet", "model.d_model", "corpus.seed"):
        assert f"\n  - {word}" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]


def test_settings_for_a_verb_without_any_are_named_as_such(cli: Cli) -> None:
    code, _, err = cli("doctor", "--train.budget", "1m")
    assert code == 2
    assert "takes no settings" in err
    assert "--set" not in err


def test_dotted_settings_in_both_spellings() -> None:
    assert overrides.gather(["run", "--train.budget", "1m", "--model.n-layers=2", "--name", "a"]) == [
        *["run", "--set", "train.budget=1m", "--set", "model.n_layers=2", "--name", "a"]
    ]
    assert overrides.gather(["--a.b=x=y", "--", "--c.d", "e"]) == ["--set", "a.b=x=y", "--", "--c.d", "e"]
    assert overrides.gather(["--a.b", "-1", "--a.c="]) == ["--set", "a.b=-1", "--set", "a.c="]
    assert overrides.split(["a.b=x=y", "c="]) == [("a.b", "x=y"), ("c", "")]
    for bad in ("=x", "a.b"):
        with pytest.raises(InputError, match="NAME=VALUE"):
            overrides.split([bad])


@pytest.mark.parametrize("settings", [["--model.n-layers", "3"], ["--model.n_layers=3"], ["--set", "model.n_layers=3"]])
def test_dotted_settings_arrive(cli: Cli, settings: list[str]) -> None:
    _, out, _ = cli("model", "show", "fabula-1m", "--json", *settings)
    assert one_document(out)["config"]["n_layers"] == 3


# ---- results -----------------------------------------------------------------------------------------------


def test_json_is_one_document_for_every_verb_that_has_it(cli: Cli, tmp_path: Path, tiny_run: Path) -> None:
    recipe = tiny.write_recipe(tmp_path)
    run = tmp_path / "runs" / "tiny"
    shutil.copytree(tiny_run, run)
    text = tmp_path / "text.txt"
    text.write_text("El conejo y la niña.\n", encoding="utf-8")
    for arguments, key in (
        (["run", recipe], "summary"),
        (["train", recipe, "--name", "short", "--train.budget", "2steps"], "summary"),
        (["resume", run], "summary"),
        (["plan", recipe], "estimate"),
        (["evaluate", run], "bits_per_byte"),
        (["evaluate", run, "--on", text], "bits_per_byte"),
        (["generate", run, "--prompt", "El", "--max-new-tokens", 3], "text"),
        (["report", run], "report"),
        (["corpus", "show", "fables:es", "--corpus.documents", 90], "documents"),
        (["tokenizer", "train", "fables:es", "--corpus.documents", 90, "--vocab-size", 300, "--out", "tk"], "folder"),
        (["tokenizer", "view", run, "¡Ñandú!"], "pieces"),
        (["data", "prepare", recipe, "--out", "prepared"], "splits"),
        (["data", "show", run], "splits"),
        (["model", "show", "lillm-39m"], "parameters"),
        (["model", "show", run], "parameters"),
        (["doctor"], "torch"),
    ):
        code, out, err = cli(*arguments, "--json")
        assert code == 0, (arguments, err)
        assert key in one_document(out), arguments
        assert out.endswith("}\n")
    code, out, _ = cli("model", "list", "--json")
    assert code == 0
    assert "lillm-39m" in [row["preset"] for row in one_document(out)]


def test_words_for_people(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    recipe = tiny.write_recipe(tmp_path)
    for arguments, words in (
        (["run", recipe], ["bits per byte", "up to date", "report", f"fabula generate {Path('runs/tiny')}"]),
        (["evaluate", run], ["bits per byte", "perplexity"]),
        (["model", "show", "lillm-39m"], ["39,596,544 parameters"]),
        (["model", "list"], ["fabula-1m", "alexandria-9m"]),
        (["data", "show", run], ["uint16", "validation"]),
        (["tokenizer", "view", run, "niña ñ"], ["|", "8 bytes"]),
        (["plan", recipe], ["steps", "tokens/s", "free"]),
        (["doctor"], ["torch", "FLOP/s"]),
        (["report", run], ["index.html"]),
    ):
        code, out, err = cli(*arguments)
        assert code == 0, err
        assert all(word in out for word in words), out
        assert "\x1b" not in out  # no colours in a pipe


def test_the_same_seed_the_same_text(cli: Cli, tiny_run: Path) -> None:
    arguments = ["generate", tiny_run, "--prompt", "Érase", "--max-new-tokens", "20", "--seed", "1", "--json"]
    first, second = (one_document(cli(*arguments)[1]) for _ in range(2))
    assert first == second
    assert first["prompt"] == "Érase"
    streamed = cli(*arguments[:-1])[1]
    assert streamed == f"Érase{first['text']}\n"
    arguments[arguments.index("--seed") + 1] = "2"
    assert one_document(cli(*arguments)[1])["ids"] != first["ids"]


@pytest.mark.parametrize("prompt", ["-Hola", "- ¡Hola!", "—Buenos días", "", "<|endoftext|>", "🦊", "a\nb", "--prompt"])
def test_prompts_of_all_kinds(cli: Cli, tiny_run: Path, prompt: str) -> None:
    code, out, err = cli("generate", tiny_run, "--prompt", prompt, "--max-new-tokens", 2, "--json")
    assert code == 0, err
    assert one_document(out)["prompt"] == prompt


def test_a_prompt_that_does_not_fit(cli: Cli, tiny_run: Path) -> None:
    error = refused(cli("generate", tiny_run, "--prompt", "El conejo corre. " * 30), 2, "context holds 32", "shorten")
    assert "nothing is cut silently" in error


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--temperature", "-1", "temperature"),
        ("--temperature", "x", "temperature"),
        ("--top-p", "0", "top_p"),
        ("--top-k", "-1", "top_k"),
        ("--max-new-tokens", "0", "max_new_tokens"),
        ("--seed", "99999999999999999999999", "seed"),
        ("--checkpoint", "step-7", "there are: best, last, steps"),
        ("--device", "gpu", "device"),
    ],
)
def test_impossible_options(cli: Cli, tiny_run: Path, option: str, value: str, word: str) -> None:
    code, out, err = cli("generate", tiny_run, option, value)
    assert (code, out) in ((2, ""), (3, ""))
    assert word in err
    assert "fault of fabula" not in err


def test_evaluate_needs_a_text_or_data(cli: Cli, tiny_run: Path) -> None:
    step = next((tiny_run / "checkpoints").iterdir())
    refused(cli("evaluate", step), 2, "--on FILE")
    refused(cli("evaluate", tiny_run, "--on", "none.txt"), 2, "no such file")
    refused(cli("evaluate", tiny_run, "--stride", "99"), 2, "larger than the model's context")


# ---- sources -----------------------------------------------------------------------------------------------


def test_sources_that_are_no_text(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "spaces.txt").write_text(" \n\n \n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\x00")
    (tmp_path / "binary.txt").write_bytes(b"abc\x00def" * 100)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "one.txt").write_text("Una sola frase.")
    recipe = tiny.write_recipe(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    for source, word in (
        ("missing.txt", "no such file or folder"),
        ("empty.txt", "empty (0 bytes)"),
        ("nothing", "none of its 0 files"),
        ("picture.png", "unknown kind of file"),
        ("fables:fr", 'no fables in "fr"'),
        ("*.parquet", "no file matches"),
    ):
        refused(cli("corpus", "show", source), 2, word)
        refused(cli("run", recipe, "--corpus.source", source), 2, word)
        assert sorted(p.name for p in tmp_path.iterdir()) == before
    for source, word in (
        ("spaces.txt", "no documents"),
        ("binary.txt", "not a text file"),
        ("one.txt", "one document cannot be split"),
    ):
        refused(cli("run", recipe, "--corpus.source", source), 2, word)


def test_a_vocabulary_larger_than_the_corpus_supports(cli: Cli, tmp_path: Path) -> None:
    refused(
        cli("tokenizer", "train", "fables:es", "--corpus.documents", 60, "--vocab-size", 60000, "--out", "tk"),
        *(2, "vocab_size=60000 is larger than the corpus supports", "--tokenizer.vocab_size"),
    )
    assert not (tmp_path / "tk").exists()


def test_bad_bytes_are_told_with_their_place(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Una mañana.\n\n".encode() * 400 + "mañana".encode("latin-1") + b"\n")
    refused(cli("corpus", "show", "latin.txt", "--corpus.split", "line", "--corpus.document_bytes", 0), 2, "latin.txt")
    code, out, err = cli(
        *("corpus", "show", "latin.txt", "--corpus.split", "line", "--corpus.document_bytes", 0),
        *("--corpus.max_quarantined", 0.5, "--corpus.validation", 0.5, "--json"),
    )
    # All lines are alike: one document and one bad one, so there may be nothing to split.
    if code == 0:
        assert one_document(out)["funnel"]["quarantined"] == 1
    else:
        assert "one document cannot be split" in err


def test_a_folder_of_somebody_is_not_replaced(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "Documents").mkdir()
    (tmp_path / "Documents" / "novel.txt").write_text("the only copy")
    (tmp_path / "file").write_text("x")
    train = ["tokenizer", "train", "fables:es", "--corpus.documents", 90, "--vocab-size", 300, "--out"]
    refused(cli(*train, "Documents"), 2, "other things in it")
    refused(cli(*train, "file"), 2, "file stands where a folder")
    refused(cli(*train, "."), 2, "other things in it")
    assert (tmp_path / "Documents" / "novel.txt").read_text() == "the only copy"
    assert cli(*train, "new")[0] == 0
    assert cli(*train, "new")[0] == 0  # a tokenizer may replace a tokenizer


def test_corpus_write(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("corpus", "write", "fables:es", "cuentos ñ.txt", "--corpus.documents", 90)
    assert (code, out) == (0, "")
    assert "90 documents" in err
    assert (tmp_path / "cuentos ñ.txt").read_text(encoding="utf-8").count("<|endoftext|>") == 90
    (tmp_path / "folder").mkdir()
    refused(cli("corpus", "write", "fables:es", "folder", "--corpus.documents", 90), 2, "folder stands where a file")


# ---- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_checkpoint_is_exit_code_4(cli: Cli, copied_run: Path, name: str) -> None:
    for step in (copied_run / "checkpoints").iterdir():
        path = step / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    refused(cli("generate", copied_run), 4, "damaged", name)
    refused(cli("evaluate", copied_run), 4, "damaged", name)
    refused(cli("resume", copied_run), 4, "begin again with --fresh")


def test_a_damaged_tokenizer_is_exit_code_4(cli: Cli, copied_run: Path) -> None:
    (copied_run / "tokenizer" / "tokenizer.json").write_text('{"model": 3')
    refused(cli("tokenizer", "view", copied_run, "x"), 4, "tokenizer.json")
    refused(cli("resume", copied_run), 4, "tokenizer.json")


def test_a_data_folder_is_no_model(cli: Cli, copied_run: Path) -> None:
    refused(cli("generate", copied_run / "data"), 2, "neither a run folder nor a checkpoint")
    refused(cli("data", "show", copied_run / "tokenizer"), 2, "not a data folder")


def test_a_fault_of_ours_says_so_and_debug_shows_it(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*a: Any, **k: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("fabula.pipeline.run", broken)
    recipe = tiny.write_recipe(tmp_path)
    code, out, err = cli("run", recipe)
    assert (code, out) == (1, "")
    assert "RuntimeError: a bug" in err
    assert "--debug" in err
    assert "Traceback" not in err
    from fabula.cli.main import main

    with pytest.raises(RuntimeError, match="a bug"):
        main(["run", str(recipe), "--debug"])


def test_out_of_memory_is_exit_code_3(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*a: Any, **k: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("fabula.pipeline.run", broken)
    refused(cli("run", tiny.write_recipe(tmp_path)), 3, "out of memory")


# ---- looks -------------------------------------------------------------------------------------------------


def test_numbers_for_people() -> None:
    assert [console.n_bytes(n) for n in (0, 999, 1000, 12_345_678, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.3 MB",
        "5.0 TB",
    ]
    assert [console.clock(s) for s in (0.04, 9.96, 59.6, 192, 3600, 7265)] == [
        *["0.0 s", "10.0 s", "1 min 00 s", "3 min 12 s", "1 h 00 min", "2 h 01 min"]
    ]
    assert console.amount(1200, "steps") == "1,200 steps"
    assert console.quantity(1e21) == "1000.0 E"


def test_a_table_aligns() -> None:
    shown = console.table([("a", "1"), ("bbb", "22")], ("name", "n"), right=(1,))
    assert shown.splitlines() == ["name   n", "────  ──", "a      1", "bbb   22"]
    assert console.table([]) == ""


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Watcher().task("counting", 10, "steps") as task:
        for _ in range(10):
            task.advance(1, "fine")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "counting ..."
    assert "10 steps" in captured.err
    assert "\r" not in captured.err


# ---- the surface -------------------------------------------------------------------------------------------


def test_the_surface_is_what_it_was() -> None:
    """A name here is a promise: adding is easy, removing needs a reason and a line in the CHANGELOG."""
    import fabula

    assert fabula.__all__ == ["LanguageModel", "__version__", "load", "run"]
    assert all(hasattr(fabula, name) for name in fabula.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = fabula.nope
    assert list(_VERBS) == [
        *["run", "plan", "train", "resume", "evaluate", "generate", "chat", "export", "import", "serve"],
        *["report", "compare", "corpus", "tokenizer", "data", "model", "verify", "doctor"],
    ]
    app = build_app()
    subs = {v: {n for n in app[v] if not n.startswith("-")} for v in ("corpus", "tokenizer", "data", "model")}
    assert subs == {
        "corpus": {"clean", "report", "show", "write"},
        "tokenizer": {"chat", "compare", "import", "report", "train", "view"},
        "data": {"prepare", "show"},
        "model": {"list", "masks", "show"},
    }


def test_stages_json_is_readable(tiny_run: Path) -> None:
    assert set(storage.read_json(tiny_run / "stages.json")) == {"tokenizer", "data", "train", "evaluate"}


def test_a_word_too_many_is_named(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("run", "text.txt", "--budget", "3", "m")
    assert code == 2
    assert '"m" belongs to nothing: an option takes one value' in err
