"""Drawn masks: by hand for small rows, and always what a decoder computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fabula.model import explained
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.explained import Explanation, Panel, Row, Why, explain
from fabula.model.masks import Sight
from fabula.model.presets import presets
from fabula.model.spans import Blocks, Full, Sliding, SpanConfig

SPANS = [Full(), Sliding(window=1), Sliding(window=3), Blocks(size=3, before=1), Blocks(size=2, before=0)]
# A square is seen; > comes later, w is outside of the window, d another document, p padding.
SIGNS = "#>wdp"


def config(span: SpanConfig, n_layers: int = 3) -> ModelConfig:
    base = presets.get("fabula-1m").config
    pattern = "G" if isinstance(span, Full) else "LLG" if n_layers == 3 else "L"
    return dataclasses.replace(base, vocab_size=11, n_layers=n_layers, pattern=pattern, local=span)


def show(panel: Panel) -> list[str]:
    return ["".join(SIGNS[code] for code in row) for row in panel.reasons.tolist()]


def panel(found: Explanation, mask: str, which: int = 0) -> Panel:
    return [p for p in found.panels if p.mask == mask][which]


ROWS = st.builds(
    Row,
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    st.integers(0, 4),
    st.sampled_from(["left", "right"]),
)


# ---- by hand -----------------------------------------------------------------------------------------------


def test_everything_at_once_by_hand() -> None:
    found = explain(config(Sliding(window=2)), Row((3, 2), 2, "left"))
    assert [p.mask for p in found.panels] == ["causal", "window", "documents", "padding", "combined", "combined"]
    assert show(panel(found, "causal"))[2] == "###>>>>"
    assert show(panel(found, "window"))[4] == "www##>>"
    assert show(panel(found, "documents")) == [
        "##ppppp",
        "##ppppp",
        "pp###dd",
        "pp###dd",
        "pp###dd",
        "ppddd##",
        "ppddd##",
    ]
    assert show(panel(found, "padding")) == ["##ppppp"] * 2 + ["pp#####"] * 5
    global_, local = panel(found, "combined", 0), panel(found, "combined", 1)
    assert (global_.layers, local.layers) == ((2,), (0, 1))
    assert show(global_) == [
        "#>>>>>>",
        "##>>>>>",
        "pp#>>>>",
        "pp##>>>",
        "pp###>>",
        "ppddd#>",
        "ppddd##",
    ]
    assert show(local) == [
        "#>>>>>>",
        "##>>>>>",
        "wp#>>>>",
        "ww##>>>",
        "www##>>",
        "wwwwd#>",
        "wwwww##",
    ]


def test_padding_on_the_right_is_hidden_by_causality_already() -> None:
    found = explain(config(Full()), Row((2, 1), 2))
    assert show(panel(found, "combined")) == [
        "#>>>>",
        "##>>>",
        "dd#>>",
        "ppp#>",
        "ppp##",
    ]


def test_blocks_begin_with_their_document() -> None:
    found = explain(config(Blocks(size=2, before=0)), Row((3, 3)))
    assert show(panel(found, "combined", 1)) == [
        "#>>>>>",
        "##>>>>",
        "ww#>>>",
        "www#>>",
        "www##>",
        "wwwww#",
    ]


def test_only_what_there_is_is_shown() -> None:
    assert [p.mask for p in explain(config(Full()), Row((4,))).panels] == ["causal"]
    assert [p.mask for p in explain(config(Full()), Row((4,), 1)).panels] == ["causal", "padding", "combined"]
    assert [p.mask for p in explain(config(Full()), Row((2, 2))).panels] == ["causal", "documents", "combined"]
    assert [p.mask for p in explain(config(Sliding(window=2)), Row((4,))).panels] == [
        *["causal", "window", "combined", "combined"]
    ]


def test_one_token() -> None:
    found = explain(config(Sliding(window=1)), Row((1,)))
    assert all(show(p) == ["#"] for p in found.panels)


# ---- as the model computes it ------------------------------------------------------------------------------


@settings(max_examples=40)
@given(row=ROWS, span=st.sampled_from(SPANS))
def test_seen_is_what_sight_allows(row: Row, span: SpanConfig) -> None:
    found = explain(config(span), row)
    numbers = torch.tensor([[number for number, (_, n) in enumerate(row.stretches()) for _ in range(n)]])
    positions = torch.tensor([row.positions()])
    for shown in found.panels:
        if shown.mask != "combined":
            continue
        local = 0 in shown.layers and not isinstance(span, Full)
        sight = Sight(*(row.length, row.length), span=span if local else None, positions=positions, documents=numbers)
        assert torch.equal(shown.reasons == Why.SEEN, sight.allowed()[0, 0])


@given(row=ROWS, span=st.sampled_from(SPANS))
def test_every_mask_has_the_diagonal_and_the_whole_hides_what_a_part_hides(row: Row, span: SpanConfig) -> None:
    found = explain(config(span), row)
    seen = {shown.mask: shown.reasons == Why.SEEN for shown in found.panels}
    every = torch.ones(row.length, row.length, dtype=torch.bool)
    for shown in found.panels:
        assert bool((shown.reasons.diagonal() == Why.SEEN).all())
        if shown.mask != "combined":
            continue
        local = 0 in shown.layers and not isinstance(span, Full)
        parts = ["causal", "documents", "padding", *(["window"] if local else [])]
        together = every.clone()
        for part in parts:
            together &= seen.get(part, every)
        assert torch.equal(shown.reasons == Why.SEEN, together)


def influence(model: Decoder, row: Row) -> Tensor:
    """(T, T): whether the state of a query depends on what stands at a key."""
    seen: dict[str, Tensor] = {}
    model.embedding.register_forward_hook(lambda _, __, out: seen.setdefault("x", out.detach().requires_grad_()))
    numbers = torch.tensor([[number for number, (_, n) in enumerate(row.stretches()) for _ in range(n)]])
    tokens = torch.randint(0, 11, (1, row.length), generator=torch.Generator().manual_seed(0))
    states = model.hidden(tokens, torch.tensor([row.positions()]), numbers)
    weights = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(1), dtype=states.dtype)
    found = [torch.autograd.grad((state * weights).sum(), seen["x"], retain_graph=True)[0][0] for state in states[0]]
    return torch.stack([(grad != 0).any(dim=-1) for grad in found])


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("row", [Row((4, 3), 2, "left"), Row((4, 3), 2, "right"), Row((9,))])
def test_the_gradients_of_a_layer_are_where_it_is_drawn_as_seen(span: SpanConfig, row: Row) -> None:
    torch.manual_seed(0)
    made = config(span, n_layers=1)
    # Some presets begin with outputs of zero, through which nothing would be seen.
    made = dataclasses.replace(made, init=dataclasses.replace(made.init, output="same"))
    shown = explain(made, row).panels[-1]
    assert torch.equal(influence(Decoder(made).double(), row), shown.reasons == Why.SEEN)


# ---- words -------------------------------------------------------------------------------------------------


def test_kinds_of_layers_are_named_with_their_numbers() -> None:
    found = explain(presets.get("gemma3-270m").config, Row((12,)), window=4)
    assert [p.title for p in found.panels] == [
        "Causal",
        "Local layers 0-4, 6-10, 12-16: the last 512 tokens (drawn: 4)",
        "Global layers 5, 11, 17: all masks together",
        "Local layers 0-4, 6-10, 12-16: all masks together",
    ]
    assert found.notes == ("Drawn with a window of 4 instead of 512.",)
    assert "the last 4 tokens" in found.panels[1].sentence
    assert not found.idle_window


def test_a_window_longer_than_the_drawing_is_told() -> None:
    found = explain(presets.get("gemma3-270m").config, Row((12,)))
    assert found.idle_window
    assert "the last 512 tokens" in found.notes[0]
    assert "hides nothing" in found.notes[0]
    assert torch.equal(panel(found, "window").reasons, panel(found, "causal").reasons)


def test_words_of_blocks() -> None:
    found = explain(config(Blocks(size=128, before=2)), Row((12,)), window=2)
    assert found.panels[1].title == "Local layers 0, 1: blocks of 128 and 2 before (drawn: 2)"
    assert found.notes == ("Drawn with blocks of 2 instead of 128.",)
    assert "the 2 blocks before it" in found.panels[1].sentence
    assert "nothing before it" in explain(config(Blocks(size=2, before=0)), Row((12,))).panels[1].sentence
    assert "nothing but itself" in explain(config(Sliding(window=1)), Row((12,))).panels[1].sentence


def test_no_window_to_scale() -> None:
    with pytest.raises(ValueError, match="no window"):
        explain(config(Full()), Row((4,)), window=2)


@pytest.mark.parametrize("bad", [((), 0), ((0,), 1), ((2, -1), 0), ((2,), -1)])
def test_rows_that_are_none(bad: tuple[tuple[int, ...], int]) -> None:
    with pytest.raises(ValueError):
        Row(*bad)


@given(st.sets(st.integers(0, 40)))
@example(set())
def test_ranges_hold_every_number(numbers: set[int]) -> None:
    found: set[int] = set()
    for part in filter(None, explained.ranges(sorted(numbers)).split(", ")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers


def test_plain_data() -> None:
    data = explain(config(Full()), Row((2, 1), 1, "left")).to_data()
    assert [(t["document"], t["position"]) for t in data["tokens"]] == [(None, 0), (0, 0), (0, 1), (1, 0)]
    assert data["reasons"] == ["seen", "later", "window", "document", "padding"]
    assert data["panels"][0]["rows"] == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
