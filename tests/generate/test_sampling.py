"""Which token comes next: statistics of the draws, and what each filter keeps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fabula.config import build
from fabula.errors import ConfigError, InputError
from fabula.generate.config import GenerateConfig, Sampling
from fabula.generate.sampling import (
    biased,
    choose,
    distribution,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    keep_typical,
    only,
    penalise_repetition,
    penalise_written,
    repeats,
    without,
)

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])

numbers = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30)


def draws(sampling: Sampling, n: int = 4000, logits: Tensor = LOGITS, seen: tuple[int, ...] = ()) -> Tensor:
    """How often each id comes in n draws."""
    generator = torch.Generator().manual_seed(sampling.seed)
    counts = torch.zeros(len(logits))
    for _ in range(n):
        counts[choose(logits, seen, sampling, generator)] += 1
    return counts


def kept(logits: Tensor) -> list[int]:
    return (logits > -math.inf).nonzero().flatten().tolist()


def chi_square(counts: Tensor, probability: Tensor) -> float:
    expected = counts.sum() * probability
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    return float(((counts - expected).square() / expected.where(possible, torch.ones(()))).sum())


@pytest.mark.parametrize(
    ("sampling", "probability"),
    [
        (Sampling(temperature=1.0), LOGITS.softmax(0)),
        (Sampling(temperature=0.5), (LOGITS / 0.5).softmax(0)),
        (Sampling(temperature=2.0, seed=3), (LOGITS / 2).softmax(0)),
        (Sampling(temperature=1.0, top_k=3), torch.cat((LOGITS[:3].softmax(0), torch.zeros(3)))),
        (Sampling(temperature=0.5, top_k=2), torch.cat(((LOGITS[:2] * 2).softmax(0), torch.zeros(4)))),
        (Sampling(temperature=1.0, top_p=0.7), torch.cat((LOGITS[:2].softmax(0), torch.zeros(4)))),
        (Sampling(temperature=1.0, min_p=0.2), torch.cat((LOGITS[:3].softmax(0), torch.zeros(3)))),
        (Sampling(temperature=math.inf), torch.full((6,), 1 / 6)),
    ],
    ids=str,
)
def test_the_draws_follow_the_probabilities(sampling: Sampling, probability: Tensor) -> None:
    """Chi-square with at most 5 degrees of freedom is above 20.5 once in a thousand; the seed is fixed."""
    assert chi_square(draws(sampling), probability) < 20.5


def test_the_instrument_notices_a_wrong_temperature() -> None:
    assert chi_square(draws(Sampling(temperature=1.2)), LOGITS.softmax(0)) > 20.5


def test_a_seed_gives_the_same_draws_and_another_others() -> None:
    def ids(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [choose(LOGITS, (), Sampling(temperature=1.0), generator) for _ in range(50)]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)


def test_drawing_leaves_the_global_generator_and_the_logits_alone() -> None:
    before, logits = torch.get_rng_state(), LOGITS.clone()
    draws(Sampling(temperature=0.7, top_k=4, top_p=0.9, min_p=0.01, repetition_penalty=1.3), 5, logits, (0, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(logits, LOGITS)


@pytest.mark.parametrize("top_k", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0.0, 1e-46, 1e-40, 1e-30, 1e-6])
def test_temperature_zero_and_nearly_zero_are_greedy(temperature: float, top_k: int) -> None:
    assert draws(Sampling(temperature=temperature, top_k=top_k), 50)[0] == 50


def test_temperature_acts_without_top_k_too() -> None:
    hot, cold = (draws(Sampling(temperature=t), 500)[0] for t in (5.0, 0.2))
    assert cold > 490 > 250 > hot


def test_greedy_takes_the_first_of_equals() -> None:
    assert choose(torch.tensor([0.0, 3.0, 3.0]), (), Sampling(temperature=0.0), torch.Generator()) == 1


# ---- filters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "expected"), [(1, [0]), (2, [0, 1]), (6, list(range(6))), (99, list(range(6)))])
def test_top_k(k: int, expected: list[int]) -> None:
    assert kept(keep_top_k(LOGITS, k)) == expected
    assert torch.equal(keep_top_k(LOGITS, k)[expected], LOGITS[expected])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_keeps_exactly_k_of_equals(k: int) -> None:
    assert len(kept(keep_top_k(torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0]), k))) == k


def test_top_p_by_hand() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    for p, expected in (
        (1e-9, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.79, [1, 3]),
        (0.81, [0, 1, 3]),
        (0.96, [0, 1, 2, 3]),
    ):
        assert kept(keep_top_p(logits, p)) == expected


def test_min_p_by_hand() -> None:
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    for share, expected in ((1.0, [1]), (0.61, [1]), (0.59, [1, 3]), (0.29, [0, 1, 3]), (0.0, [0, 1, 2, 3])):
        assert kept(keep_min_p(logits, share)) == expected
    assert kept(keep_min_p(torch.tensor([2.0, 2.0, 1.0]), 1.0)) == [0, 1]


@given(numbers, st.floats(1e-6, 1, exclude_max=True))
def test_top_p_is_the_smallest_set_that_reaches_p(values: list[float], p: float) -> None:
    logits = torch.tensor(values)
    probability = logits.double().softmax(0)
    chosen = kept(keep_top_p(logits, p))
    total = float(probability[chosen].sum())
    least = float(probability[chosen].min())
    assert total >= p - 1e-5
    assert total - least < p + 1e-5, "without its least likely token the set would not reach p"
    outside = [i for i in range(len(values)) if i not in chosen]
    assert all(float(probability[i]) <= least + 1e-9 for i in outside)


@given(numbers, st.integers(1, 40), st.floats(1e-50, 1), st.floats(0, 1))
def test_a_filter_always_leaves_the_likeliest(values: list[float], k: int, p: float, share: float) -> None:
    logits = torch.tensor(values)
    for left in (
        keep_top_k(logits, k),
        keep_top_p(logits, p),
        keep_min_p(logits, share),
        keep_min_p(keep_top_p(keep_top_k(logits, k), p), share),
    ):
        assert float(left.max()) == float(logits.max())
        assert left.shape == logits.shape
        open_places = kept(left)
        assert torch.equal(left[open_places], logits[open_places]), "what is kept keeps its logit"


@given(
    numbers,
    st.builds(
        Sampling,
        temperature=st.floats(0, 1e6),
        top_k=st.integers(0, 40),
        top_p=st.floats(0, 1, exclude_min=True),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.01, 100),
        seed=st.integers(-(2**63), 2**64 - 1),
    ),
)
def test_every_setting_gives_an_id(values: list[float], sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(sampling.seed)
    assert 0 <= choose(torch.tensor(values), [0], sampling, generator) < len(values)


# ---- repetition -------------------------------------------------------------------------------------------------


def test_a_penalty_lowers_positive_and_negative_logits() -> None:
    out = penalise_repetition(torch.tensor([4.0, -4.0, 1.0, 0.0]), [0, 1, 3, 0, 0], 2.0)
    assert out.tolist() == [2.0, -8.0, 1.0, 0.0], "each id once, however often it was seen"


def test_a_penalty_below_one_rewards() -> None:
    assert penalise_repetition(torch.tensor([4.0, -4.0]), [0, 1], 0.5).tolist() == [8.0, -2.0]


def test_a_penalty_acts_on_greedy_choices_too() -> None:
    logits = torch.tensor([1.0, 0.9])
    assert choose(logits, [0], Sampling(temperature=0.0, repetition_penalty=1.2), torch.Generator()) == 1
    assert choose(logits, [], Sampling(temperature=0.0, repetition_penalty=1.2), torch.Generator()) == 0


# ---- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature=-0.1 must be at least 0"),
        ({"top_k": -1}, "top_k=-1 must be at least 0"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1 must be above 0 and at most 1"),
        ({"min_p": -0.1}, "min_p=-0.1 must be between 0 and 1"),
        ({"min_p": 1.1}, "min_p=1.1 must be between 0 and 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"temperature": math.nan}, "expected a number, got nan"),
        ({"top_k": 1.5}, "generate.top_k: expected a whole number, got 1.5"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(GenerateConfig, settings, "generate")


# ---- the filters and penalties that were added, and draws ---------------------------------------------------


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5),
        Sampling(temperature=1.7, top_k=4),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=1.0, min_p=0.2),
        Sampling(temperature=1.0, typical_p=0.6),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Within four standard deviations for every token; what is filtered out never comes."""
    logits = torch.randn(9, generator=torch.Generator().manual_seed(2)) * 1.5
    expected = distribution(logits, sampling)
    found = draws(sampling, 4000, logits) / 4000
    assert float(expected.sum()) == pytest.approx(1, abs=1e-6)
    assert bool(((found - expected).abs() <= 4 * (expected * (1 - expected) / 4000).sqrt() + 1e-9).all())


def test_typical_keeps_what_is_least_surprising_in_its_surprise() -> None:
    """Entropy 1.28 nats: the surprises 1.2 and 1.6 lie nearest to it, that of the likeliest token, 0.69, does not."""
    chances = torch.tensor([0.5, 0.2, 0.3, 0.0])
    logits = chances.log()
    surprise = -logits[:3]
    entropy = float((chances[:3] * surprise).sum())
    order = (surprise - entropy).abs().argsort().tolist()
    kept = keep_typical(logits, float(chances[order[0]]) + 1e-3) > float("-inf")
    assert set(kept.nonzero().flatten().tolist()) == set(order[:2])
    assert bool((keep_typical(logits, 1e-9) > float("-inf")).sum() == 1)


def test_penalties_of_what_was_written_by_hand() -> None:
    logits = torch.zeros(5)
    assert penalise_written(logits, [1, 1, 3], 0.5, 0.25).tolist() == [0, -1.0, 0, -0.75, 0]
    assert penalise_written(logits, [], 0.5, 0.25) is logits
    # Only what was written counts, not the prompt.
    chosen = choose(
        torch.tensor([1.0, 0.9]), [0, 0], Sampling(temperature=0.0, presence_penalty=0.5), torch.Generator(), 2
    )
    assert chosen == 0
    chosen = choose(
        torch.tensor([1.0, 0.9]), [0, 0], Sampling(temperature=0.0, presence_penalty=0.5), torch.Generator(), 1
    )
    assert chosen == 1


def test_sequences_that_would_come_twice() -> None:
    assert repeats([1, 2, 3, 1, 2], 3) == {3}
    assert repeats([1, 2, 1, 3, 1], 2) == {2, 3}
    assert repeats([4, 5], 1) == {4, 5}
    assert repeats([1, 2], 3) == set()
    assert repeats([], 2) == set()


def test_what_may_not_be() -> None:
    logits = torch.tensor([1.0, 2.0, 3.0])
    assert without(logits, [2]).tolist() == [1, 2, float("-inf")]
    assert without(logits, [0, 1, 2]) is logits, "a text cannot go on with no token"
    assert biased(logits, {0: 5.0, 2: float("-inf")}).tolist() == [6, 2, float("-inf")]
    assert only(logits, torch.tensor([True, False, False])).tolist() == [1, float("-inf"), float("-inf")]
    with pytest.raises(InputError, match="no token is allowed"):
        only(logits, torch.zeros(3, dtype=torch.bool))


def test_a_draw_never_meets_what_has_no_probability() -> None:
    for chances in ([0.0, 1.0, 0.0], [1.0, 0.0], [0.0, 0.0, 1.0]):
        for seed in range(50):
            number = draw(torch.tensor(chances), torch.Generator().manual_seed(seed))
            assert chances[number] == 1
