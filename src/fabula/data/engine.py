"""Preparing data on many machines: who starts the tasks. What a task does, and what is made of it, `parts.py` knows.

The engine is datatrove (extra `data`): its executors start tasks here, on Slurm, and count which are done. It hands its
own work between processes as pickles. So it runs in a process of its own, `python -m fabula.data.engine FOLDER`, and
all that it is given of ours is the name of a folder with JSON in it: this process neither writes nor reads a pickle.

The folder, `.parts-NAME` beside the data, has the plan, the tokenizer, the parts and the engine's own records. Parts
that are there and belong to the plan are not made again, so the same command goes on where an earlier one was stopped,
and after a task that failed. When the shards are published the folder goes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from fabula import storage
from fabula.config import Data, build, setting, to_data
from fabula.corpus.run import Corpus, CorpusConfig
from fabula.errors import FabulaError, InputError, MachineError, require_extra
from fabula.progress import Progress, Silent, StopFlag, Task
from fabula.tokenizer.base import Tokenizer

PLAN = "plan.json"
_TOKENIZER = "tokenizer"
_RECORDS = "engine"
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Who starts the tasks of a preparation that is done in parts."""

    name: Literal["none", "datatrove-local", "datatrove-slurm"] = setting(
        "none", "none: this process and its workers; else tasks that each prepare some of the files (extra: data)"
    )
    tasks: int = setting(1, "into how many tasks the files are dealt; more than there are files help nothing")
    workers: int = setting(0, "tasks that run at once; 0: one for each core here, all of them on Slurm")
    time: str = setting("24:00:00", "Slurm: the most that a task may take")
    partition: str = setting("", "Slurm: where tasks are started")
    memory: int = setting(4, "Slurm: GB of memory for a task")
    setup: str = setting("", "Slurm: a command that a task begins with, as to activate an environment")

    def __post_init__(self) -> None:
        if not 1 <= self.tasks <= 100_000:
            raise ValueError(f"tasks={self.tasks} must be from 1 to 100,000")
        if not 0 <= self.workers <= 100_000:
            raise ValueError(f"workers={self.workers} must be from 0 to 100,000")
        if self.memory < 1:
            raise ValueError(f"memory={self.memory} must be at least 1")
        if self.name == "datatrove-slurm" and not self.partition:
            raise ValueError('partition="" names no partition of Slurm to start tasks in')


def prepare_parts(
    config: EngineConfig, corpus: Corpus, tokenizer: Tokenizer, work: Path, key: str, progress: Progress, stop: StopFlag
) -> None:
    """Have every part made that is not there yet; returns when all are there."""
    from fabula.data import parts

    _refuse_what_is_not_text(corpus)
    count = len(corpus.units())
    if importlib.util.find_spec("datatrove") is None:
        raise require_extra("datatrove", "data", f"data.engine {config.name}")
    left = parts.missing(work, count, key)
    if not left:
        return
    storage.make_folders(work)
    tokenizer.save(work / _TOKENIZER)
    plan = {"key": key, "corpus": to_data(corpus.config), "engine": to_data(config), "text": corpus.fingerprint()}
    storage.write_json(work / PLAN, plan)
    with progress.task("preparing parts", count, "files") as task:
        task.advance(count - len(left))
        _start_and_wait(config, work, count, key, len(left), task, stop)


def _refuse_what_is_not_text(corpus: Corpus) -> None:
    if corpus.config.pair is not None:
        raise InputError("data.engine: pairs are prepared without an engine; leave it out")
    if corpus.cleaner:
        raise InputError(
            "data.engine: text is cleaned without an engine; leave out [corpus.clean], or clean the text before"
        )


def _start_and_wait(
    config: EngineConfig, work: Path, count: int, key: str, left: int, task: Task, stop: StopFlag
) -> None:
    from fabula.data import parts

    with tempfile.TemporaryFile() as said:
        # A group of its own: with it go the processes that the engine starts.
        running = subprocess.Popen(
            [sys.executable, "-P", "-m", "fabula.data.engine", str(work)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            while left:
                stop.check("preparing parts")
                time.sleep(_LOOK_SECONDS)
                ended = running.poll()
                now = len(parts.missing(work, count, key))
                task.advance(left - now)
                left = now
                # On Slurm the process ends when the tasks are queued; they go on by themselves.
                if left and ended is not None and (ended or config.name == "datatrove-local"):
                    raise MachineError(
                        f"data.engine {config.name}: {left} of {count} parts were not made (exit code {ended}): "
                        f"{_last_words(said)}; its records lie in {work / _RECORDS}. The same command goes on with "
                        "what is there"
                    )
        finally:
            if running.poll() is None:
                _end(running)
            if running.stdin is not None:
                running.stdin.close()


def _end(running: subprocess.Popen[bytes]) -> None:
    _kill_group(running.pid)
    running.kill()
    running.wait()


def _kill_group(number: int) -> None:
    with contextlib.suppress(AttributeError, ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


def _end_with_parent() -> None:
    """Whoever kills the parent, the engine and its tasks do not stay behind: they hear the pipe between them break."""
    # Not buffered: a thread that waits there with a lock would be in the way when the process ends by itself.
    while os.read(0, 1):
        pass
    _kill_group(os.getpid())
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _last_words(said: IO[bytes]) -> str:
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


# ---- what the engine is given ------------------------------------------------------------------------------


class Parcel:
    """One step of datatrove's pipeline: called as step(data, rank, world_size). All that it holds is a path."""

    def __init__(self, work: str) -> None:
        self.work = work

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        make_parts(Path(self.work), rank, world_size)


def make_parts(work: Path, rank: int, world_size: int) -> None:
    """Make the parts of one task: every `world_size`-th unit, those that are not there yet."""
    from fabula.data import parts

    plan = storage.read_json(work / PLAN)
    corpus = Corpus(build(CorpusConfig, plan["corpus"], "corpus"))
    if corpus.fingerprint() != plan["text"]:
        raise InputError("the text is not what it was when the tasks were planned; give the command again")
    tokenizer = Tokenizer.load(work / _TOKENIZER)
    units = corpus.units()
    for number in parts.missing(work, len(units), plan["key"]):
        if number % world_size == rank:
            parts.write(units[number], tokenizer, parts.folder_of(work, number), plan["key"], Silent(), StopFlag())


def executor(plan: Data, work: Path) -> Any:
    """The executor of datatrove that a plan asks for."""
    config: EngineConfig = build(EngineConfig, plan["engine"], "data.engine")
    records = str(work / _RECORDS)
    if config.name == "datatrove-local":
        from datatrove.executor import LocalPipelineExecutor

        from fabula.data.encoding import cores

        # What is done is seen by the parts that are there, so a task is never skipped for the engine's own records.
        return LocalPipelineExecutor(
            pipeline=[Parcel(str(work))],
            tasks=config.tasks,
            workers=min(config.tasks, config.workers or cores()),
            logging_dir=records,
            skip_completed=False,
        )
    from datatrove.executor import SlurmPipelineExecutor

    return SlurmPipelineExecutor(
        pipeline=[Parcel(str(work))],
        tasks=config.tasks,
        workers=config.workers or -1,
        time=config.time,
        partition=config.partition,
        cpus_per_task=2,
        mem_per_cpu_gb=-(-config.memory // 2),
        job_name="fabula-data",
        env_command=config.setup or None,
        logging_dir=records,
        slurm_logs_folder=str(work / "slurm"),
        skip_completed=False,
    )


def main(work: Path) -> None:
    """Start the tasks of the plan in a folder; returns when they are done, or queued."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    executor(storage.read_json(work / PLAN), work).run()


if __name__ == "__main__":
    try:
        # By its name in the package, which is how other processes find what they are given.
        from fabula.data import engine

        engine.main(Path(sys.argv[1]))
    except FabulaError as error:
        raise SystemExit(str(error)) from None
