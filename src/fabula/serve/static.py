"""Which files does the server give out? Those of `web/`, listed when it starts: a request picks from a table."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
_MOST = 4 << 20


def table(folder: Path = FOLDER) -> dict[str, tuple[bytes, str]]:
    """The path of each file under which it is asked for, with its bytes and type; `/` is index.html."""
    made = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        kind = _TYPES.get(path.suffix)
        if kind is not None and path.is_file() and not path.is_symlink() and path.stat().st_size <= _MOST:
            name = "/" + path.relative_to(folder).as_posix()
            made["/" if name == "/index.html" else name] = (path.read_bytes(), kind)
    return made
