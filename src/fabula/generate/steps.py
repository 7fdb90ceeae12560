"""What comes next in several texts at once? A model with its memory, for whoever searches or draws.

`ahead` is given the ids that are new since the last call and answers with logits for what follows them. `select` makes
the texts of some rows the present ones: a search keeps some, drops others and goes on with one of them several times.

Both kinds have a road without a cache (`cached=False`), which computes everything anew; tests hold them equal.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fabula.device import Device
from fabula.generate.backend import Backend
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder, Memory


class Steps(Protocol):
    """A model that goes on with R texts of one length."""

    def ahead(self, tokens: Tensor) -> Tensor:
        """Logits (R, V), float32, of what follows the new ids (R, n)."""

    def select(self, rows: Tensor) -> None:
        """Go on with the texts of `rows` (any number of times each) in place of the present ones."""


class TextSteps:
    """A decoder-only model; with `n_ids` it writes no id from that one on."""

    def __init__(self, model: Decoder, device: Device, cached: bool = True, n_ids: int | None = None) -> None:
        self.model, self.device, self.n_ids = model, device, n_ids
        self._cache = model.new_cache() if cached else None
        self._seen: Tensor | None = None

    def ahead(self, tokens: Tensor) -> Tensor:
        if self._cache is None:
            tokens = self._seen = tokens if self._seen is None else torch.cat((self._seen, tokens), dim=1)
        with self.device.autocast():
            return self.model.logits(self.model.hidden(tokens, cache=self._cache)[:, -1])[:, : self.n_ids]

    def select(self, rows: Tensor) -> None:
        if self._cache is not None:
            self._cache.select(rows)
        elif self._seen is not None:
            self._seen = self._seen[rows]


class BackendSteps:
    """A backend's sequences as the rows of a search. It must have as many free as the search has rows."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._rows: list[int] = []

    def ahead(self, tokens: Tensor) -> Tensor:
        texts = tokens.tolist()
        if self._rows:
            return self.backend.step(self._rows, [text[-1] for text in texts])
        found = []
        for text in texts:
            self._rows.append(self.backend.open())
            found.append(self.backend.read(self._rows[-1], text))
        return torch.stack([logits for logits in found if logits is not None])

    def select(self, rows: Tensor) -> None:
        wanted: list[int] = rows.tolist()
        for row, sequence in enumerate(self._rows):
            if row not in wanted:
                self.backend.close(sequence)
        before, self._rows = self._rows, []
        for place, row in enumerate(wanted):
            again = row in wanted[:place]
            sequence = before[row]
            self._rows.append(self.backend.copy(sequence, self.backend.length(sequence)) if again else sequence)

    def close(self) -> None:
        """Forget all rows."""
        for sequence in self._rows:
            self.backend.close(sequence)
        self._rows = []


class TranslationSteps:
    """An encoder-decoder that writes for each of R sources; they are read once, here. With `n_ids` it writes no id from
    that one on."""

    def __init__(
        self,
        model: EncoderDecoder,
        source: Tensor,
        lengths: Tensor,
        device: Device,
        cached: bool = True,
        n_ids: int | None = None,
    ) -> None:
        self.model, self.device, self.n_ids = model, device, n_ids
        with device.autocast():
            self._memory: Memory = model.remember(model.encode(source, lengths), lengths)
        self._owners = torch.arange(source.shape[0], device=source.device)
        self._cache = model.new_cache() if cached else None
        self._seen: Tensor | None = None

    def ahead(self, tokens: Tensor) -> Tensor:
        if self._cache is None:
            tokens = self._seen = tokens if self._seen is None else torch.cat((self._seen, tokens), dim=1)
        with self.device.autocast():
            return self.model.logits(self.model.decode(tokens, self._memory, self._cache)[:, -1])[:, : self.n_ids]

    def select(self, rows: Tensor) -> None:
        owners = self._owners[rows]
        if not torch.equal(owners, self._owners):
            # Texts that change places between those of one source leave what was read where it is.
            self._memory, self._owners = self._memory.select(rows), owners
        if self._cache is not None:
            self._cache.select(rows)
        elif self._seen is not None:
            self._seen = self._seen[rows]
