"""Which text is likeliest as a whole? Beam search over any model that can go on with several texts at once.

Of the texts begun, the `beams` likeliest are kept at each step; one that ends competes by its score, the sum of its
log-probabilities divided by length^penalty (Wu et al. 2016, arXiv:1609.08144, section 7, without their constant 5).
A search ends when `beams` texts have ended and no text begun has a better score as it stands.

One deviation from the textbook: the greedy text is never dropped. So the result is never worse than greedy's by its
own measure, which plain beam search does not promise, and one beam is greedy exactly.

**Diverse** (Vijayakumar et al. 2016, arXiv:1610.02424): the beams are cut into groups, each a search of its own. At a
step the groups choose one after another, and a token loses `diversity` for each text of an earlier group that has just
chosen it (Hamming). That steers what is kept; texts are scored by the model alone. The first group holds the greedy
text.

Shapes: B beginnings of G groups of K beams side by side; R = B G K rows, those of one group together; V vocabulary.
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
    steps: Steps,
    start: Tensor,
    *,
    beams: int,
    end: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    groups: int = 1,
    diversity: float = 0.0,
) -> list[list[Hypothesis]]:
    """For each of the B beginnings (B, P) the texts found, at most `beams`, the best one first.

    `steps` is fresh, with B rows. Texts that have not ended after `max_new_tokens` compete as they are. `groups` must
    divide `beams`.
    """
    if beams % groups:
        raise ValueError(f"{beams} beams cannot be cut into {groups} groups of one size")
    count, each = start.shape[0], beams // groups
    # The groups of a beginning stand together.
    searches = [_Search(each, end, length_penalty, n % groups == 0) for n in range(count * groups)]
    if max_new_tokens < 1 or not searches:
        return [[] for _ in range(count)]
    device = start.device
    logits = steps.ahead(start).repeat_interleave(groups, dim=0)
    active = list(range(len(searches)))
    width = 1  # texts of a search so far: one, the beginning, which the groups share
    for step in range(max_new_tokens):
        refuse_diverged(logits)
        logits = logits.float().view(len(active), width, -1)
        chosen = _chosen(searches, active, logits, groups, diversity)
        first = step == 0
        parents = [[n // groups if first else n * width + row for row in rows] for n, rows in enumerate(chosen)]
        last = step + 1 == max_new_tokens
        going = [n for n, a in enumerate(active) if not searches[a].over() and not last]
        if not going:
            break
        # A search that has fewer texts than beams (a vocabulary smaller than that) repeats one that cannot win.
        steps.select(torch.tensor([r for n in going for r in parents[n]], device=device))
        active = [active[n] for n in going]
        width = each
        logits = steps.ahead(torch.tensor([[t] for a in active for t in searches[a].newest()], device=device))
    return [_merged(searches[n * groups : (n + 1) * groups], beams) for n in range(count)]


def _chosen(
    searches: list[_Search], active: list[int], logits: Tensor, groups: int, diversity: float
) -> list[list[int]]:
    """Advance all searches by a token, given logits (A, width, V); the rows that their texts go on from."""
    width, vocabulary = logits.shape[1:]
    device = logits.device
    chances = logits.log_softmax(dim=-1)
    joint = chances + torch.tensor([searches[a].totals for a in active], device=device).unsqueeze(-1)
    rows = torch.tensor([[searches[a].greedy or 0] for a in active], device=device)
    greedy = rows * vocabulary + logits.argmax(dim=-1).gather(1, rows)
    chosen: list[list[int]] = [[] for _ in active]
    taken: dict[int, list[int]] = {}  # by beginning: what the groups before have just chosen
    for group in range(groups):
        here = [n for n, a in enumerate(active) if a % groups == group]
        if not here:
            continue
        place = slice(None) if groups == 1 else torch.tensor(here, device=device)
        true, single = joint[place], chances[place]
        guide = true
        if diversity and taken:
            guide = true - diversity * torch.stack(
                [_counts(taken.get(active[n] // groups, []), vocabulary, device) for n in here]
            ).unsqueeze(1)
        # Twice as many as are kept: at most half of them end. After them the one that goes on with the greedy text.
        most = min(2 * searches[0].beams, width * vocabulary)
        best = torch.cat((guide.flatten(1).topk(most, dim=1).indices, greedy[place]), dim=1)
        totals = true.flatten(1).gather(1, best).tolist()
        alone = single.flatten(1).gather(1, best).tolist()
        for n, found, of_text, of_token in zip(here, best.tolist(), totals, alone, strict=True):
            offers = [
                (spot // vocabulary, spot % vocabulary, total, chance)
                for spot, total, chance in zip(found, of_text, of_token, strict=True)
            ]
            search = searches[active[n]]
            chosen[n] = search.advance(offers)
            taken.setdefault(active[n] // groups, []).extend(search.chosen)
    return chosen


def _counts(tokens: list[int], vocabulary: int, device: torch.device) -> Tensor:
    """How often each of V tokens was chosen."""
    return torch.bincount(torch.tensor(tokens, dtype=torch.long, device=device), minlength=vocabulary).float()


def _merged(groups: list[_Search], most: int) -> list[Hypothesis]:
    """The best texts of all groups; one that several found counts once."""
    if len(groups) == 1:
        return groups[0].results()
    found = {h.ids: h for group in reversed(groups) for h in reversed(group.results())}
    return sorted(found.values(), key=lambda h: -h.score)[:most]


class _Search:
    """The texts of one search: begun ones by row, and those that have ended."""

    def __init__(self, beams: int, end: int, penalty: float, holds_greedy: bool) -> None:
        self.beams, self.end, self.penalty = beams, end, penalty
        self.totals: list[float] = [0.0]
        self._texts: list[tuple[tuple[int, ...], tuple[float, ...]]] = [((), ())]
        self._ended: list[Hypothesis] = []
        self.chosen: list[int] = []  # ids of the last step: those that texts go on with, and the end of others
        self.greedy: int | None = 0 if holds_greedy else None  # the row of the greedy text until it ends

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
                done = done - {kept[-1][:2]} | {(row, token)}
                kept[-1] = offer
        self.chosen = [token for _, token in done]
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
