"""Who may see whom, and what hides the rest? The masks of a model as small matrices of reasons, to be drawn.

What is seen is what `masks.Sight` allows, made from the same spans, positions and document numbers as in the decoder.
Only the reason of what is hidden is found here.

>>> from fabula.model.presets import presets
>>> found = explain(presets.get("fabula-1m").config, Row(documents=(2, 1), padding=1))
>>> [panel.mask for panel in found.panels]
['causal', 'documents', 'padding', 'combined']
>>> found.panels[-1].reasons.tolist()
[[0, 1, 1, 1], [0, 0, 1, 1], [3, 3, 0, 1], [4, 4, 4, 0]]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor

from fabula.model.config import ModelConfig
from fabula.model.masks import Sight
from fabula.model.spans import Blocks, Sliding, SpanConfig

Side = Literal["left", "right"]
Mask = Literal["causal", "window", "documents", "padding", "combined"]


class Why(IntEnum):
    """Why a query does not see a key: the first of these that holds."""

    SEEN = 0
    LATER = 1
    WINDOW = 2
    DOCUMENT = 3
    PADDING = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A row of tokens as a batch has it: documents of these lengths one after the other, and padding on one side."""

    documents: tuple[int, ...]
    padding: int = 0
    side: Side = "right"

    def __post_init__(self) -> None:
        if min((*self.documents, 0)) < 0 or 0 in self.documents or self.padding < 0 or self.length < 1:
            raise ValueError(f"{self}: documents have at least one token, padding has none or more")

    @property
    def length(self) -> int:
        """Tokens with the padding."""
        return sum(self.documents) + self.padding

    def stretches(self) -> list[tuple[int | None, int]]:
        """(number of the document, tokens) from left to right; None is padding."""
        padding: list[tuple[int | None, int]] = [(None, self.padding)] if self.padding else []
        text: list[tuple[int | None, int]] = list(enumerate(self.documents))
        return padding + text if self.side == "left" else text + padding

    def documents_of_tokens(self) -> list[int | None]:
        """The document of each token; None is padding."""
        return [number for number, length in self.stretches() for _ in range(length)]

    def positions(self) -> list[int]:
        """The position of each token: from 0 in every document, and in the padding."""
        return [position for _, length in self.stretches() for position in range(length)]


@dataclass(frozen=True, slots=True)
class Panel:
    """One mask: `reasons` (T, T) holds a `Why` for each query (row) and key (column)."""

    mask: Mask
    layers: tuple[int, ...]
    title: str
    sentence: str
    reasons: Tensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """The masks of a row of tokens, each alone and then together for each kind of layer."""

    row: Row
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]

    @property
    def idle_window(self) -> bool:
        """Whether there is a window, too long to hide anything in this row."""
        return any(p.mask == "window" and not (p.reasons == Why.WINDOW).any() for p in self.panels)

    def to_data(self) -> dict[str, Any]:
        """Plain data; numbers in a panel's `rows` are places in `reasons`."""
        tokens = zip(self.row.documents_of_tokens(), self.row.positions(), strict=True)
        return {
            "length": self.row.length,
            "documents": list(self.row.documents),
            "padding": self.row.padding,
            "side": self.row.side,
            "tokens": [{"token": i, "document": d, "position": p} for i, (d, p) in enumerate(tokens)],
            "reasons": [why.name.lower() for why in Why],
            "notes": list(self.notes),
            "panels": [
                {
                    "mask": panel.mask,
                    "layers": list(panel.layers),
                    "title": panel.title,
                    "sentence": panel.sentence,
                    "rows": panel.reasons.tolist(),
                }
                for panel in self.panels
            ],
        }


def explain(config: ModelConfig, row: Row, window: int | None = None) -> Explanation:
    """The masks of a decoder over a row. `window` draws local layers smaller than they are (blocks: their size).

    ValueError when there is no local layer that it could change.
    """
    span = config.local if window is None else scaled(config, window)
    masks = _Masks(row)
    layers = {kind: _layers(config, kind) for kind in sorted(set(config.kinds()))}
    every = tuple(range(config.n_layers))
    panels = [Panel("causal", every, "Causal", "A token sees itself and what comes before it.", masks.reasons())]
    notes = []
    if "L" in layers:
        reasons = masks.reasons(span=span)
        drawn = "" if span == config.local else f" (drawn: {window})"
        title = f"{_named(config, 'L')}: {_reach(config.local)}{drawn}"
        panels.append(Panel("window", layers["L"], title, _window_sentence(span), reasons))
        if span != config.local:
            what = "blocks" if isinstance(span, Blocks) else "a window"
            notes.append(f"Drawn with {what} of {_size(span):,} instead of {_size(config.local):,}.")
        elif not (reasons == Why.WINDOW).any():
            notes.append(
                f"The local layers see {_reach(span)}, more than the {row.length} that are drawn: here the window "
                "hides nothing."
            )
    if len(row.documents) > 1:
        sentence = "Tokens see their own document only, and positions begin at 0 in each. This mask alone: not causal."
        panels.append(
            Panel("documents", every, "Documents", sentence, masks.reasons(causal=False, documents=masks.documents))
        )
    if row.padding:
        sentence = (
            "Padding is a document of its own: no text sees it, and it sees itself, so that no row is empty. This mask "
            "alone: not causal."
        )
        panels.append(
            Panel(
                "padding",
                every,
                f"Padding on the {row.side}",
                sentence,
                masks.reasons(causal=False, documents=masks.padding),
            )
        )
    if len(panels) > 1:
        for kind in sorted(layers):  # G before L
            title = f"{_named(config, kind)}: all masks together"
            sentence = "Seen is what no mask hides. The rest shows the first mask that hides it."
            reasons = masks.reasons(span=span if kind == "L" else None, documents=masks.documents)
            panels.append(Panel("combined", layers[kind], title, sentence, reasons))
    return Explanation(row, tuple(panels), tuple(notes))


def scaled(config: ModelConfig, window: int) -> SpanConfig:
    """The span of the local layers with another window, or another size of its blocks, for a drawing."""
    if isinstance(config.local, Sliding):
        return dataclasses.replace(config.local, window=window)
    if isinstance(config.local, Blocks):
        return dataclasses.replace(config.local, size=window)
    raise ValueError("every layer sees back to the beginning: there is no window to draw smaller")


class _Masks:
    """A row as the decoder is given it, and the reasons of any sight of it."""

    def __init__(self, row: Row) -> None:
        # Numbers rise from left to right, and padding has one of its own.
        numbers = [number for number, (_, length) in enumerate(row.stretches()) for _ in range(length)]
        self.length = row.length
        self.positions, self.documents = torch.tensor([row.positions()]), torch.tensor([numbers])
        self.padding = torch.tensor([[int(document is None) for document in row.documents_of_tokens()]])

    def reasons(
        self, *, causal: bool = True, span: SpanConfig | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """(T, T): SEEN where a sight of these parts allows it, elsewhere the first part that does not."""
        hidden = ~self._allowed(causal=causal, span=span, documents=documents)
        found = torch.where(hidden, int(Why.PADDING), int(Why.SEEN))
        found[hidden & self._allowed(causal=False, documents=self.padding)] = Why.DOCUMENT
        if causal:
            found[hidden & ~self._allowed(span=span)] = Why.WINDOW
            found[hidden & ~self._allowed()] = Why.LATER
        return found

    def _allowed(
        self, *, causal: bool = True, span: SpanConfig | None = None, documents: Tensor | None = None
    ) -> Tensor:
        sight = Sight(self.length, self.length, causal=causal, span=span, positions=self.positions, documents=documents)
        return sight.allowed()[0, 0]


def _layers(config: ModelConfig, kind: str) -> tuple[int, ...]:
    return tuple(index for index, found in enumerate(config.kinds()) if found == kind)


def _named(config: ModelConfig, kind: str) -> str:
    """What to call the layers of a kind."""
    layers = _layers(config, kind)
    if len(layers) == config.n_layers:
        return "All layers" if config.n_layers > 1 else "The layer"
    return f"{'Local' if kind == 'L' else 'Global'} layer{'s' * (len(layers) > 1)} {ranges(layers)}"


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers with their runs drawn together.

    >>> ranges([0, 1, 2, 3, 5, 7, 8])
    '0-3, 5, 7, 8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _reach(span: SpanConfig) -> str:
    """What a token of a local layer sees, in a few words."""
    if isinstance(span, Blocks):
        return f"blocks of {span.size:,} and {span.before:,} before"
    seen = (span.most() or 0) + 1
    return f"the last {seen:,} tokens" if seen > 1 else "the token itself"


def _size(span: SpanConfig) -> int:
    return span.size if isinstance(span, Blocks) else (span.most() or 0) + 1


def _window_sentence(span: SpanConfig) -> str:
    if isinstance(span, Blocks):
        before = {0: "nothing before it", 1: "the block before it"}.get(
            span.before, f"the {span.before:,} blocks before it"
        )
        return (
            f"A token sees its own block of {span.size:,} up to itself, and {before}. Blocks are counted in a document."
        )
    if span.most() == 0:
        return "A token sees nothing but itself."
    return f"A token sees {_reach(span)}, itself among them."
