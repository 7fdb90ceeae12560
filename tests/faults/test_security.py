"""Rows X1 to X3: nothing is unpickled, no code of a folder is run, no other machine is spoken to.

tests/audit watches the whole test suite and every command that a test starts. Here it is shown that it would see.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.audit import watching


def child(program: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        env=tiny.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


# ---- X1 ----------------------------------------------------------------------------------------------------

_THING = r"b'cbuiltins\nprint\n(S\'run\'\ntR.'"
_UNPICKLINGS = [
    f"import pickle; pickle.loads({_THING})",
    f"import pickle; pickle._loads({_THING})",
    f"import pickle\ntry:\n    pickle.loads({_THING})\nexcept BaseException:\n    pass",
    f"import io, pickle; pickle.Unpickler(io.BytesIO({_THING})).load()",
    f"import os, pickle, sys\nif not os.fork():\n    pickle.loads({_THING})\nsys.exit(os.WEXITSTATUS(os.wait()[1]))",
    f"import threading, pickle; t = threading.Thread(target=pickle.loads, args=({_THING},)); t.start(); t.join()",
    "import numpy as np, io; f = io.BytesIO(); np.save(f, np.array([print], object)); f.seek(0); "
    "np.load(f, allow_pickle=True)",
    "import torch, io; f = io.BytesIO(); torch.save({'a': print}, f); f.seek(0); torch.load(f, weights_only=False)",
]


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
@pytest.mark.row("X1", cases=8)
def test_an_unpickling_in_a_command_is_seen(cases: int) -> None:
    for case in range(cases):
        made = child(_UNPICKLINGS[case])
        assert made.returncode == watching.EXIT, (case, made.stderr)
        assert "was unpickled" in made.stderr
        assert "run" not in made.stdout


def test_workers_of_python_may_speak_to_each_other(tmp_path: Path) -> None:
    """The one exception; a pickle out of a file is seen in a worker as well."""
    program = tmp_path / "work.py"
    program.write_text(f"""
import concurrent.futures, multiprocessing, pickle, sys
def load(raw): return pickle.loads(raw)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(1) as pool:
        assert pool.map(abs, [-1, complex(3, 4)]) == [1, 5.0]
    with concurrent.futures.ProcessPoolExecutor(1, context) as workers:
        assert workers.submit(complex, 3, 4).result() == complex(3, 4)
        print("fine", flush=True)
        workers.submit(load, {_THING}).result()
""")
    for method in ("fork", "spawn") if sys.platform != "win32" else ("spawn",):
        made = subprocess.run(
            [sys.executable, program, method],
            env=tiny.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert made.stdout == "fine\n", made.stderr
        assert "tests/audit: builtins.print was unpickled in" in made.stderr
        assert made.returncode != 0


@pytest.mark.row("X1", cases=3)
def test_an_unpickling_in_a_test_is_seen(cases: int) -> None:
    import torch

    planted: list[Callable[[], object]] = [
        lambda: pickle.loads(pickle.dumps(print)),
        lambda: torch.load("none"),
        lambda: torch.serialization.load("none", weights_only=True),
    ]
    for case in range(cases):
        with pytest.raises(watching.Forbidden):
            planted[case]()
        assert len(watching.seen) == 1
        with pytest.raises(watching.Forbidden):
            watching.fail_if_seen()
        assert not watching.seen


# ---- X3 ----------------------------------------------------------------------------------------------------

_CALLS_OUT = [
    "import socket; socket.socket().connect(('192.0.2.1', 9))",
    "import socket; socket.create_connection(('192.0.2.1', 9), 1)",
    "import socket; socket.getaddrinfo('example.org', 80)",
    "import urllib.request; urllib.request.urlopen('https://example.org')",
    "import socket; socket.socket().bind(('0.0.0.0', 0))",
    "import socket; socket.socket().bind(('', 0))",
    "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 9))",
]


@pytest.mark.row("X3", cases=8)
def test_a_call_to_another_machine_is_seen(cases: int) -> None:
    for case in range(cases):
        made = child(f"try:\n    {_CALLS_OUT[case]}\nexcept Exception:\n    pass")
        assert made.returncode == watching.EXIT, (case, made.stderr)
        assert "tests/audit: socket." in made.stderr


def test_this_machine_may_speak_to_itself() -> None:
    made = child(
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n"
        "c = socket.create_connection(('localhost', s.getsockname()[1]), 5); socket.socketpair(); print('fine')"
    )
    assert made.stdout == "fine\n", made.stderr


@pytest.mark.row("X3", cases=7)
def test_no_command_calls_out(tmp_path: Path, tiny_run: Path, cases: int) -> None:
    """Every kind of command in a watched process; the rest of the test suite is watched as well."""
    recipe = tiny.write_recipe(tmp_path)
    commands: list[list[object]] = [
        ["run", recipe, "--train.budget", "2steps"],
        ["generate", tiny_run, "--prompt", "https://example.org/", "--max-new-tokens", 2],
        ["corpus", "show", "https://example.org/texts.txt"],
        ["tokenizer", "train", "fables:es", "--corpus.documents", 60, "--vocab-size", 300, "--out", tmp_path / "t"],
        ["evaluate", "hf://some/model"],
        ["run", "https://example.org/recipe.toml"],
        ["--help"],
    ]
    for case in range(cases):
        made = tiny.call(*commands[case], cwd=tmp_path)
        assert made.returncode in (0, 2), (commands[case], tiny.tail(made.stderr))
        assert b"tests/audit" not in made.stderr


# ---- X2 ----------------------------------------------------------------------------------------------------

_BAIT_NAMES = [
    *("torch.py", "numpy.py", "tokenizers.py", "safetensors.py", "json.py", "re.py", "random.py", "cyclopts.py"),
    *("sitecustomize.py", "usercustomize.py", "conftest.py", "__init__.py", "setup.py", "evil.pth", "modeling.py"),
    *("model.py", "config.py", "tokenizer.py", "tokenization.py", "dataset.py", "data.py", "train.py", "handler.py"),
]


class _Bait:
    """Unpickled, it would write the sentinel."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> object:
        return Path.write_text, (self.sentinel, "run")


def set_baits(folder: Path, sentinel: Path) -> None:
    """Code of every kind that somebody's loader would run."""
    code = f"open({str(sentinel)!r}, 'w').write('run')\n"
    for name in _BAIT_NAMES:
        (folder / name).write_text(f"import os; {code}" if name.endswith(".pth") else code)
    for name in ("torch", "rich"):
        (folder / f"{name}_package").mkdir()
        (folder / f"{name}_package" / "__init__.py").write_text(code)
    for name in ("pytorch_model.bin", "model.pt", "optimizer.pkl", "data.npy", "cache.joblib"):
        (folder / name).write_bytes(pickle.dumps(_Bait(sentinel)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}, "chat_template": "{{ 7*7 }}"})
    )


def reseal(folder: Path) -> None:
    """Make the manifest agree with the files, as whoever made the folder could have."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        raw = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    path.write_text(json.dumps(manifest))


def hostile_folder(case: int, folder: Path, tiny_run: Path, sentinel: Path) -> tuple[list[object], set[int]]:
    """Build the folder; the command that is given it, and the exit codes that it may have."""
    run = Path(shutil.copytree(tiny_run, folder / "run"))
    steps = sorted((run / "checkpoints").iterdir())
    evil = pickle.dumps(_Bait(sentinel))
    for place in (folder, run, *steps, run / "tokenizer", run / "data"):
        set_baits(place, sentinel)
    if case == 0:  # a model's folder with code beside the weights, and a config that asks for it
        config = json.loads((steps[-1] / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
        (steps[-1] / "config.json").write_text(json.dumps(config))
        reseal(steps[-1])
        return ["generate", steps[-1], "--max-new-tokens", 2], {2, 4}
    if case == 1:  # a pickle in the place of the weights
        for step in steps:
            (step / "model.safetensors").write_bytes(evil)
            reseal(step)
        return ["generate", run], {4}
    if case == 2:  # pickles in the place of everything in a checkpoint
        for step in steps:
            for path in step.iterdir():
                if path.is_file() and path.name != "manifest.json":
                    path.write_bytes(evil)
            reseal(step)
        return ["resume", run], {4}
    if case == 3:  # texts with the script that would load them
        texts = folder / "texts"
        texts.mkdir()
        set_baits(texts, sentinel)
        (texts / "texts.py").write_text((folder / "torch.py").read_text())
        (texts / "a.jsonl").write_text("".join(json.dumps({"text": f"cuento {n}"}) + "\n" for n in range(90)))
        return ["corpus", "show", texts, "--corpus.max_quarantined", 0.1], {0}
    if case == 4:  # a recipe among code, and run from there
        tiny.write_recipe(folder)
        return ["run", "tiny.toml", "--train.budget", "2steps"], {0}
    if case == 5:  # a tokenizer that is a pickle
        (run / "tokenizer" / "tokenizer.json").write_bytes(evil)
        return ["tokenizer", "view", run / "tokenizer", "hola"], {4}
    if case == 6:  # shards that are pickles
        for path in (run / "data").glob("*-*.*"):
            path.write_bytes(evil + b"\0" * (len(evil) % 8))
        reseal(run / "data")
        return ["data", "show", run], {0, 2, 4}
    if case == 7:  # templates beside a run
        for place in (folder, run, run / "report"):
            (place / "page.html.j2").write_text("{{ cycler.__init__.__globals__.os.system('echo') }}")
        return ["report", run], {0}
    if case == 8:  # nothing but a pickle
        shutil.rmtree(run)
        return ["evaluate", folder], {2, 4}
    # everything is right, but for the code around it
    return ["generate", run, "--prompt", "El", "--max-new-tokens", 2], {0}


@pytest.mark.row("X2", cases=10)
def test_code_in_a_folder_is_never_run(tmp_path: Path, tiny_run: Path, cases: int) -> None:
    """Each folder is given to a command that is started in it, as `fabula` and as `python -m fabula` by turns."""
    sentinel = tmp_path / "sentinel"
    script = Path(sys.executable).with_name("fabula.exe" if sys.platform == "win32" else "fabula")
    assert script.exists()
    for case in range(cases):
        folder = tmp_path / f"evil{case}"
        folder.mkdir()
        arguments, codes = hostile_folder(case, folder, tiny_run, sentinel)
        words = [str(script)] if case % 3 else [sys.executable, "-m", "fabula"]
        made = subprocess.run(
            [*words, *map(str, arguments)], cwd=folder, env=tiny.environment(), capture_output=True, check=False
        )
        assert not sentinel.exists(), case
        assert made.returncode in codes, (case, tiny.tail(made.stderr))
        assert b"Traceback" not in made.stderr
        assert b"fault of fabula" not in made.stderr


def test_the_baits_would_be_taken(tmp_path: Path) -> None:
    """The sentinel appears where somebody does import from the working directory, or unpickles."""
    for program in ("import torch", "import tokenization", "import pickle; pickle.load(open('model.pt', 'rb'))"):
        folder = tmp_path / hashlib.sha256(program.encode()).hexdigest()[:8]
        folder.mkdir()
        set_baits(folder, folder / "sentinel")
        env = {k: v for k, v in tiny.environment().items() if k != "PYTHONPATH"}
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, check=False)
        assert (folder / "sentinel").exists(), program
