"""Fabula: from a folder of text to a small language model that is trained, measured, explained and served.

Importing this package is cheap: torch is imported when the first name that needs it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fabula.language_model import LanguageModel, load
    from fabula.pipeline import run

_HOMES = {
    "LanguageModel": "fabula.language_model",
    "load": "fabula.language_model",
    "run": "fabula.pipeline",
}

__all__ = ["LanguageModel", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fabula' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
