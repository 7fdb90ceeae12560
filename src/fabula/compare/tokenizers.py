"""Which tokenizer makes the better model? One small model trained with each, compared by bits per byte.

What is alike: the text and what is held out of it, the model but for its vocabulary, the seeds, and the FLOPs of the
training. FLOPs, because they are what training costs: with as many tokens a tokenizer of long tokens would read more
text for free, with as many bytes of text a large vocabulary would cost more and not be charged for it. A time is no
budget between runs of one machine (see `budget.py`); FLOPs are the time of a machine that does nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fabula import pipeline
from fabula.compare import run as comparison
from fabula.config import Data
from fabula.errors import InputError
from fabula.progress import Progress
from fabula.report.comparison import difference

SETTING = "tokenizer.path"
RECIPE = "tokenizers.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """Tokenizers by name, and the settings that hold for all runs. `bytes_per_token` says how much text was read."""

    tokenizers: Mapping[str, Path]
    bytes_per_token: Mapping[str, float]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 2
    name: str = "tokenizers"
    runs: Path = pipeline.RUNS
    fresh: bool = False


def check(paths: Sequence[Path]) -> None:
    """InputError for a path that cannot be a value of a varied setting."""
    for path in paths:
        if "," in str(path):
            raise InputError(f"{path}: a comma in the name of a tokenizer; rename the folder to train with it")


def run(config: TrialConfig, progress: Progress | None = None) -> Data:
    """The models' figures, in the order of the tokenizers; errors are those of a comparison."""
    check(list(config.tokenizers.values()))
    with resources.as_file(resources.files("fabula.compare").joinpath(RECIPE)) as recipe:
        made = comparison.run(
            comparison.CompareConfig(
                recipe=recipe,
                vary=(f"{SETTING}={','.join(str(path) for path in config.tokenizers.values())}",),
                overrides=config.overrides,
                seeds=config.seeds,
                match="flops",
                name=config.name,
                runs=config.runs,
                fresh=config.fresh,
            ),
            progress,
        )
    rows = []
    for number, (name, row) in enumerate(zip(config.tokenizers, made["variants"], strict=True)):
        said, verdict = difference(row, number == 0)
        rows.append(
            {
                "name": name,
                **{key: row[key] for key in ("parameters", "steps", "tokens", "flops")},
                "text_bytes": row["tokens"] * config.bytes_per_token[name],
                "bits_per_byte": row["bits_per_byte"],
                "values": [run["bits_per_byte"] for run in row["runs"] if run.get("bits_per_byte") is not None],
                "difference": said,
                "verdict": verdict,
                "failed": [f"seed {run['seed']}: {run['reason']}" for run in row["runs"] if run["reason"]],
            }
        )
    budget = made["budget"]
    return {
        "rows": rows,
        "seeds": made["seeds"],
        "budget": budget,
        "folder": str(config.runs / config.name),
        "report": made["report"],
        "notes": [
            f"bits per byte of held-out text, lower is better; every model got the training FLOPs of the first: "
            f"{budget['given']}, {budget['rule']}",
            "the text read is estimated from the bytes a token above; difference to the first, paired by seed, with "
            "half of its 95 % interval",
            *(f"{row['name']}: {reason}" for row in rows for reason in row["failed"]),
        ],
    }
