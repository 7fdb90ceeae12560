"""Verbs of the corpus: what it holds, what cleaning would do to it, what it is made of."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.parts import Source
from fabula.cli.recipes import Json, Settings
from fabula.cli.tables import cleaning_examples, cleaning_table, dropped_words, source_lines
from fabula.errors import InputError

if TYPE_CHECKING:
    from fabula.config import Data
    from fabula.corpus.run import CorpusConfig

corpus = App(name="corpus")


@corpus.command(name="show")
def corpus_show(source: Source, /, *, json: Json = False, settings: Settings = ()) -> None:
    """What a corpus holds: documents, lengths, words, what would be dropped, its beginnings."""
    from fabula.corpus.survey import survey

    found = survey(_config(source, settings))
    if json:
        console.out_json(found)
        return
    sizes, funnel = found["document_bytes"], found["funnel"]
    name = next(iter(found["records"])) if len(found["records"]) == 1 else "documents"
    turns = f", {found['turns'] / found['documents']:.1f} turns on average" if name == "conversations" else ""
    rows = [
        (name, f"{found['documents']:,}{turns}"),
        ("text", f"{console.n_bytes(found['bytes'])}, {found['words']:,} words"),
        (
            name.removesuffix("s"),
            f"{sizes['mean']:,.0f} bytes on average, half of them {sizes['p25']:,} to {sizes['p75']:,}",
        ),
        ("different words", f"{found['distinct_words']['count']:,} among {found['distinct_words']['among_first']:,}"),
        ("training", f"{funnel['documents']['train']:,} {name}"),
        ("validation", f"{funnel['documents']['validation']:,} {name}"),
        ("dropped", dropped_words(funnel)),
    ]
    if funnel["useless"]:
        rows.append(("set aside", f"{funnel['useless']:,} with nothing to learn; the first: {_first_useless(funnel)}"))
    if found["entropy_bits_per_byte"] is not None:
        rows.append(("entropy", f"{found['entropy_bits_per_byte']:.4f} bits per byte; no model can pass it"))
    console.out(console.table(rows))
    if "cleaning" in funnel:
        console.out(f"\n{cleaning_table(funnel)}\n")
    for note in [*found["notes"], *source_lines(found["sources"])]:
        console.out(f"- {note}")
    for first in found["first"]:
        console.out(f"\n[{first['origin']}, {first['split']}]\n{_beginning(first)}")


def _first_useless(funnel: dict[str, Any]) -> str:
    return next(
        (f"line {r['line']:,}: {r['reason']}" for r in funnel["first_quarantined"] if r["useless"]), "none listed"
    )


def _beginning(first: dict[str, Any]) -> str:
    """The beginning of a record: a text, a pair, the turns of a conversation, or a prompt with both answers."""
    if "text" in first:
        pair = f"\n→ {first['target'].strip()}" if "target" in first else ""
        return f"{first['text'].strip()}{pair}"
    if "turns" in first:
        return _turns(first["turns"])
    return "\n".join(
        [
            _turns(first["prompt"]),
            *(f"{sign} {_turns(first[name])}" for sign, name in (("+", "chosen"), ("-", "rejected"))),
        ]
    )


def _turns(turns: list[dict[str, str]]) -> str:
    return "\n".join(f"{turn['role']}: {turn['content'].strip()}" for turn in turns)


@corpus.command(name="write")
def corpus_write(source: Source, out: Path, /, *, settings: Settings = ()) -> None:
    """Write a corpus as one text file, documents ended by the marker (to look at the generator's, say).

    Parameters
    ----------
    out
        the file to write; it is replaced if it exists
    """
    from fabula import storage
    from fabula.corpus.run import Corpus, Funnel

    config = _config(source, settings)
    if config.pair is not None:
        raise InputError(f"{source}: pairs are two texts each and are not written as one; leave out the two fields")
    count = 0
    with storage.open_replacing(out) as file:
        for _, document in Corpus(config).documents(Funnel()):
            file.write(f"{document.text}\n{config.marker}\n".encode())
            count += 1
    console.say(f"{count:,} documents in {out}")


@corpus.command(name="clean")
def corpus_clean(
    source: Source,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="a .jsonl file to write what is kept to")] = None,
    examples: Annotated[int, Parameter(help="examples of each kind for each step, 3 at most")] = 1,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """What cleaning does to a corpus, step by step, with examples; nothing is written without --out.

    The steps are settings: --corpus.clean.preset light | books | web, and each by itself (docs/clean.md).
    """
    import json as json_library

    from fabula import storage
    from fabula.corpus.run import Corpus, Funnel
    from fabula.progress import stop_on_signals

    config = _config(source, settings)
    if not config.clean.active():
        console.say("nothing is set to be cleaned; shown is --corpus.clean.preset light (others: books, web)")
        config = replace(config, clean=replace(config.clean, preset="light"))
    if out is not None and out.suffix.lower() != ".jsonl":
        raise InputError(f"{out}: what is kept is written as JSONL; name a file that ends in .jsonl")
    made, funnel = Corpus(config), Funnel()
    fields = config.pair or (config.text_field,)
    # Columns without names are known by their numbers.
    names = ("source", "target") if fields[0].isdecimal() else fields
    with contextlib.ExitStack() as stack:
        file = None if out is None else stack.enter_context(storage.open_replacing(out))
        stack.enter_context(stop_on_signals())
        task = stack.enter_context(console.Watcher().task("cleaning", made.estimated_bytes(), "bytes"))
        for _, document in made.documents(funnel, both=False):
            task.advance(sum(len(text.encode("utf-8")) for text in document.texts))
            if file is not None:
                record = dict(zip(names, document.texts, strict=True))
                file.write((json_library.dumps(record, ensure_ascii=False) + "\n").encode("utf-8"))
    found: Data = {"source": config.source, "funnel": funnel.to_data(), "notes": made.notes()}
    if json:
        console.out_json(found)
        return
    console.out(cleaning_table(found["funnel"]))
    kept = sum(funnel.documents.values())
    console.out(
        f"\nkept {kept:,} of {funnel.records:,} documents, {console.n_bytes(sum(funnel.bytes.values()))}; dropped: "
        f"{dropped_words(found['funnel'])}"
    )
    for line in cleaning_examples(found["funnel"], examples):
        console.out(line)
    if out is not None:
        console.say(f"{kept:,} documents in {out}")


@corpus.command(name="report")
def corpus_report(
    source: Source,
    /,
    *,
    html: Annotated[Path | None, Parameter(help="a page to write")] = None,
    sample: Annotated[
        int, Parameter(help="megabytes of text that are looked at closely; a larger corpus is sampled")
    ] = 32,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """What a corpus is made of: topics, languages, lengths, vocabulary, what repeats, and what to know of it."""
    from fabula.cli.composition import lines
    from fabula.corpus.composition.run import run
    from fabula.progress import stop_on_signals
    from fabula.report import composition

    if not 1 <= sample <= 4096:
        raise InputError(
            f"--sample {sample} must be from 1 to 4,096 megabytes; memory for several times that is needed"
        )
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{html}: the page is HTML; name a file that ends in .html")
    config = _config(source, settings)
    with stop_on_signals():
        found = run(config, sample * 1_000_000, console.Watcher())
    if html is not None:
        composition.write(html, found)
        console.say(f"the page: {html}")
    if json:
        console.out_json(found)
        return
    if html is None:
        for line in lines(found):
            console.out(line)


def _config(source: str, settings: Settings) -> CorpusConfig:
    """The corpus that a source and its settings name; other sections have no say here."""
    from fabula.config import Typed, build, nest
    from fabula.corpus.run import CorpusConfig

    given = [("corpus.source", source), *overrides.split(settings)]
    foreign = [name for name, _ in given if name.split(".")[0] != "corpus"]
    if foreign:
        raise InputError(f"{', '.join(foreign)}: this command takes only corpus settings")
    return build(CorpusConfig, nest((name, Typed(value)) for name, value in given)["corpus"], "corpus")
