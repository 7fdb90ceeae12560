"""How far back does a layer see? Full attention, a sliding window, or blocks (arXiv:1904.10509, arXiv:2004.05150).

A span is a distance for each token: how many tokens before it are still seen. It is counted inside a document, so a
packed document sees what it would see alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fabula.config import setting
from fabula.registry import Registry

spans: Registry[type[SpanConfig]] = Registry("span")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanConfig:
    """What every span answers."""

    variants: ClassVar[Registry[type[SpanConfig]]] = spans

    def most(self) -> int | None:
        """The farthest that any token looks back, in tokens; None: to the beginning."""
        raise NotImplementedError

    def reach(self, positions: Tensor) -> Tensor | None:
        """How far each token looks back, of the shape of `positions`; None: each as far as `most`."""
        return None


@spans.register("full")
@dataclass(frozen=True, kw_only=True, slots=True)
class Full(SpanConfig):
    """Every token back to the beginning."""

    def most(self) -> int | None:
        return None


@spans.register("sliding")
@dataclass(frozen=True, kw_only=True, slots=True)
class Sliding(SpanConfig):
    """The last `window` tokens, the token itself among them (Mistral, arXiv:2310.06825; Gemma 2 and 3)."""

    window: int = setting(doc="tokens that are seen, the token itself among them")

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1; for no limit use kind = full")

    def most(self) -> int | None:
        return self.window - 1


@spans.register("blocks")
@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks(SpanConfig):
    """Block-sparse: the tokens of one's own block of `size`, and of some blocks before it."""

    size: int = setting(doc="tokens in a block")
    before: int = setting(1, "whole blocks that are seen before one's own")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")
        if self.before < 0:
            raise ValueError(f"before={self.before} must be at least 0")

    def most(self) -> int | None:
        return self.size * (self.before + 1) - 1

    def reach(self, positions: Tensor) -> Tensor | None:
        return positions % self.size + self.before * self.size
