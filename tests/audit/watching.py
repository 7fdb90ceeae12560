"""Watch a process for what Fabula never does: make objects out of a pickle, and speak to another machine.

An audit hook (PEP 578) sees both wherever they happen, in our code or in a library's. It raises, so that nothing comes
of it, and keeps what it saw, so that a swallowed exception does not hide it. Python offers no way to take a hook out
again. Nothing is imported here that a starting interpreter does not have already.

The exception is Python's own: `multiprocessing` and `concurrent.futures` speak to their workers in pickles, through
pipes that they made themselves. Those are let through by the function that reads them, and nothing else is.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# A process that did it ends with this code.
EXIT = 97

_WORKER_PIPES = {
    ("multiprocessing/connection.py", "recv"),
    ("multiprocessing/queues.py", "get"),
    ("multiprocessing/spawn.py", "_main"),
    ("multiprocessing/forkserver.py", "main"),
    ("concurrent/futures/process.py", "_process_worker"),
}
_CALLS = {"socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}

seen: list[str] = []
_home = 0
_dies = False


class Forbidden(RuntimeError):
    """Something was unpickled, or another machine was called."""


def install(dies: bool = False) -> None:
    """Watch this process from now on. With `dies` it ends at once, with a message and exit code 97."""
    global _home, _dies
    if not _home:
        _home, _dies = os.getpid(), dies
        sys.addaudithook(_watch)


def fail_if_seen() -> None:
    """Raise what was seen since the last time."""
    if seen:
        found = "\n".join(seen)
        seen.clear()
        raise Forbidden(found)


def no_torch_load(*arguments: Any, **settings: Any) -> Any:
    """What stands where `torch.load` stood."""
    seen.append(f"torch.load{arguments!r:.200}")
    raise Forbidden(seen[-1])


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        where, function = _caller()
        if (where, function) in _WORKER_PIPES:
            return
        _refuse(f"{'.'.join(map(str, arguments))} was unpickled in {where}, {function}")
    elif event in _CALLS:
        if not _stays_here(arguments[1] if len(arguments) > 1 else None):
            _refuse(f"{event} to {arguments[1]!r}")
    elif event in _LOOKUPS and not _is_loopback(arguments[0]):
        _refuse(f"{event} of {arguments[0]!r}")


def _refuse(what: str) -> None:
    seen.append(what)
    # A forked child keeps its own list, which nobody would look at.
    if _dies or os.getpid() != _home:
        os.write(2, f"tests/audit: {what}\n".encode("utf-8", "backslashreplace"))
        os._exit(EXIT)
    raise Forbidden(what)


def _caller() -> tuple[str, str]:
    """The last two parts of the file, and the function, that asked for an unpickling."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.endswith(("/pickle.py", "\\pickle.py")):
        frame = frame.f_back
    parts = frame.f_code.co_filename.replace("\\", "/").split("/")
    length = 3 if "concurrent" in parts[-3:] else 2
    return "/".join(parts[-length:]), frame.f_code.co_name


def _stays_here(address: Any) -> bool:
    """Whether an address is a socket of this machine: a path (Unix), numbers (netlink), or the loopback."""
    return not isinstance(address, tuple) or not isinstance(address[0], (str, bytes)) or _is_loopback(address[0])


def _is_loopback(host: Any) -> bool:
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    return name in ("localhost", "::1") or name.startswith("127.")
