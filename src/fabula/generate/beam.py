"""Which text is likeliest as a whole? Beam search over any model that can go on with several texts at once.

Of the texts begun, the `beams` likeliest are kept at each step; one that ends competes by its score, the sum of its
log-probabilities divided by length^penalty (Wu et al. 2016, arXiv:1609.08144, section 7, without their constant 5).
A search ends when `beams` texts have ended and no text begun has a better score as it stands.

One deviation from the textbook: the greedy text is never dropped. So the result is never worse than greedy's by its
own measure, which plain beam search does not promise, and one beam is greedy exactly.

Shapes: B searches of K beams side by side; R = B K rows, those of one search together; V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fabula.errors import DivergedError
from fabula.generate.steps import Steps


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that was found. `ids` end with the id that ends a text if `ended`; `logprobs` are in nats."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    score: float
    ended: bool


def score_of(total: float, length: int, penalty: float) -> float:
    """What texts compete by: 0 = the whole log-probability, which favours short ones; 1 = the mean of a token's."""
    return float(total / length**penalty)


def refuse_diverged(logits: Tensor) -> None:
    """DivergedError for logits with NaN or infinity. Minus infinity is a token that cannot be; not all can be that."""
    if bool((logits.isnan() | logits.isposinf()).any() | logits.isneginf().all(dim=-1).any()):
        raise DivergedError(
            "the model's logits hold NaN or infinity: its weights have diverged. Use an older checkpoint, or train "
            "with a lower learning rate (--train.optimizer.lr)"
        )


@torch.inference_mode()
def beam_search(
    steps: Steps, start: Tensor, *, beams: int, end: int, max_new_tokens: int, length_penalty: float = 1.0
) -> list[list[Hypothesis]]:
    """For each of the B beginnings (B, P) the texts found, at most `beams`, the best one first.

    `steps` is fresh, with B rows. Texts that have not ended after `max_new_tokens` compete as they are.
    """
    searches = [_Search(beams, end, length_penalty) for _ in range(start.shape[0])]
    if max_new_tokens < 1 or not searches:
        return [[] for _ in searches]
    device = start.device
    logits = steps.ahead(start)
    active = list(range(len(searches)))
    width = 1  # texts of a search so far: one, the beginning
    for step in range(max_new_tokens):
        refuse_diverged(logits)
        logits = logits.float().view(len(active), width, -1)
        chances = logits.log_softmax(dim=-1)
        joint = chances + torch.tensor([searches[a].totals for a in active], device=device).unsqueeze(-1)
        vocabulary = joint.shape[-1]
        # Twice as many as are kept: at most half of them end. After them the one that goes on with the greedy text.
        best = joint.flatten(1).topk(min(2 * beams, width * vocabulary), dim=1).indices
        rows = torch.tensor([[searches[a].greedy or 0] for a in active], device=device)
        greedy = rows * vocabulary + logits.argmax(dim=-1).gather(1, rows)
        places = torch.cat((best, greedy), dim=1)
        totals = joint.flatten(1).gather(1, places).tolist()
        alone = chances.flatten(1).gather(1, places).tolist()
        parents = []
        for n, (a, found) in enumerate(zip(active, places.tolist(), strict=True)):
            offers = [
                (place // vocabulary, place % vocabulary, total, chance)
                for place, total, chance in zip(found, totals[n], alone[n], strict=True)
            ]
            parents.append([n * width + row for row in searches[a].advance(offers)])
        last = step + 1 == max_new_tokens
        going = [n for n, a in enumerate(active) if not searches[a].over() and not last]
        if not going:
            break
        # A search that has fewer texts than beams (a vocabulary smaller than that) repeats one that cannot win.
        steps.select(torch.tensor([r for n in going for r in parents[n]], device=device))
        active = [active[n] for n in going]
        width = beams
        logits = steps.ahead(torch.tensor([[t] for a in active for t in searches[a].newest()], device=device))
    return [search.results() for search in searches]


class _Search:
    """The texts of one search: begun ones by row, and those that have ended."""

    def __init__(self, beams: int, end: int, penalty: float) -> None:
        self.beams, self.end, self.penalty = beams, end, penalty
        self.totals: list[float] = [0.0]
        self._texts: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((), ())]
        self._ended: list[Hypothesis] = []
        self.greedy: int | None = 0  # the row of the greedy text until it ends

    def advance(self, offers: list[tuple[int, int, float, float]]) -> list[int]:
        """Choose among (row, id, total, log-probability), the best first, after them what goes on with the greedy text;
        returns the row that each kept text goes on from."""
        greedy = offers[-1][:2] if self.greedy is not None else None
        kept: list[tuple[int, int, float, float]] = []
        done: set[tuple[int, int]] = set()
        for rank, offer in enumerate(offers):
            row, token, total, _ = offer
            is_greedy = (row, token) == greedy
            if (row, token) in done or total == float("-inf"):
                continue
            if token == self.end:
                # Below the beams an ending competes with nothing; that of the greedy text counts wherever it stands.
                if rank < self.beams or is_greedy:
                    self._end(offer)
                    done.add((row, token))
            elif len(kept) < self.beams:
                kept.append(offer)
                done.add((row, token))
            elif is_greedy:
                kept[-1] = offer
        texts = [(self._texts[r][0] + (t,), self._texts[r][1] + (p,)) for r, t, _, p in kept]
        self.greedy = next((i for i, (r, t, _, _) in enumerate(kept) if (r, t) == greedy), None)
        self.totals = [total for _, _, total, _ in kept]
        parents = [row for row, _, _, _ in kept]
        while len(texts) < self.beams:
            texts.append(texts[0] if texts else self._texts[0])
            parents.append(parents[0] if parents else 0)
            self.totals.append(float("-inf"))
        self._texts = texts
        return parents

    def over(self) -> bool:
        """Whether nothing better is to be expected: enough have ended, and none that is begun scores better now."""
        best = max(self.totals)
        if best == float("-inf"):
            return True
        if self.greedy is not None or len(self._ended) < self.beams:
            return False
        worst = sorted((h.score for h in self._ended), reverse=True)[self.beams - 1]
        return worst >= score_of(best, len(self._texts[0][0]), self.penalty)

    def newest(self) -> list[int]:
        """The last id of each begun text."""
        return [ids[-1] if ids else self.end for ids, _ in self._texts]

    def results(self) -> list[Hypothesis]:
        """The best of all, ended or not."""
        begun = [
            Hypothesis(ids, chances, score_of(total, len(ids), self.penalty), False)
            for (ids, chances), total in zip(self._texts, self.totals, strict=True)
            if ids and total != float("-inf")
        ]
        found = sorted(self._ended + ([] if self.over() else begun), key=lambda h: -h.score)
        return found[: self.beams]

    def _end(self, offer: tuple[int, int, float, float]) -> None:
        row, token, total, chance = offer
        ids, chances = self._texts[row]
        self._ended.append(
            Hypothesis((*ids, token), (*chances, chance), score_of(total, len(ids) + 1, self.penalty), True)
        )
