"""Verbs that take a recipe: run, plan, train, resume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from fabula import storage
from fabula.cli import console, overrides
from fabula.cli.settings import epilogue
from fabula.cli.tables import MEMORY_HEADER, example_rows, memory_rows, translation_rows
from fabula.config import Data, load_toml
from fabula.defaults.request import is_text, name_of
from fabula.distributed.launch import Launch
from fabula.errors import InputError
from fabula.progress import stop_on_signals
from fabula.recipe import run_name

Settings = Annotated[
    tuple[str, ...],
    Parameter(name="--set", negative=(), show_default=False, help="a setting as NAME=VALUE; --NAME VALUE is the same"),
]
RecipePath = Annotated[Path, Parameter(help="a recipe, for example recipes/fables.toml")]
RecipeOrText = Annotated[
    str,
    Parameter(
        help="a recipe (.toml), or a text (a file, a folder, a pattern, hf:owner/name, fables:es): then the rest is "
        "chosen by its size, the budget and this machine"
    ),
]
Budget = Annotated[
    str | None, Parameter(help="how long, as --train.budget: 90s, 10m, 1h, 200steps, 20Mtokens, 3epochs")
]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="one JSON document on stdout")]
Runs = Annotated[Path, Parameter(name="--runs", help="the folder of all runs")]
Name = Annotated[str | None, Parameter(help="the run's name; the recipe's by default")]
Scale = Annotated[str | None, Parameter(help="one of the recipe's scales, for example cpu")]
Compile = Annotated[Literal["auto", "on", "off"] | None, Parameter(help="torch.compile; short for --train.compile")]
Measure = Annotated[bool, Parameter(negative=(), help="try batches and number formats: their memory and speed")]
Fresh = Annotated[bool, Parameter(negative=(), help="remove an older run of that name first")]

# Translations that the end of a run shows.
_EXAMPLES = 5

run = App(name="run", help_epilogue=epilogue(), help_format="plaintext")
train = App(name="train", help_epilogue=epilogue(), help_format="plaintext")
plan = App(name="plan", help_epilogue=epilogue(), help_format="plaintext")
resume = App(name="resume")


@run.default
def _run(
    recipe: RecipeOrText,
    /,
    *,
    budget: Budget = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    scale: Scale = None,
    fresh: Fresh = False,
    compile: Compile = None,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Every stage of a recipe: from text to a trained model and its report.

    With a text in the place of the recipe and a --budget, vocabulary, model and training are chosen, each choice with
    its reason; what is given (--model.preset fabula-3m) stands. A stopped run is continued, stages that are up to date
    are skipped. Ctrl-C saves and leaves.
    """
    _show(_all(recipe, name, runs, fresh, _with(settings, scale, budget, compile), None), json)


@train.default
def _train(
    recipe: RecipeOrText,
    /,
    *,
    budget: Budget = None,
    name: Name = None,
    runs: Runs = Path("runs"),
    scale: Scale = None,
    fresh: Fresh = False,
    compile: Compile = None,
    json: Json = False,
    find_lr: Annotated[
        bool, Parameter(negative=(), help="train nothing: raise the rates step by step, draw the loss, suggest rates")
    ] = False,
    lr_steps: Annotated[int, Parameter(help="steps of --find-lr")] = 150,
    out: Annotated[Path | None, Parameter(help="the drawing of --find-lr as a page, FILE.html")] = None,
    settings: Settings = (),
) -> None:
    """The stages of a recipe up to the trained model; no final evaluation.

    Several processes, on one machine or many, train one model: torchrun --nproc-per-node 2 -m fabula train RECIPE
    (run and resume alike; --train.parallel says how they share the work).
    """
    if find_lr:
        from fabula.cli import find_lr as finding

        if Launch.read(os.environ) is not None:
            raise InputError("--find-lr looks in one process: start it without torchrun")
        if fresh:
            raise InputError("--fresh removes a run, --find-lr leaves every run alone: give one of them")
        if is_text(recipe):
            raise InputError(
                f"--find-lr needs a recipe, {recipe} is a text; a run of it leaves one: runs/NAME/recipe.toml"
            )
        finding.find_lr(Path(recipe), with_budget(with_scale(settings, scale), budget), name, runs, lr_steps, out, json)
        return
    if out is not None:
        raise InputError("--out is the page of --find-lr; a run's own report is in its folder")
    _show(_all(recipe, name, runs, fresh, _with(settings, scale, budget, compile), "train"), json)


def with_scale(settings: Settings, scale: str | None) -> Settings:
    """The settings with the scale among them."""
    return settings if scale is None else (*settings, f"scale={scale}")


def with_budget(settings: Settings, budget: str | None) -> Settings:
    """The settings with the budget among them; InputError where there are two."""
    if budget is None:
        return settings
    if any(name == "train.budget" for name, _ in overrides.split(settings)):
        raise InputError("--budget and --train.budget are the same setting: give one of them")
    return (*settings, f"train.budget={budget}")


def _with(settings: Settings, scale: str | None, budget: str | None, compiled: str | None) -> Settings:
    """The settings with those among them that have a short name."""
    found = with_budget(with_scale(settings, scale), budget)
    return found if compiled is None else (*found, f"train.compile={compiled}")


def _all(recipe: str, name: str | None, runs: Path, fresh: bool, settings: Settings, until: str | None) -> Any:
    """The stages of a recipe. Signals are heard from here; what is quickly told is told before torch is imported."""
    given = dict(overrides.split(settings))
    launch = _launch()
    if is_text(recipe):
        if launch is not None:
            raise InputError(
                f"{recipe} is a text: choices are measured by one process. Begin without torchrun; its recipe.toml "
                "is then a recipe for several processes"
            )
        called = name or given.get("name") or name_of(recipe)
    else:
        called = name or run_name(load_toml(Path(recipe)), Path(recipe), given)
    with stop_on_signals():
        if launch is None or launch.leads:
            storage.refuse_if_held(runs / called)
        from fabula import pipeline

        watcher = console.Watcher()
        made = pipeline.run(
            recipe, given, name=name, runs=runs, fresh=fresh, progress=watcher, until=until, launch=launch
        )
        return made if launch is None or launch.leads else None


def _launch() -> Launch | None:
    """The place that torchrun gave to this process."""
    launch = Launch.read(os.environ)
    if launch is not None:
        # torch would print its stack before we say which process is lost. It looks when it is imported.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    return launch


@resume.default
def _resume(run_folder: Path, /, *, json: Json = False, settings: Settings = ()) -> None:
    """Continue a stopped run from its newest checkpoint; needs nothing but its folder.

    Parameters
    ----------
    run_folder
        the folder of the run, for example runs/fables
    """
    launch = _launch()
    with stop_on_signals():
        if launch is None or launch.leads:
            storage.refuse_if_held(run_folder)
        from fabula import pipeline

        given = dict(overrides.split(settings))
        result = pipeline.resume(run_folder, progress=console.Watcher(), overrides=given, launch=launch)
    if launch is None or launch.leads:
        _show(result, json)


@plan.default
def _plan(
    recipe: RecipeOrText,
    /,
    *,
    budget: Budget = None,
    scale: Scale = None,
    measure: Measure = False,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """What a recipe would take on this machine: parameters, FLOPs, steps, memory, time. Trains nothing.

    Of a text it says as well what would be chosen, and why.
    """
    from fabula import pipeline

    given = dict(overrides.split(with_budget(with_scale(settings, scale), budget)))
    planned = pipeline.plan(recipe, given, console.Watcher(), memory=measure)
    if json:
        console.out_json(planned)
        return
    if planned["choices"]:
        console.out(console.table([(row["name"], row["value"], row["reason"]) for row in planned["choices"]]))
        console.out("")
    for line in _plan_lines(planned):
        console.out(line)
    if measure:
        console.out("")
        console.out(console.table(memory_rows(planned["memory_table"]), MEMORY_HEADER, right=(0, 2, 3, 4)))


def _plan_lines(planned: Data) -> list[str]:
    e = planned["estimate"]
    n = console.quantity
    rows = [
        ("model", f"{planned['preset']}, {e['parameters']:,} parameters, vocabulary {planned['vocab_size']:,}"),
        ("text", f"{console.n_bytes(planned['corpus_bytes'])}, about {n(planned['epoch_tokens'])} tokens"),
        ("step", f"{e['tokens_per_step']:,} tokens, {e['step_seconds'] * 1e3:,.0f} ms (measured here)"),
        ("steps", f"{e['steps']:,}: {planned['rules']['train.steps']}"),
        ("tokens", f"{n(e['tokens'])}, {e['epochs']:.2f} passes over the text"),
        ("FLOPs", f"{n(e['training_flops_per_token'])} a token, {n(e['total_flops'])} in all"),
        (
            "speed",
            f"{e['tokens_per_second']:,.0f} tokens/s, {n(e['flops_per_second'])}FLOP/s, "
            f"{e['utilisation']:.0%} of this machine's measured {n(e['peak_flops_per_second'])}FLOP/s",
        ),
        ("time", console.clock(e["seconds"])),
        ("weights", f"{console.n_bytes(e['weights_bytes'])}; a checkpoint {console.n_bytes(e['checkpoint_bytes'])}"),
        (
            "memory",
            f"{console.n_bytes(planned['peak_memory_bytes'])} at most (measured by real steps here), "
            f"{console.n_bytes(planned['memory_bytes'])} free; weights, gradients and moments are "
            f"{console.n_bytes(e['state_bytes'])} of it",
        ),
        ("disk", f"{console.n_bytes(planned['disk_bytes'])}, {console.n_bytes(planned['free_disk_bytes'])} free"),
    ]
    packed = planned.get("packing")
    if packed:
        rows.insert(
            2,
            (
                "rows",
                f"{packed['packing']}: about {packed['waste']:.1%} padding, {packed['cut'] / packed['documents']:.1%} "
                f"of the documents cut (from the lengths of {packed['documents']:,} of them)",
            ),
        )
    lines = console.table(rows).splitlines()
    return lines + [f"advice: {sentence}" for sentence in planned["advice"]]


def _show(result: Any, json: bool) -> None:
    """The end of a run: one JSON document, or the summary table, a sample and the report's path.

    Nothing where another process of the run tells it (None).
    """
    if result is None:
        return
    if json:
        console.out_json(
            {
                "run": str(result.folder),
                "summary": result.summary,
                "evaluation": result.evaluation,
                "samples": result.samples,
                "report": str(result.report),
            }
        )
        return
    found = result.evaluation.get("translation")
    if found:
        console.out("")
        console.out(console.table(example_rows(found["examples"][:_EXAMPLES]), ("source", "written", "reference")))
    else:
        for sample in result.samples[:1]:
            console.out("")
            between = "\n→ " if sample.get("kind") == "translation" else ""
            console.out(f"{sample['prompt']}{between}{sample['text']}".strip())
    console.out("")
    console.out(console.table(_summary_rows(result)))


def _summary_rows(result: Any) -> list[tuple[str, str]]:
    summary, trained = result.summary, result.summary.get("train", {})
    data, model = summary["data"], summary["model"]
    rows = [
        ("run", str(result.folder)),
        ("model", f"{model['preset']}, {model['parameters']:,} parameters"),
        (
            "trained on",
            f"{data['train']['documents']:,} {data.get('records', 'documents')}, "
            f"{console.n_bytes(data['train']['bytes'])}, {data['train']['tokens']:,} tokens "
            f"({summary['tokenizer']['bytes_per_token']:.2f} bytes each)",
        ),
    ]
    if trained:
        rows.append(
            (
                "training",
                f"{trained['steps']:,} steps, {trained['tokens']:,} tokens in {console.clock(trained['seconds'])} "
                f"({trained['tokens_per_second']:,.0f} tokens/s), {trained['epochs']:.2f} passes",
            )
        )
        if "ended_early" in trained:
            rows.append(("ended early", trained["ended_early"]))
        if "weights" in trained:
            rows.append(("weights", f"{trained['weights']}, the better of both at the end (averaged or raw)"))
        for name, part in trained.get("mixture", {}).items():
            rows.append((f"  {name}", f"{part['share']:.1%} of the tokens, read {part['passes']:.2f} times"))
        rows.append(("memory", f"{console.n_bytes(trained['peak_memory_bytes'])} at most"))
    if result.evaluation:
        scored = result.evaluation["validation"]
        rows.append(
            (
                "validation",
                f"{scored['bits_per_byte']:.4f} bits per byte, perplexity {scored['perplexity']:.2f} "
                f"({result.evaluation['checkpoint']}, {console.n_bytes(scored['bytes'])} of unseen text)",
            )
        )
        for name, part in scored.get("components", {}).items():
            rows.append((f"  {name}", f"{part['bits_per_byte']:.4f} bits per byte ({console.n_bytes(part['bytes'])})"))
        if "translation" in result.evaluation:
            rows += translation_rows(result.evaluation["translation"])
        bits, size = data["validation"].get("surprisal_bits"), data["validation"]["bytes"]
        if bits is not None:
            rows.append(
                ("limit", f"{bits / size:.4f} bits per byte: the entropy of the generator; no model can pass it")
            )
    spent = summary.get("energy")
    if spent:
        rows.append(("energy", f"{spent['sentence']} (an estimate; electricity of {spent['place']})"))
    rows.append(("stages", ", ".join(_stage(row) for row in summary["stages"])))
    rows.append(("report", str(result.report)))
    rows.append(("next", f'fabula generate {result.folder} --prompt "..."'))
    return rows


def _stage(row: Data) -> str:
    return f"{row['stage']} {'up to date' if row['skipped'] else console.clock(row['seconds'])}"
