"""Small models trained with each tokenizer: equal FLOPs, the same held-out text, figures in the order of the names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fabula.compare import tokenizers as trial
from fabula.errors import InputError
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.report import summary
from tests import tiny

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> Path:
    for name, made in (("small", tiny_tokenizer), ("large", train_bpe(tiny_texts, 420))):
        (tmp_path / name).mkdir()
        made.save(tmp_path / name)
    (tmp_path / "es.txt").write_text("\n<|endoftext|>\n".join(tiny_texts), "utf-8")
    return tmp_path


SMALL = (
    *("--model.context_length", "32", "--model.d_model", "32", "--model.n_layers", "2", "--model.ffn.d_ff", "64"),
    *("--model.attention.n_heads", "2", "--model.attention.n_kv_heads", "1", "--model.attention.head_dim", "16"),
    *("--train.batch_tokens", "128", "--corpus.validation", "0.2", "--evaluate.validation_bytes", "2000"),
    *("--train.budget", f"{tiny.STEPS}steps", "--train.threads", "1", "--train.checkpoints", "2"),
)


def test_models_trained_equally_long(cli: Cli, here: Path) -> None:
    given = ("tokenizer", "compare", "small", "large", "--on", "es.txt", "--train", *SMALL)
    code, out, err = cli(*given, "--seeds", "1", "--json", "--html", "page.html")
    assert code == 0, err
    made = json.loads(out)
    small, large = made["training"]["rows"]
    assert (small["name"], large["name"]) == ("small", "large")
    assert large["parameters"] - small["parameters"] == 100 * 32
    assert large["steps"] < small["steps"] == tiny.STEPS  # a step costs more with a larger vocabulary
    assert abs(large["flops"] / small["flops"] - 1) < 0.05
    for row in (small, large):
        assert 1 < row["bits_per_byte"]["mean"] < 8
        assert row["text_bytes"] > 0
    compared = json.loads((here / "runs" / "tokenizers" / "comparison.json").read_text("utf-8"))
    texts = {run["validation"] for row in compared["variants"] for run in row["runs"]}
    assert len(texts) == 1
    assert "Trained models" in (here / "page.html").read_text("utf-8")
    assert summary(made)
    # Called again it trains nothing that is there, and more seeds are added to it.
    code, out, err = cli(*given, "--seeds", "2")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    assert "trained with" in out
    assert err.count("training ...") == 2


def test_a_comma_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="comma"):
        trial.check([tmp_path / "a,b"])
