"""The verb compare: variants of a recipe side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.recipes import Json, RecipePath, Runs, Scale, Settings, with_scale
from fabula.cli.settings import epilogue
from fabula.config import Data
from fabula.errors import FabulaError
from fabula.progress import stop_on_signals

Vary = Annotated[
    tuple[str, ...],
    Parameter(
        negative=(),
        show_default=False,
        help="a setting and its values: NAME=VALUE,VALUE,...; several make every combination",
    ),
]

WORDS = {"tokens": "tokens", "flops": "FLOPs"}

compare = App(name="compare", help_epilogue=epilogue(), help_format="plaintext")


@compare.default
def _compare(
    recipe: RecipePath,
    /,
    *,
    vary: Vary = (),
    seeds: Annotated[int, Parameter(help="runs of each variant; more may be asked for later")] = 2,
    match: Annotated[
        Literal["tokens", "flops"], Parameter(help="what the variants have alike: the first one's tokens or its FLOPs")
    ] = "tokens",
    name: Annotated[str | None, Parameter(help="of the comparison; the recipe's with -compare by default")] = None,
    runs: Runs = Path("runs"),
    scale: Scale = None,
    fresh: Annotated[bool, Parameter(negative=(), help="remove an older comparison of that name first")] = False,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Variants of a recipe, trained on the same data with the same budget and seeds, side by side.

    Every combination of the varied settings is trained with every seed; the first value of each setting makes the
    variant that the others are compared with. The same command goes on where it was stopped.
    """
    with stop_on_signals():
        from fabula.compare import run as stage

        config = stage.CompareConfig(
            recipe=recipe,
            vary=tuple(vary),
            overrides=dict(overrides.split(with_scale(settings, scale))),
            seeds=seeds,
            match=match,
            name=name,
            runs=runs,
            fresh=fresh,
        )
        made = stage.run(config, console.Watcher())
    if json:
        console.out_json(made)
    else:
        for line in _lines(made):
            console.out(line)
    failed = stage.failures(made)
    if failed:
        total = sum(len(row["runs"]) for row in made["variants"])
        labels = dict.fromkeys(label for label, _ in failed)
        raise FabulaError(f"{len(failed)} of {total} runs came to nothing: {'; '.join(labels)}")


def _lines(made: Data) -> list[str]:
    """The table and what has to be said about it."""
    from fabula.compare.variants import short_names
    from fabula.report.comparison import difference, flops, troubles

    varied = short_names(list(made["asked"]["vary"]))
    header = [
        *varied,
        "parameters",
        "steps",
        "tokens",
        "FLOPs",
        "bits/byte",
        "sd",
        "range",
        "n",
        "difference",
        "",
        "tokens/s*",
    ]
    rows = []
    for number, row in enumerate(made["variants"]):
        found, speed = row["bits_per_byte"], row["tokens_per_second"]
        said, verdict = difference(row, number == 0)
        figures = ["-", "-", "-", "0"]
        if found is not None:
            deviation = found["standard_deviation"]
            figures = [
                f"{found['mean']:.4f}",
                "-" if deviation is None else f"{deviation:.4f}",
                "-" if found["n"] == 1 else f"{found['low']:.4f} - {found['high']:.4f}",
                str(found["n"]),
            ]
        rows.append(
            [
                *row["settings"].values(),
                f"{row['parameters']:,}",
                f"{row['steps']:,}",
                f"{row['tokens']:,}",
                flops(row["flops"]),
                *figures,
                said,
                verdict,
                "-" if speed is None else f"{speed:,.0f}",
            ]
        )
    n = len(varied)
    right = [*range(n, n + 5), n + 5, n + 7, n + 10]
    lines = ["", *console.table(rows, header, right=right).splitlines(), ""]
    lines += troubles(made["variants"])
    lines += [f"note: {sentence}" for sentence in made["notes"]]
    budget = made["budget"]
    lines += [
        "bits/byte of the validation text, lower is better; sd and range over seeds",
        "difference to the first variant, paired by seed, with half of its 95 % interval (Student's t)",
        "* as it happened to be while the runs were made; indicative only",
        f"budget {budget['given']}: {budget['rule']}; every variant has the first one's {WORDS[budget['match']]}",
        f"report: {made['report']}",
    ]
    return lines
