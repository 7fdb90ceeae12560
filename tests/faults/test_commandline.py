"""Rows U1, U2, U4, U5: settings and recipes that are wrong, odd surroundings, texts that would rule a terminal."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fabula import recipe as recipes
from fabula.cli.console import shown
from fabula.errors import FabulaError
from fabula.tokenizer.base import Tokenizer
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

posix = pytest.mark.skipif(sys.platform == "win32", reason="descriptors, terminals and users of POSIX")

# ---- U1 ----------------------------------------------------------------------------------------------------

# (a section, its setting as TOML, what the error must say). Any of them may stand together with any other but those of
# the same setting.
PROBLEMS: list[tuple[str, str, str]] = [
    ("", "sede = 1", 'sede: unknown key; did you mean "seed"?'),
    ("", 'seed = "one"', "seed: expected a whole number"),
    ("", "seed = -1", "seed=-1 must be"),
    ("", "seed = 1.0", "seed: expected a whole number, got 1.0"),
    ("", "seed = nan", "seed: expected a whole number, got nan"),
    ("", 'name = "../x"', "name='../x' must be usable"),
    ("", "name = 7", "name: expected text, got 7"),
    ("", "description = []", "description: expected text, got []"),
    ("corpus", "sorce = 1", 'corpus.sorce: unknown key; did you mean "source"?'),
    ("corpus", "source = 3", "corpus.source: expected text, got 3"),
    ("corpus", "validation = 0.9", "corpus: validation=0.9 must be above 0"),
    ("corpus", "validation = nan", "corpus.validation: expected a number, got nan"),
    ("corpus", "max_quarantined = -0.5", "corpus: max_quarantined=-0.5"),
    ("corpus", "max_quarantined = inf", "corpus.max_quarantined: expected a number, got inf"),
    ("corpus", "documents = -5", "corpus: documents=-5 must not be negative"),
    ("corpus", "documents = true", "corpus.documents: expected a whole number, got True"),
    ("corpus", 'split = "lines"', 'corpus.split: "lines" is not allowed; did you mean "line"?'),
    ("corpus", 'marker = "a\\nb"', "must be text without line ends"),
    ("corpus", "document_bytes = 1e3", "corpus.document_bytes: expected a whole number, got 1000.0"),
    ("tokenizer", "vocab_size = 10", "tokenizer: vocab_size=10 must be at least 262"),
    ("tokenizer", 'vocab_size = "many"', "tokenizer.vocab_size: expected whole number | auto"),
    ("tokenizer", "sample_bytes = 0", "tokenizer: sample_bytes=0 must be at least 1"),
    ("tokenizer", 'kind = "wordpiece"', 'tokenizer.kind: "wordpiece" is not allowed'),
    ("data", "shard_tokens = 0", "data: shard_tokens=0 must be at least 1"),
    ("data", "batch_documents = {}", "data.batch_documents: expected a whole number, got {}"),
    ("train", 'budget = "soon"', '"soon" is not a budget'),
    ("train", "bugdet = 1", 'train.bugdet: unknown key; did you mean "budget"?'),
    ("train", "clip = nan", "train.clip: expected a number, got nan"),
    ("train", "clip = -1", "train: clip=-1.0 must be at least 0"),
    ("train", "evaluation_share = 3", "train: evaluation_share=3.0 must be"),
    ("train", "checkpoints = 0", "train: checkpoints=0 must be at least 1"),
    ("train", "threads = -1", "train: threads=-1 must be at least 0"),
    ("train", "batch_tokens = 1979-05-27", "train.batch_tokens: expected a whole number, got datetime.date"),
    ("train", 'optimizer = { kind = "muom" }', 'train.optimizer.kind: unknown optimizer "muom"; did you mean "muon"?'),
    ("train", 'optimizer = { kind = "muon", lr = 0 }', "train.optimizer: lr=0.0 must be above 0"),
    ("train", 'optimizer = { kind = "muon", lr = nan }', "train.optimizer.lr: expected a number, got nan"),
    ("train", 'schedule = { kind = "wsd", warmup = 2 }', "train.schedule: warmup=2.0 is a share"),
    ("train", "schedule = 5", "train.schedule: expected a table, got 5"),
    ("evaluate", "stride = -1", "evaluate: stride=-1 must be at least 0"),
    ("evaluate", "batch_rows = 0", "evaluate: batch_rows=0 must be at least 1"),
    ("evaluate", 'validation_bytes = "all"', "evaluate.validation_bytes: expected a whole number"),
    ("generate", "temperature = -1", "generate: temperature=-1.0 must be at least 0"),
    ("generate", "top_p = 0", "generate: top_p=0.0 must be above 0"),
    ("generate", "top_k = -1", "generate: top_k=-1 must be at least 0"),
    ("generate", 'prompts = "one"', 'generate.prompts: expected a list, got "one"'),
    ("generate", "prompts = [1]", "generate.prompts[0]: expected text, got 1"),
    ("generate", "min_p = 2", "generate: min_p=2.0 must be between"),
    ("report", "points = 3", "points: must be from 10 to 100,000"),
    ("model", "d_model = 0", "model: d_model=0 must be at least 1"),
    ("model", 'n_layers = "two"', "model.n_layers: expected a whole number"),
    ("model", "n_layer = 2", 'model.n_layer: unknown key; did you mean "n_layers"?'),
    ("model", 'ffn = { kind = "swiglu", d_ff = 0 }', "model.ffn: d_ff=0 must be at least 1"),
    ("model", 'norm = { kind = "rmsnorm", eps = -1 }', "model.norm: eps=-1.0 must be above 0"),
    ("model", 'attention = { kind = "gqa", n_heads = 6, n_kv_heads = 4 }', "n_heads=6 must be a multiple of n_kv_he"),
    ("sampling", "x = 1", "sampling: unknown key"),
]  # fmt: skip


def bad_recipe(case: int) -> tuple[str, list[str]]:
    """A recipe with one to six problems, and what must be said of them. Each problem alone comes first."""
    chance = random.Random(case)
    chosen = [PROBLEMS[case]] if case < len(PROBLEMS) else chance.sample(PROBLEMS, chance.randrange(2, 7))
    taken: dict[tuple[str, str], tuple[str, str, str]] = {}
    for section, line, words in chosen:
        taken.setdefault((section, line.split(" = ")[0]), (section, line, words))
    if sum(section == "model" for section, _ in taken) > 1:
        # A model has no defaults to stand in for what was refused, so it is judged as a whole only when its parts are.
        taken.pop(("model", "d_model"), None)
    lines: list[str] = []
    for name in dict.fromkeys(section for section, _, _ in sorted(taken.values())):
        lines += [f"[{name}]"] if name else []
        lines += [line for section, line, _ in taken.values() if section == name]
    return "\n".join(lines) + "\n", [words for _, _, words in taken.values()]


@pytest.mark.row("U1", cases=120, nightly=2000)
def test_every_problem_is_named_and_nothing_is_made(cli: Cli, tmp_path: Path, cases: int) -> None:
    verbs: list[list[str]] = [["run"], ["train"], ["plan"], ["data", "prepare", "--out", "made"]]
    for case in range(cases):
        text, words = bad_recipe(case)
        recipe = tiny.write_recipe(tmp_path, text, name="bad.toml")
        verb = verbs[case % len(verbs)]
        code, out, err = cli(*verb, recipe)
        assert (code, out) == (2, ""), (text, err)
        for word in words:
            assert word in err, text
        assert "Traceback" not in err
        assert len(words) == 1 or f"{len(words)} problems" in err, (text, err)
        assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]


# ---- U2 ----------------------------------------------------------------------------------------------------

_DEEP = 15_000
HOSTILE: list[tuple[bytes, str]] = [
    (b"seed = 1\nseed = 2\n", "not valid TOML"),
    (b"[train]\nclip = 1\n[train]\nclip = 2\n", "not valid TOML"),
    (b'description = "' + b"a" * (32 << 20) + b'"\n', "larger than 64 KiB"),
    (b"# nothing\n" * (4 << 20), "larger than 64 KiB"),
    (b"a = " + b"[" * _DEEP + b"]" * _DEEP, "deep"),
    (b"a = " + b"{a=" * _DEEP + b"1" + b"}" * _DEEP, "deep"),
    (b".".join([b"a"] * 30_000) + b" = 1\n", "dots"),
    (b"\n".join(b"." * 40 for _ in range(9)) + b"\n" + b".".join([b"a"] * 400) + b" = 1\n", "not valid TOML"),
    (b".".join([b"a"] * 400) + b" = 1\n", "deep"),
    ("seed = 1\n".encode("utf-16"), "UTF-16"),
    ('description = "mañana"\n'.encode("latin-1"), "not UTF-8 (byte 17)"),
    (b"seed = 1\x00\n", "not valid TOML"),
    (b"seed = " + b"9" * 5000 + b"\n", "a number that cannot be read"),
    (b"seed = 0x" + b"f" * 60_000 + b"\n", "bits; 64 are the most"),
    (b"seed = 1979-05-27T07:32:00Z\n[train]\nclip = 07:32:00\n", "expected a whole number, got datetime"),
    (b"!!python/object/apply:os.system ['echo']\n", "not valid TOML"),
    (b"".join(b"k%d = 1\n" % n for n in range(5000)), "5000 problems"),
    (b"[[train]]\nclip = 1\n[[train]]\n", "train: expected a table"),
    (b'name = "\\ud800"\n', "not valid TOML"),
    (b'"\\u001b[31mkey\\u009b" = 1\n', "\\x1b[31mkey\\x9b: unknown key"),
    (b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 16, "not UTF-8"),
]


@pytest.mark.row("U2", cases=21)
def test_hostile_recipes_are_refused_at_once(cli: Cli, tmp_path: Path, cases: int) -> None:
    for case in range(cases):
        content, word = HOSTILE[case]
        (tmp_path / "bad.toml").write_bytes(content)
        before = time.perf_counter()
        code, out, err = cli("run", "bad.toml")
        took = time.perf_counter() - before
        assert (code, out) == (2, ""), (case, err[:200])
        assert word in err, (case, err[:200])
        assert "Traceback" not in err
        assert took < 5, case  # a second is meant; the machine may be busy
        assert [p.name for p in tmp_path.iterdir()] == ["bad.toml"]


@posix
@pytest.mark.row("U2", cases=4)
def test_what_is_no_file_is_no_recipe(cli: Cli, tmp_path: Path, cases: int) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    for path in ["pipe.toml", "loop.toml", "/dev/zero", "pipe.toml/x.toml"][:cases]:
        code, out, err = cli("run", path)
        assert (code, out) == (2, ""), err
        assert path in err
        assert "fault of fabula" not in err


def test_a_byte_order_mark_is_no_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert recipes.load(path).seed == 3


@pytest.mark.row("U2", cases=300, nightly=10_000)
def test_any_damage_is_an_error_of_ours(tmp_path: Path, cases: int) -> None:
    """A recipe with bytes changed, cut, repeated: it is read, or refused with a message; nothing else."""
    path = tmp_path / "a.toml"
    for case in range(cases):
        chance = random.Random(case)
        raw = bytearray(tiny.RECIPE.encode())
        for _ in range(chance.choice([1, 1, 3, 30])):
            at = chance.randrange(len(raw))
            what = chance.randrange(3)
            if what == 0:
                raw[at] = chance.randrange(256)
            elif what == 1:
                del raw[at : at + chance.choice([1, 5, 80])]
            else:
                raw[at:at] = chance.choice([bytes(raw[: at // 2]), b"[", b"{", b"=", b'"', b"\n", b"nan", b"9" * 99])
        path.write_bytes(raw)
        try:
            recipes.load(path)
        except FabulaError as error:
            code = error.exit_code
        else:
            code = 2
        assert code == 2, case


# ---- U4 ----------------------------------------------------------------------------------------------------

TEXT = "¿Qué niño? —dijo 🦊"


def plain_environment(**changes: str) -> dict[str, str]:
    """Without a word about the language."""
    found = tiny.environment(**changes)
    return {k: v for k, v in found.items() if k in changes or not k.startswith(("LC_", "LANG", "PYTHONIOENCODING"))}


def _as_anybody() -> None:
    """Root may write everywhere; without that privilege (and there only on Linux) a locked folder is locked."""
    if os.getuid() == 0:
        import ctypes

        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE


def _without_terminal() -> None:
    os.setsid()


@posix
@pytest.mark.row("U4", cases=12)
def test_odd_surroundings_change_nothing(tmp_path: Path, tiny_tokenizer: Tokenizer, cases: int) -> None:
    """The same bytes on stdout, exit code 0, in twelve environments."""
    (tmp_path / "tk").mkdir()
    tiny_tokenizer.save(tmp_path / "tk")
    show = ["tokenizer", "view", tmp_path / "tk", TEXT, "--json"]
    here = tmp_path / "una carpeta con espacios y ñ 🦊"
    here.mkdir()
    deep = tmp_path / "/".join(["muy-" * 12] * 12)
    deep.mkdir(parents=True)
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    latin = tmp_path / os.fsdecode(b"a\xf1o")
    latin.mkdir()
    surroundings: list[tuple[Path, dict[str, str], Callable[[], None] | None]] = [
        (tmp_path, plain_environment(LC_ALL="C", PYTHONUTF8="0"), None),
        (tmp_path, plain_environment(LC_ALL="POSIX"), None),
        (tmp_path, plain_environment(LANG="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"), None),
        (tmp_path, plain_environment(LC_ALL="tr_TR.UTF-8", PYTHONIOENCODING="ascii"), None),
        (tmp_path, plain_environment(TERM="dumb", COLUMNS="1", NO_COLOR="1"), None),
        (tmp_path, {k: v for k, v in plain_environment().items() if k not in ("HOME", "TERM", "USER", "TMPDIR")}, None),
        (tmp_path, plain_environment(TZ="Antarctica/Troll", PYTHONHASHSEED="77"), _without_terminal),
        (here, plain_environment(), None),
        (deep, plain_environment(), None),
        (latin, plain_environment(LC_ALL="C"), None),
        (locked, plain_environment(HOME="/nonexistent"), _as_anybody),
        (tmp_path, plain_environment(PYTHONWARNINGS="error", PYTHONUTF8="1"), lambda: os.close(0)),
    ]
    expected = tiny.call(*show, cwd=tmp_path)
    assert json.loads(expected.stdout)["text"] == TEXT
    for case in range(cases):
        place, env, change = surroundings[case]
        made = subprocess.run(
            tiny.command(*show), cwd=place, env=env, capture_output=True, check=False, preexec_fn=change
        )
        assert made.returncode == 0, (case, tiny.tail(made.stderr))
        assert made.stdout == expected.stdout, case
        assert made.stderr == b"", case


@posix
@pytest.mark.row("U4", cases=5)
def test_what_cannot_be_written_has_its_exit_code(tmp_path: Path, cases: int) -> None:
    """Closed streams, full disks behind them, a folder where nobody may write: no traceback, no fault of ours."""
    locked = tmp_path / "locked"
    locked.mkdir()
    tmp_path.chmod(0o755)
    locked.chmod(0o555)
    full = "/dev/full" if Path("/dev/full").exists() else os.devnull
    quoted = " ".join(tiny.command())
    lines: list[tuple[str, int]] = [
        (f"{quoted} model list >&-", 0),  # nobody listens
        (f"{quoted} run none.toml 2>&-", 2),
        (f"{quoted} model list >{full}", 3 if full == "/dev/full" else 0),
        (f"{quoted} run none.toml 2>{full}", 2),
        (f"{quoted} corpus write fables:es {locked}/a.txt --corpus.documents 90", 3),
    ]
    for line, code in lines[:cases]:
        made = subprocess.run(
            ["sh", "-c", line],
            cwd=locked,
            env=tiny.environment(HOME="/nonexistent"),
            capture_output=True,
            check=False,
            preexec_fn=_as_anybody if "write" in line else None,
        )
        assert made.returncode == code, (line, tiny.tail(made.stderr))
        assert b"Traceback" not in made.stderr
        assert b"fault of fabula" not in made.stderr
        assert b"Exception ignored" not in made.stderr
    assert list(locked.iterdir()) == []


@posix
@pytest.mark.row("U4", cases=1)
@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        *(pytest.param(e, marks=pytest.mark.slow) for e in ({"LC_ALL": "POSIX"}, {"LANG": "C"})),
    ],
)
def test_accents_in_any_locale(tiny_run: Path, locale: dict[str, str]) -> None:
    env = {k: v for k, v in tiny.environment().items() if not k.startswith(("LC_", "LANG", "PYTHONIOENCODING"))}
    prompt = "¿Qué niño? —dijo 🦊"
    for more in (["--json"],):
        made = tiny.call(
            *("generate", tiny_run, "--prompt", prompt, "--max-new-tokens", 2, *more), env={**env, **locale}
        )
        assert made.returncode == 0, tiny.tail(made.stderr)
        assert prompt in made.stdout.decode("utf-8")
    made = tiny.call("corpus", "show", "fables:es", "--corpus.documents", 90, env={**env, **locale})
    assert made.returncode == 0, tiny.tail(made.stderr)
    assert "ó" in made.stdout.decode("utf-8")
    made = tiny.call("tokenizer", "view", tiny_run, "ñandú", env={**env, **locale})
    assert "7 bytes" in made.stdout.decode("utf-8")


@posix
@pytest.mark.row("U4", cases=1)
def test_a_name_that_is_not_utf8(tmp_path: Path, tiny_texts: list[str]) -> None:
    """A folder from an old machine: names in Latin-1."""
    folder = tmp_path / "old"
    folder.mkdir()
    for number, text in enumerate(tiny_texts):
        (folder / os.fsdecode(b"a\xf1o %d.txt" % number)).write_text(text, encoding="utf-8")
    (folder / os.fsdecode(b"ma\xf1ana.txt")).write_bytes(b"ma\xf1ana")
    tiny.write_recipe(tmp_path)
    settings = ["--train.budget", "2steps", "--corpus.max_quarantined", "0.5", "--corpus.documents", "0"]
    made = tiny.call("run", "tiny.toml", "--corpus.source", "old", *settings, cwd=tmp_path)
    assert made.returncode == 0, tiny.tail(made.stderr)
    assert b"unreadable records: 1" in made.stderr


@posix
@pytest.mark.row("U4", cases=1)
@pytest.mark.parametrize(
    "arguments", [["run", "--help"], ["model", "list"], ["generate", "RUN", "--max-new-tokens", "30"]]
)
def test_whoever_reads_may_leave(tiny_run: Path, arguments: list[str]) -> None:
    """`fabula ... | head`: no error, no message."""
    words = tiny.command(*(str(tiny_run) if a == "RUN" else a for a in arguments))
    process = subprocess.Popen(
        words, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=tiny.on_one_core
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 0, tiny.tail(err)
    assert err == b""


# ---- U5 ----------------------------------------------------------------------------------------------------

_SEQUENCES = [
    *("\x1b[2J", "\x1b]0;title\x07", "\x1b[6n", "\x1bP$q\x1b\\", "\x1b]52;c;ZWNobw==\x07", "\x9b31m", "\x9d0;t\x9c"),
    *(
        "\r",
        "\x08\x08",
        "\x00",
        "\x7f",
        "\x0b\x0c",
        "\x0e",
        "\x1b(0",
        "\x1b[?1049h",
        "\x1b[8m",
        "\x85",
        "\x1b]8;;x\x07",
    ),
]
_MARKUP = [
    "<x-evil>", "</script><x-evil onx=1>", '"><x-evil onx="1">', "<x-evil", "<!--<x-evil>-->", "]]><x-evil/>",
    "' onx='1", "</style><x-evil>", "</title><x-evil>", "{{7*7}}<x-evil>", "&lt;x-evil&gt;<x-evil>", "</svg><x-evil>",
]  # fmt: skip
_ALLOWED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def payload(case: int) -> str:
    """Something a terminal would obey, and something a browser would."""
    chance = random.Random(case)
    sequence, markup = _SEQUENCES[case % len(_SEQUENCES)], _MARKUP[case % len(_MARKUP)]
    return "".join(chance.sample([sequence, markup, f"niña {case}", chance.choice(_SEQUENCES)], 4))


_IN_A_TERMINAL = """
import json, sys
from pathlib import Path
from fabula.cli.main import main
for words in json.loads(Path(sys.argv[1]).read_text()):
    try:
        main(words)
    except SystemExit as leaving:
        print(f"<<{leaving.code}>>")
"""


def in_a_terminal(commands: list[list[str]], folder: Path) -> str:
    """What commands send to a terminal, all in one process with stdout and stderr on it; each ends with <<code>>."""
    import pty
    import tty

    (folder / "commands.json").write_text(json.dumps(commands))
    master, slave = pty.openpty()
    tty.setraw(slave)  # the terminal is to add no carriage returns of its own
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_A_TERMINAL, str(folder / "commands.json")],
        cwd=folder,
        env=tiny.environment(),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    raw = b""
    try:
        while chunk := os.read(master, 65536):
            raw += chunk
    except OSError:
        pass  # Linux says so when the last one has closed the terminal
    os.close(master)
    assert process.wait(60) == 0, tiny.tail(raw)
    return raw.decode("utf-8", "surrogateescape")


@posix
@pytest.mark.row("U5", cases=50, nightly=500)
def test_a_terminal_is_sent_no_control_characters(tmp_path: Path, tiny_run: Path, cases: int) -> None:
    """Texts, prompts, what a model says, names of files and settings: shown as escapes, and shown they are."""
    commands: list[list[str]] = []
    visible: list[str] = []
    for case in range(cases):
        text = payload(case)
        # NUL is in no name and in no argument.
        name = text.replace("\x00", "").replace("/", "|")
        kind = case % 6
        if kind == 0:
            folder = tmp_path / f"texts{case}"
            folder.mkdir()
            rows = [json.dumps({"text": f"{text} {n}"}) for n in range(40)]
            (folder / f"{name}.jsonl").write_text("\n".join(rows))
            commands.append(["corpus", "show", str(folder), "--corpus.validation", "0.5"])
            visible += [shown(text.lstrip()), shown(f"[{name}.jsonl")]
        elif kind == 1:
            # At this temperature the model says any byte there is.
            options = ["--temperature", "9", "--max-new-tokens", "15", "--seed", str(case)]
            prompt = _SEQUENCES[case // 6 % len(_SEQUENCES)].replace("\x00", "") + "ñ"
            commands.append(["generate", str(tiny_run), "--prompt", prompt, *options])
            visible.append(shown(prompt))
        elif kind == 2:
            commands.append(["run", f"{name}.toml"])
            visible.append(shown(f"no such recipe: {name}.toml"))
        elif kind == 3:
            path = tmp_path / f"{case}{name}.jsonl"
            path.write_text('{"text": "uno"}\n' * 3 + f'{{"{name}": \n')
            commands.append(["corpus", "show", str(path)])
            visible.append(shown(name))
        elif kind == 4:
            commands.append(["tokenizer", "view", str(tiny_run), name])
        else:
            commands.append(["model", "show", "fabula-1m", "--set", f"model.{name}=1"])
    # The grounds of tokens are our own; what a text would send is not among them.
    sent = re.sub(r"\x1b\[(?:38;5;16;48;5;\d{3}|0)m", "", in_a_terminal(commands, tmp_path))
    assert sent.count("<<") - sent.count("<<evil") >= cases
    assert not set(_ALLOWED.findall(sent)), sorted(set(_ALLOWED.findall(sent)))
    assert not re.search("[\udc80-\udcff]", sent)
    for text in visible:
        assert text in sent, text


@posix
@pytest.mark.row("U5", cases=10)
def test_progress_quotes_nothing_raw(tmp_path: Path, cases: int) -> None:
    """The bar itself moves the cursor to the start of its line and clears it; what it names cannot do more."""
    commands = []
    for case in range(cases):
        folder = tmp_path / f"texts{case}"
        folder.mkdir()
        name = payload(case).replace("\x00", "").replace("/", "|")
        rows = [json.dumps({"text": f"{payload(case)} {n}"}) for n in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
        tiny.write_recipe(folder)
        given = [f"--corpus.source={folder}", "--corpus.documents=0", "--tokenizer.vocab_size=262"]
        commands.append(["data", "prepare", f"{folder}/tiny.toml", f"--out={folder}/{name}", *given])
    sent = in_a_terminal(commands, tmp_path)
    assert sent.count("<<0>>") == cases, tiny.tail(sent)
    assert "\r\x1b[K" in sent
    assert not set(_ALLOWED.findall(sent.replace("\r\x1b[K", "")))


@pytest.mark.row("U5", cases=50)
def test_a_pipe_gets_the_text_as_it_is(
    cli: Cli, tmp_path: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str], cases: int
) -> None:
    """It is content. JSON says every character in letters, messages show it as a terminal would."""
    for case in range(cases):
        text = payload(case)
        # What may carry a NUL: a text in a file.
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"{text} {n}"}) for n in range(40)))
        code, out, err = cli("corpus", "show", "a.jsonl", "--corpus.validation", 0.5)
        assert (code, err) == (0, "")
        assert f"{text} 0".strip() in out
        code, out, err = cli("corpus", "show", "a.jsonl", "--corpus.validation", 0.5, "--json")
        assert not _ALLOWED.search(out)
        assert json.loads(out)["first"][0]["text"] == f"{text} 0"
        code, out, err = cli("run", f"{text}.toml".replace("\x00", ""))
        assert code == 2
        assert not _ALLOWED.search(err)


class _Tags(HTMLParser):
    """Names of tags and attributes of a page, and what its scripts and styles hold."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.raw = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw += data


@pytest.mark.row("U5", cases=50, nightly=200)
def test_a_report_has_no_tag_from_data(cli: Cli, tmp_path: Path, cases: int) -> None:
    """Markup in the name, the description, the prompts, the texts and the names of their files."""
    texts = tmp_path / "texts <x-evil onx=1>"
    texts.mkdir()
    payloads = [payload(case).replace("\r", "").replace("\x00", "") for case in range(cases)]
    rows = [json.dumps({"text": f"{text} {n}"}) for n, text in enumerate(payloads * 2)]
    (texts / "\"><x-evil onx='1'>.jsonl").write_text("\n".join([*rows, '{"<x-evil>": "<x-evil>"}']))
    recipe = tmp_path / "evil.toml"
    written = tiny.RECIPE.replace("context_length = 32", "context_length = 128")
    written = written.replace('["El conejo", "Había una vez"]', json.dumps(payloads[:50]))
    recipe.write_text(written.replace("the smallest run", json.dumps("".join(payloads))[1:-1]).replace("\\/", "/"))
    settings = [f"--corpus.source={texts}", "--corpus.documents=0", "--corpus.max_quarantined=0.5"]
    more = ["--tokenizer.vocab_size=262", "--train.budget=2steps", "--generate.max_new_tokens=2"]
    code, _, err = cli("run", recipe, "--name", "<x-evil onx=1>", *settings, *more)
    assert code == 0, err
    page = (tmp_path / "runs" / "<x-evil onx=1>" / "report" / "index.html").read_text(encoding="utf-8")
    assert "x-evil" in page, "it is shown"
    found = _Tags()
    found.feed(page)
    found.close()
    assert {"html", "svg", "script"} <= found.names
    assert not [name for name in found.names if "evil" in name or "onx" in name or "<" in name]
    assert "x-evil" not in re.sub(r"\\u003c|&lt;", "", found.raw) or "<x-evil" not in found.raw
    assert not _ALLOWED.search(page)
