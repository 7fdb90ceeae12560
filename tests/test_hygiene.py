"""What the code must not contain: pickle in any shape, code from data, and writing outside of storage."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fabula

PACKAGE = Path(fabula.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Who else opens files for writing, and why.
WRITERS = {
    "storage/disk.py": "the room that writes artefacts",
    "storage/files.py": "the room that writes artefacts",
    "storage/folders.py": "the room that writes artefacts",
    "storage/lock.py": "the room that writes artefacts",
    "data/shards.py": "streams ids into a folder that storage publishes",
}

# Modules that make objects, or code, out of bytes.
PICKLERS = {"pickle", "_pickle", "cPickle", "pickletools", "copyreg", "dill", "cloudpickle", "joblib", "jsonpickle"}
PICKLERS |= {"shelve", "marshal", "yaml", "ruamel", "pandas", "zipimport", "runpy", "code", "codeop"}

# Functions that unpickle, or that run what they are given.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "tempfile.mktemp"}
FORBIDDEN |= {
    "torch.load",
    "torch.save",
    "torch.serialization.load",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package",
}
FORBIDDEN |= {f"{np}.{name}" for np in ("np", "numpy") for name in ("load", "save", "savez", "savez_compressed")}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file with its dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_pickle_and_no_code_from_data(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] not in PICKLERS, name
        if isinstance(node, ast.keyword):
            assert node.arg not in {"allow_pickle", "weights_only", "shell"}, f"{path}:{node.value.lineno}"
    for name, node in calls(path):
        place = f"{path}:{node.lineno}: {name}"
        assert name not in FORBIDDEN, place
        if name.rsplit(".", 1)[-1] in {"fromfile", "frombuffer", "memmap"}:
            # Bytes of a given number type; "O" would be addresses of objects.
            given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "dtype")]
            types = [ast.unparse(value) for value in given]
            assert types, f"{place}: say the dtype"
            assert not any(t.strip("\"'|<>=") in {"O", "object"} for t in types), place


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_only_storage_writes(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() in WRITERS:
        return
    for name, node in calls(path):
        last = name.rsplit(".", 1)[-1]
        place = f"{path}:{node.lineno}: {ast.unparse(node)[:80]}"
        assert last not in {"write_text", "write_bytes"} or name.startswith("storage."), place
        assert last not in {"rmtree", "unlink", "rename", "replace_file", "savetxt", "tofile", "memmap_write"}, place
        if last == "open":
            modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
            assert not any(isinstance(m, str) and set(m) & set("wax+") and len(m) <= 3 for m in modes), place


def test_only_the_command_line_prints_and_exits() -> None:
    for path in SOURCES:
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        for name, node in calls(path):
            assert name not in {"print", "sys.exit", "exit", "quit", "os._exit", "input"}, f"{path}:{node.lineno}"
