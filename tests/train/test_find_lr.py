"""The range test: what it reads from a curve, that it writes nothing, and that it works for every optimizer."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.cli.find_lr import drawn, told
from fabula.data.shards import Shards
from fabula.errors import InputError, Stopped
from fabula.progress import Silent, StopFlag
from fabula.report import rates as page
from fabula.tokenizer.base import Tokenizer
from fabula.train import find_lr
from fabula.train.config import TrainConfig
from fabula.train.find_lr import FindConfig, Rising, diverged, read, smoothed
from fabula.train.optimizers import optimizers
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]

RATES = {"lr": 0.02, "table_lr": 0.006}


def factors(steps: int = 120) -> list[float]:
    rising = Rising(low=1e-3, high=1e2)
    return [rising.multiplier(step, steps) for step in range(steps)]


def curve(best: float, noise: float = 0.0, floor: float = 4.0, plateau: bool = False) -> list[float]:
    """A loss that falls around `best` / 3, is lowest at `best`, and rises again (or stays, on a plateau)."""
    chance = random.Random(0)
    found = []
    for factor in factors():
        x = math.log10(factor / best)
        fall = 1 / (1 + math.exp(-4 * (x + 0.5)))
        rise = 0.0 if plateau else max(0.0, x) ** 2
        found.append(floor + (7.6 - floor) * (1 - fall) + rise + chance.gauss(0, noise))
    return found


def test_the_rates_rise_by_the_same_factor() -> None:
    found = factors(101)
    assert found[0] == pytest.approx(1e-3)
    assert found[-1] == pytest.approx(1e2)
    assert all(b / a == pytest.approx(10 ** (5 / 100)) for a, b in pairwise(found))


@pytest.mark.parametrize("best", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("plateau", [False, True])
def test_the_suggestion_is_where_the_fall_is_nearly_made(best: float, noise: float, plateau: bool) -> None:
    made = read(factors(), curve(best, noise, plateau=plateau), None, RATES)
    assert made["suggestion"] == pytest.approx(0.6 * best, rel=0.6)
    assert made["suggestion"] <= made["lowest"]
    assert made["settings"]["train.optimizer.lr"] == pytest.approx(0.02 * made["suggestion"], rel=0.05)
    assert made["settings"]["train.optimizer.table_lr"] == pytest.approx(0.006 * made["suggestion"], rel=0.05)
    assert "80% of its fall" in made["rule"]


def test_a_second_fall_at_absurd_rates_is_not_looked_at() -> None:
    """With normalised weights the loss may come down again at a hundred times the rate."""
    losses = curve(1.0)
    for i, factor in enumerate(factors()):
        if factor > 20:
            losses[i] = 3.0
    assert read(factors(), losses, None, RATES)["lowest"] < 5


def test_no_suggestion_where_nothing_falls() -> None:
    chance = random.Random(1)
    made = read(factors(), [7.6 + chance.gauss(0, 0.1) for _ in factors()], None, RATES)
    assert made["suggestion"] is None
    assert made["settings"] == {}
    assert made["rule"].startswith("none: nowhere did the loss fall")
    assert any("none: nowhere" in line for line in told({**made, "asked": {"steps": 120}}, 80))


def test_rates_that_are_far_too_large_are_told() -> None:
    losses = [7.6, 9.0, math.nan]
    with pytest.raises(InputError, match="not finite after 2 steps"):
        read(factors()[:3], losses, "the loss was not finite", RATES)


def test_it_stops_when_the_loss_diverges() -> None:
    assert diverged([math.inf]) == "the loss was not finite"
    assert diverged([7.6, math.nan]) == "the loss was not finite"
    falling = [7.6 - 0.03 * i for i in range(90)]
    assert all(diverged(falling[:i]) is None for i in range(1, 91))
    back = falling + [falling[-1] + 0.2 * i for i in range(30)]
    ends = next(i for i in range(1, len(back) + 1) if diverged(back[:i]))
    assert 95 < ends < 110
    up = [7.6] * 30 + [7.6 + 0.1 * i for i in range(30)]
    assert any(diverged(up[:i]) for i in range(1, 61))


@given(st.lists(st.floats(0, 20), min_size=1, max_size=200))
def test_smoothing_stays_inside_what_it_smooths(losses: list[float]) -> None:
    found = smoothed(losses)
    assert len(found) == len(losses)
    assert all(min(losses) - 1e-9 <= s <= max(losses) + 1e-9 for s in found)


@pytest.mark.parametrize("wrong", [{"steps": 19}, {"steps": 100_001}, {"low": 0.0}, {"low": 10.0, "high": 1.0}])
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FindConfig(**wrong)


def search(data: Shards, tokenizer: Tokenizer, kind: str = "muon", stop: StopFlag | None = None) -> dict[str, Any]:
    config = TrainConfig(
        batch_tokens=128, threads=1, device="cpu", precision="float32", optimizer=optimizers.get(kind)()
    )
    return find_lr.run(
        FindConfig(steps=60),
        config,
        tiny.model_config(),
        tokenizer,
        data,
        seed=1,
        progress=Silent(),
        stop=StopFlag() if stop is None else stop,
    )


@pytest.mark.parametrize("kind", list(optimizers))
def test_it_works_for_every_optimizer(tiny_data: Shards, tiny_tokenizer: Tokenizer, kind: str) -> None:
    found = search(tiny_data, tiny_tokenizer, kind)
    assert found["suggestion"] is not None
    assert 0.003 < found["suggestion"] < 60, "the default is not far from what the test would choose"
    assert set(found["settings"]) == {f"train.optimizer.{name}" for name in found["rates"]}
    json.dumps(found, allow_nan=False)


def test_the_same_test_twice_is_the_same(tiny_data: Shards, tiny_tokenizer: Tokenizer) -> None:
    first, second = search(tiny_data, tiny_tokenizer), search(tiny_data, tiny_tokenizer)
    assert first["points"] == second["points"]


def test_it_can_be_stopped(tiny_data: Shards, tiny_tokenizer: Tokenizer) -> None:
    stop = StopFlag()
    stop.signal_number = 15
    with pytest.raises(Stopped, match="looking for the learning rate"):
        search(tiny_data, tiny_tokenizer, stop=stop)


# ---- how it is shown ---------------------------------------------------------------------------------------


def shown(noise: float = 0.05) -> dict[str, Any]:
    return {
        "name": "a <run>",
        "optimizer": "muon",
        "rates": RATES,
        "asked": {"steps": 120},
        "parameters": 1000,
        "tokens_per_step": 128,
        "seconds": 3.0,
        "environment": {"fabula": "0.1.0"},
        **read(factors(), curve(1.0, noise), None, RATES),
    }


@pytest.mark.parametrize("columns", [10, 40, 72])
def test_the_drawing_fits_and_shows_the_valley(columns: int) -> None:
    lines = drawn(shown(), columns)
    assert all(len(line) <= max(20, columns) + 15 for line in lines[:-1])
    heights = [line[9:] for line in lines[:14]]
    assert heights[0].strip(), "it begins high"
    assert heights[-1].strip(), "and has a lowest place"
    assert any("│" in row for row in heights), "the suggestion is marked"
    assert "0.001" in lines[-2]
    assert "100" in lines[-2] or columns < 40


def test_the_page_is_complete_and_escaped() -> None:
    html = page.render(shown())
    assert "a &lt;run&gt;" in html
    assert "<run>" not in html
    assert "80% of its fall" in html
    assert html.count("<svg") >= 2
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.render(shown()) == html
    none = page.render({**shown(), **read(factors(), [7.0 + i % 2 for i in range(120)], "the loss rose", RATES)})
    assert "None: nowhere" in none
    assert "The test ended early: the loss rose" in none


def test_the_command(cli: Cli, tmp_path: Path) -> None:
    recipe, runs = tiny.write_recipe(tmp_path), tmp_path / "runs"
    found = tmp_path / "page.html"
    code, out, err = cli("train", recipe, "--runs", runs, "--find-lr", "--lr-steps", "40", "--out", found)
    assert code == 0, err
    assert "suggestion: " in out
    assert "--train.optimizer.lr" in out
    assert not runs.exists(), "no run folder is left"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "tiny.toml"]
    assert "Range test of the learning rate" in found.read_text(encoding="utf-8")


def test_the_command_as_json_beside_a_run(cli: Cli, tmp_path: Path) -> None:
    recipe, runs = tiny.write_recipe(tmp_path), tmp_path / "runs"
    assert cli("train", recipe, "--runs", runs, "--train.budget", "2steps")[0] == 0
    before = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    code, out, err = cli("train", recipe, "--runs", runs, "--find-lr", "--lr-steps", "40", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert len(made["points"]) <= 40
    assert made["optimizer"] == "muon"
    assert "learning the tokenizer" not in err, "what the run has prepared is taken over"
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (("--find-lr", "--fresh"), "--fresh removes a run"),
        (("--out", "page.html"), "--out is the page of --find-lr"),
        (("--find-lr", "--out", "page.pdf"), "is .html"),
        (("--find-lr", "--lr-steps", "3"), "--lr-steps=3 must be from 20"),
        (("--find-lr", "--train.optimizer.kind", "adamm"), 'did you mean "adam'),
    ],
)
def test_what_it_refuses(cli: Cli, tmp_path: Path, given: tuple[str, ...], word: str) -> None:
    code, out, err = cli("train", tiny.write_recipe(tmp_path), "--runs", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert word in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.toml"]
