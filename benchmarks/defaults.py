"""Do the rules of the defaults choose well? Each choice beside its neighbours, with the same FLOPs, on any texts.

    python benchmarks/defaults.py CORPUS... [--budget 3m] [--seeds 1] [--only model.preset]

For each text the recipe that the rules make is taken, its time turned into steps at the measured speed, and one choice
after the other is varied with `fabula compare --match flops`: everything else stays. Runs lie in --runs, and what is
there is not trained again. What Muon and dropout do is in no count of FLOPs: neighbours in batch and dropout are to be
read with the times of their steps beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from fabula import config, pipeline
from fabula.compare import run as compare
from fabula.defaults import run as defaults

VARIED: dict[str, tuple[Any, ...]] = {
    "model.preset": ("fabula-1m", "fabula-3m"),
    "model.n_layers": (1, 2, 3, 4),
    "tokenizer.most_tokens": (1024, 2048, 4096, 8192),
    "model.context_length": (64, 128, 256),
    "train.batch_tokens": (1024, 2048, 4096),
    "model.dropout": (0.0, 0.1, 0.2),
    "train.optimizer.lr": (0.01, 0.02, 0.04),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+")
    parser.add_argument("--budget", default="3m")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", action="append", choices=VARIED, help="a choice to vary; all of them by default")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "defaults")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, a setting that is given")
    asked = parser.parse_args()
    given = [(name, value) for name, _, value in (text.partition("=") for text in asked.set)]
    for corpus in asked.corpora:
        made = defaults.run(corpus, [("train.budget", asked.budget), *given])
        print(f"\n{corpus}, {asked.budget}")
        for name, rule in made.rules.items():
            print(f"  {name.ljust(24)} {rule}")
        planned = pipeline.plan(corpus, {"train.budget": asked.budget, **dict(given)})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{made.name}.toml"
            data = {name: value for name, value in config.to_data(made).items() if name != "rules"}
            path.write_text(config.dump_toml(data), encoding="utf-8")
            for name in asked.only or VARIED:
                vary(path, data, name, int(planned["estimate"]["steps"]), asked)


def vary(path: Path, data: config.Data, name: str, steps: int, asked: argparse.Namespace) -> None:
    """A comparison of one choice with its neighbours; the first variant is what was chosen."""
    value: Any = data
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    chosen = [] if value is None else [str(value)]
    values = [*chosen, *(str(v) for v in VARIED[name] if str(v) not in chosen)]
    found = compare.run(
        compare.CompareConfig(
            recipe=path,
            vary=(f"{name}={','.join(values)}",),
            overrides={"train.budget": f"{steps}steps", "train.checkpoints": "1", "evaluate.checkpoint": "last"},
            seeds=asked.seeds,
            match="flops",
            name=f"{path.stem}-{asked.budget}-{name}",
            runs=asked.runs,
        )
    )
    for row in found["variants"]:
        bits = row["bits_per_byte"]
        label = ", ".join(f"{key}={chosen}" for key, chosen in row["settings"].items())
        said = "came to nothing" if bits is None else f"{bits['mean']:.4f} bits per byte"
        print(f"  {label:32} {row['parameters']:>11,} {row['steps']:>7,} steps {said}", flush=True)


if __name__ == "__main__":
    main()
