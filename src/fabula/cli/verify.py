"""`fabula verify`: is everything on the disk what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fabula.cli import console
from fabula.cli.recipes import Json
from fabula.errors import DamagedError

Anything = Annotated[Path, Parameter(help="a run, checkpoint, data, tokenizer or exported folder")]


def verify(path: Anything, /, *, json: Json = False) -> None:
    """Hash everything of a run, a checkpoint or shards and compare it with what was written; exit 4 if it differs."""
    from fabula import verify as stage

    folders = stage.folders_to_examine(path)
    total = sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())
    with console.Watcher().task("verifying", total, "bytes") as task:
        found = list(stage.examine(path, task.advance))
    problems = [f for f in found if f.problem is not None]
    sound = [f for f in found if f.problem is None]
    if json:
        console.out_json(
            {
                "path": str(path),
                "sound": [{"folder": str(f.path), "bytes": f.bytes} for f in sound],
                "problems": [{"path": str(f.path), "problem": f.problem} for f in problems],
            }
        )
    else:
        console.out(console.table([(str(f.path), f.problem or console.n_bytes(f.bytes)) for f in found]))
    if problems:
        names = ", ".join(sorted({f.path.name for f in problems}))
        raise DamagedError(f"{path}: {len(problems)} of its files are not what was written (in {names})")
    if not json:
        console.out(f"all {console.n_bytes(sum(f.bytes for f in sound))} are as they were written")
