#!/usr/bin/env python3
"""Set up .venv for this repository: torch first, then the hashed lock, then fabula itself.

    python3 bootstrap.py

Needs Python 3.11 or newer and nothing else. Run it as often as you like: when nothing changed it returns at
once, after an interruption it carries on. FABULA_TORCH chooses where torch comes from: the address of a
package index (say, one with CPU-only builds, or with builds for an older driver) or a folder with wheels.
"""

import sys

PYTHON_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
if sys.version_info < (3, 11):  # noqa: UP036  (this file alone must be readable by an older Python, to say so)
    sys.exit(
        f"bootstrap: fabula needs Python 3.11 or newer, this is {PYTHON_VERSION}.\n"
        "           Name a newer one: make setup PYTHON=python3.11   (or: python3.11 bootstrap.py)"
    )

import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402

ROOT = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(ROOT, ".venv")
WINDOWS = os.name == "nt"
PYTHON = os.path.join(VENV, "Scripts", "python.exe") if WINDOWS else os.path.join(VENV, "bin", "python")
STATE = os.path.join(VENV, "fabula-setup.json")


class Failure(Exception):
    """A step failed; the message says which and what to do next."""


def main() -> int:
    """Bring .venv up to date; return the exit code: 0 done, 3 a step failed, 130 interrupted."""
    try:
        state = read_state()
        stamp = wanted_stamp()
        if is_current(state, stamp):
            return 0
        with only_one():
            state = read_state()  # another set-up may have finished while this one waited
            if not is_current(state, stamp):
                set_up(state, stamp)
    except Failure as failure:
        say(f"failed: {failure}", sys.stderr)
        return 3
    except KeyboardInterrupt:
        say("interrupted; run it again and it carries on", sys.stderr)
        return 130
    return 0


def set_up(state: dict, stamp: str) -> None:
    """Every step in order; the stamp comes last, so a half-finished set-up is never taken for a whole one."""
    import time

    started = time.monotonic()
    state.pop("stamp", None)
    if not usable_venv(state):
        state = {"root": ROOT, "python": PYTHON_VERSION}
        create_venv()
    write_state(state)
    drop_half_installed()

    source = os.environ.get("FABULA_TORCH", "")
    torch = torch_requirement()
    if not torch_is_there(torch) or (source and state.get("torch_source") != digest(source)):
        install_torch(torch, source, replace=torch_is_there(torch))
        state["torch_source"] = digest(source)
        write_state(state)
    else:
        say(f"{torch} is there")

    say("installing the packages of requirements.lock, each checked against its hash")
    code, errors = pip("install", "--quiet", "--no-deps", "--require-hashes", "-r", "requirements.lock")
    if code and "DO NOT MATCH THE HASHES" in errors:
        raise Failure(
            "a downloaded package is not the one in requirements.lock (see above) and was not installed. "
            "Restore the lock with git, empty pip's cache (pip cache purge) and try again; if it recurs, "
            "do not trust the place the packages come from."
        )
    if code:
        raise Failure(
            "pip could not install requirements.lock (its message is above). Look at the network, the free "
            "disk space and pip's own configuration (pip config list), then run this again: it carries on."
        )

    say("installing fabula itself, as an editable package")
    code, _ = pip("install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    if code:
        raise Failure("pip could not install fabula (its message is above); is pyproject.toml in order?")

    say("checking that all packages fit together")
    code, _ = pip("check")
    if code:
        raise Failure(
            "the packages in .venv contradict each other (see above). If you added some by hand, remove them "
            "or start afresh: make clean-venv, then make setup."
        )
    state["stamp"] = stamp
    write_state(state)
    command = os.path.join(".venv", "Scripts" if WINDOWS else "bin", "fabula")
    say(f"done in {time.monotonic() - started:.0f} s; the command is {command}")


# ---- when is everything up to date? ------------------------------------------------------------------------


def wanted_stamp() -> str:
    """SHA-256 over what decides about .venv: lock, pyproject, torch, Python, the repository's place."""
    total = hashlib.sha256()
    for part in (read("requirements.lock"), read("pyproject.toml")):
        total.update(hashlib.sha256(part).digest())
    for text in (torch_requirement(), PYTHON_VERSION, ROOT):
        total.update(hashlib.sha256(text.encode()).digest())
    return total.hexdigest()


def is_current(state: dict, stamp: str) -> bool:
    """Does .venv hold what the stamp says, with a Python and a torch that are still there?"""
    source = os.environ.get("FABULA_TORCH", "")
    return (
        state.get("stamp") == stamp
        and (not source or state.get("torch_source") == digest(source))
        and os.path.exists(PYTHON)
        and torch_is_there(torch_requirement())
    )


def read_state() -> dict:
    """What the last set-up wrote about .venv; empty when there is nothing, or nothing readable."""
    try:
        with open(STATE, encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(state: dict) -> None:
    temporary = STATE + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(state, file, indent=1)
    os.replace(temporary, STATE)


def torch_requirement() -> str:
    """The line `torch==X.Y.Z` of constraints.txt."""
    for line in read("constraints.txt").decode().splitlines():
        if line.startswith("torch=="):
            return line.strip()
    raise Failure("constraints.txt has no line torch==...; restore it with git")


def torch_is_there(requirement: str) -> bool:
    """Is that version in .venv, in whichever build (2.13.0, 2.13.0+cpu, ...)? Reads folder names only."""
    version = requirement.partition("==")[2]
    names = (f"torch-{version}.dist-info", f"torch-{version}+")
    try:
        entries = os.listdir(site_packages())
    except OSError:
        return False
    return "torch" in entries and any(entry.startswith(names) for entry in entries)


def site_packages() -> str:
    """The folder of .venv that pip installs into."""
    if WINDOWS:
        return os.path.join(VENV, "Lib", "site-packages")
    return os.path.join(VENV, "lib", f"python{PYTHON_VERSION}", "site-packages")


# ---- the steps ---------------------------------------------------------------------------------------------


def usable_venv(state: dict) -> bool:
    """Can .venv be kept? Says why when it cannot."""
    if not os.path.isdir(VENV):
        return False
    if not os.path.exists(os.path.join(VENV, "pyvenv.cfg")) and os.listdir(VENV):
        raise Failure(f"{VENV} is in the way and is no virtual environment: move it or delete it, then try again")
    if state.get("root", ROOT) != ROOT:
        say("the repository was moved since .venv was made: making a new one")
        return False
    import subprocess

    probe = "import sys, pip; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    try:
        found = subprocess.run([PYTHON, "-I", "-c", probe], capture_output=True, text=True).stdout.strip()
    except OSError:
        found = ""
    if found == PYTHON_VERSION:
        return True
    if found:
        say(f"the old .venv has Python {found}, this is {PYTHON_VERSION}: making a new one")
    else:
        say("the old .venv has no working Python and pip: making a new one")
    return False


def create_venv() -> None:
    say(f"making .venv with Python {PYTHON_VERSION}")
    # The base interpreter, because this script may itself run in the environment that is replaced.
    python = getattr(sys, "_base_executable", None) or sys.executable
    code, _ = call([python, "-I", "-m", "venv", "--clear", VENV])
    if code or not os.path.exists(PYTHON):
        raise Failure(
            "could not make .venv (see above). On Debian and Ubuntu, install python3-venv, a part of Python "
            "with a package of its own. Otherwise look at the free disk space and the rights on this folder."
        )


def drop_half_installed() -> None:
    """Forget packages that an interrupted pip left behind: it takes their metadata for an installed package.

    pip writes the file INSTALLER after all others; what lies around without it is written again.
    """
    import shutil

    folder = site_packages()
    for entry in os.listdir(folder):
        path = os.path.join(folder, entry)
        if entry.endswith(".dist-info") and not os.path.exists(os.path.join(path, "INSTALLER")):
            say(f"{entry.removesuffix('.dist-info')} was only half installed: it comes again")
            shutil.rmtree(path)


def install_torch(requirement: str, source: str, replace: bool) -> None:
    arguments = ["install", "--force-reinstall"] if replace else ["install"]
    if source:
        if "://" in source:
            arguments += ["--index-url", source]
        elif os.path.isdir(source):
            arguments += ["--find-links", os.path.abspath(source)]
        else:
            raise Failure("FABULA_TORCH must be the address of a package index (https://...) or a folder with wheels")
        say(f"installing {requirement} from FABULA_TORCH (the largest download)")
    else:
        say(f"installing {requirement} (the largest download: some GB where it is a CUDA build)")
        say("  to choose another build, stop and set FABULA_TORCH to the address of an index that has it")
    code, errors = pip(*arguments, requirement)
    if not code:
        return
    if "No matching distribution" in errors or "Could not find a version" in errors:
        where = "the index in FABULA_TORCH has" if source else "the package index that pip uses here has"
        raise Failure(
            f"{where} no {requirement} for Python {PYTHON_VERSION} on this system. Set FABULA_TORCH to the "
            "address of a package index that has it (PyTorch's own installation page lists one for CPU and "
            "one for each CUDA version) or to a folder with its wheel:\n    FABULA_TORCH=ADDRESS make setup"
        )
    raise Failure(
        f"pip could not install {requirement} (its message is above). Look at the network and the free disk "
        "space (a CUDA build needs about 10 GB), then run this again: it carries on."
    )


def pip(*arguments: str) -> tuple[int, str]:
    """Run the pip of .venv in the repository; return exit code and stderr, which is shown as well."""
    return call([PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", *arguments])


def call(command: list[str]) -> tuple[int, str]:
    """Run a command, pass its output on as it comes; return exit code and stderr."""
    import subprocess

    lines = []
    try:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        return 1, str(error)
    with process:
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                lines.append(line)
        except KeyboardInterrupt:
            process.terminate()
            raise
    return process.returncode, "".join(lines)


class only_one:
    """While one set-up runs, a second one in the same repository waits (where the system has flock)."""

    def __enter__(self) -> None:
        # This very file serves as the lock: it always exists, and it is only read.
        self.file = open(os.path.abspath(__file__), encoding="utf-8")
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work here: waiting for it")
            fcntl.flock(self.file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass

    def __exit__(self, *_: object) -> None:
        self.file.close()


# ---- small things ------------------------------------------------------------------------------------------


def read(name: str) -> bytes:
    try:
        with open(os.path.join(ROOT, name), "rb") as file:
            return file.read()
    except OSError as error:
        raise Failure(f"cannot read {name} ({error.strerror}); restore it with git") from None


def digest(text: str) -> str:
    """The source of torch is kept as a hash: an address may carry a password."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def say(text: str, stream=None) -> None:
    print(f"bootstrap: {text}", file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
