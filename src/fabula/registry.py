"""`Registry`: from a name to a variant, lazily, with did-you-mean on a miss.

A variant registers itself with a decorator beside its class, or is named by an import string ("module:Name") when
importing it is costly. Registries are plain tables: listing one imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar, cast

from fabula.errors import InputError, nearest

T = TypeVar("T")
C = TypeVar("C")


class Registry(Generic[T]):
    """A table of named variants of one kind.

    >>> shapes: Registry[type] = Registry("shape")
    >>> @shapes.register("circle")
    ... class Circle: ...
    >>> shapes.get("circle").__name__
    'Circle'
    >>> shapes.get("cirle")
    Traceback (most recent call last):
    fabula.errors.InputError: unknown shape "cirle": did you mean "circle"?
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T | str] = {}
        self._names: dict[int, str] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that enters its object under `name`."""

        def enter(item: C) -> C:
            self.add(name, cast(T, item))
            return item

        return enter

    def add(self, name: str, item: T | str) -> None:
        """Enter an object, or an import string "module:Name" that is resolved on first use."""
        if name in self._entries:
            raise ValueError(f"{self.noun} {name!r} is registered twice")
        self._entries[name] = item
        if not isinstance(item, str):
            self._names[id(item)] = name

    def get(self, name: str) -> T:
        """The variant called `name`; InputError with the nearest name otherwise."""
        if name not in self._entries:
            raise InputError(f'unknown {self.noun} "{name}": {nearest(name, self._entries)}')
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            resolved = cast(T, getattr(importlib.import_module(module), attribute))
            self._entries[name] = resolved
            self._names[id(resolved)] = name
            return resolved
        return entry

    def name_of(self, item: object) -> str:
        """The name under which an object was entered."""
        return self._names[id(item)]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
