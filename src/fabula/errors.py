"""Every error a user can cause, as a tree.

    FabulaError                   exit code, one message: what, where, why, what to do
    ├── InputError            2   something given by the user is wrong; nothing was created
    │   ├── ConfigError       2   one or more problems in a recipe or an override, all listed
    │   ├── SourceError       2   a corpus that is missing, empty or unreadable
    │   └── PromptError       2   a prompt that does not fit
    ├── MachineError          3   the machine lacks something: disk, memory, a library
    │   ├── BusyError         3   another process writes here
    │   └── LostError         3   another process of the run died, hangs or left
    ├── DamagedError          4   an artefact that does not verify
    ├── DivergedError         1   training came to numbers that are not finite; nothing of it was saved
    └── Stopped         130/143   a signal asked us to stop; the work done so far is saved

Only `cli/` turns them into text and exit codes; everything else raises.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FabulaError(Exception):
    """Base of all errors that are shown to a user without a traceback."""

    exit_code = 1
    told = False  # another process of the run has told it: it is not told again


class InputError(FabulaError):
    """Something the user gave is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """One or more problems in a configuration, reported together."""

    def __init__(self, problems: Sequence[str], where: str = "") -> None:
        self.problems = list(problems)
        head = f"{where}: " if where else ""
        if len(self.problems) == 1:
            text = f"{head}{self.problems[0]}"
        else:
            text = f"{head}{len(self.problems)} problems\n" + "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(text)


class SourceError(InputError):
    """A corpus that is missing, empty, too short or unreadable."""


class PromptError(InputError):
    """A prompt that cannot be used as it is."""


class MachineError(FabulaError):
    """The machine lacks something that the work needs."""

    exit_code = 3


class BusyError(MachineError):
    """Another process writes in the same place."""


class LostError(MachineError):
    """Another process of the same run died, hangs or has left."""


class DivergedError(FabulaError):
    """Training came to numbers that are not finite, again and again."""


class DamagedError(FabulaError):
    """An artefact on disk that does not verify."""

    exit_code = 4


class Stopped(FabulaError):
    """A signal asked the work to stop; what was done is saved."""

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause for error messages: the closest valid name if one is close, else all of them.

    >>> nearest("corups", ["corpus", "data"])
    'did you mean "corpus"?'
    >>> nearest("zzz", ["corpus", "data"])
    'valid: corpus, data'
    """
    names = list(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f'did you mean "{close[0]}"?'
    return "valid: " + ", ".join(names) if names else "nothing is registered"


def require_extra(module: str, extra: str, purpose: str) -> MachineError:
    """The error to raise when an optional library is missing."""
    return MachineError(f"{purpose} needs the library {module}; install it with: pip install 'fabula[{extra}]'")
