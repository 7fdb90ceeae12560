"""Named points at which a fault can be made to happen, to prove that nothing is lost when it does. Off in normal use.

Only `cli` arms them, from the variable FABULA_FAULTS of the environment; tests may do it in their own process:

    FABULA_FAULTS="folder.renamed=kill"              die (SIGKILL) when the point is passed for the first time
    FABULA_FAULTS="train.step=kill@7"                ... for the seventh time
    FABULA_FAULTS="train.evaluating=signal:SIGTERM"  send this process a signal
    FABULA_FAULTS="train.step=sleep:0.2@*"           wait, every time
    FABULA_FAULTS="file.written=error:ENOSPC"        fail as the system would
    FABULA_FAULTS="POINT=...,POINT=..."              several

A point that is off costs a look into an empty dictionary.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass

from fabula.errors import InputError, nearest

# Every point there is and what has just happened when it is passed.
POINTS = {
    "file.begun": "a file is about to be written under its temporary name",
    "file.written": "its bytes were given to the system",
    "file.synced": "its bytes are on the disk",
    "file.renamed": "it has its final name",
    "file.published": "its final name is on the disk",
    "folder.begun": "a folder was made under its temporary name",
    "folder.filled": "its files were written",
    "folder.synced": "one of its files is on the disk",
    "folder.described": "its manifest is on the disk",
    "folder.sealed": "its names are on the disk",
    "folder.aside": "an older folder of that name stepped aside",
    "folder.renamed": "it has its final name",
    "folder.published": "its final name is on the disk",
    "folder.removing": "a folder that goes has lost its name",
    "folder.removed": "a folder that goes is gone",
    "line.appended": "a line was appended to a file",
    "checkpoint.weights": "the weights were written",
    "checkpoint.trainer": "the trainer's counters were written",
    "checkpoint.optimizer": "the optimizer's tensors were written",
    "checkpoint.saved": "the checkpoint is durable; older ones are about to go",
    "checkpoint.pruned": "older checkpoints are gone",
    "tokenizer.learning": "a text was given to the tokenizer's training",
    "data.encoded": "a batch of documents was tokenized",
    "data.kept": "the shards so far and their account are on the disk",
    "data.finished": "all documents are in the shards, which have no manifest yet",
    "train.measuring": "the machine is about to be measured",
    "train.compiling": "a trial of compiling was looked at, twenty times a second",
    "train.started": "everything is built; the first step comes",
    "train.waiting": "the next batch is asked for",
    "train.step": "an optimizer step was taken",
    "train.evaluating": "a batch of validation rows was scored",
    "train.sampling": "a token of a sample was drawn",
    "train.saving": "a checkpoint is about to be saved",
    "train.finished": "the last step was taken, and all that belongs to it",
    "evaluate.scoring": "a batch of documents was scored",
}


@dataclass(slots=True)
class _Planned:
    action: str
    at: int  # the passing at which it happens; 0: every one
    passed: int = 0


_planned: dict[str, _Planned] = {}


def arm(text: str) -> None:
    """Plan the faults that a text describes, in place of those planned before; InputError when it makes no sense."""
    _planned.clear()
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, rest = part.partition("=")
        action, _, at = rest.partition("@")
        if name not in POINTS:
            raise InputError(f'FABULA_FAULTS: no point "{name}": {nearest(name, POINTS)}')
        kind, _, detail = action.partition(":")
        sound = {
            "kill": not detail,
            "signal": hasattr(signal, detail),
            "sleep": detail.replace(".", "", 1).isdigit(),
            "error": hasattr(errno, detail),
        }.get(kind, False)
        if not sound or not (at in ("", "*") or at.isdigit()):
            raise InputError(f'FABULA_FAULTS: "{part}" is not POINT=ACTION[@N]; see fabula/faults.py')
        _planned[name] = _Planned(action, 0 if at == "*" else int(at or 1))


def point(name: str) -> None:
    """Pass a point: nothing happens unless a fault was planned for it."""
    if _planned and name in _planned:
        _happen(_planned[name])


def _happen(planned: _Planned) -> None:
    planned.passed += 1
    if planned.at not in (0, planned.passed):
        return
    kind, _, detail = planned.action.partition(":")
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # death comes before this returns
    elif kind == "signal":
        os.kill(os.getpid(), getattr(signal, detail))
    elif kind == "sleep":
        time.sleep(float(detail))
    else:
        number = getattr(errno, detail)
        raise OSError(number, os.strerror(number))
