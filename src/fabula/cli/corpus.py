"""Verbs of the corpus: what it holds, as it stands."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from fabula.cli import console, overrides
from fabula.cli.parts import Source, section
from fabula.cli.recipes import Json, Settings
from fabula.errors import InputError

corpus = App(name="corpus")


@corpus.command(name="show")
def corpus_show(source: Source, /, *, json: Json = False, settings: Settings = ()) -> None:
    """What a corpus holds: documents, lengths, words, what would be dropped, its beginnings."""
    from fabula.corpus.run import survey

    config = section("corpus", [("corpus.source", source), *overrides.split(settings)])
    found = survey(config.corpus)
    if json:
        console.out_json(found)
        return
    sizes, funnel = found["document_bytes"], found["funnel"]
    rows = [
        ("documents", f"{found['documents']:,}"),
        ("text", f"{console.n_bytes(found['bytes'])}, {found['words']:,} words"),
        ("document", f"{sizes['mean']:,.0f} bytes on average, half of them {sizes['p25']:,} to {sizes['p75']:,}"),
        ("different words", f"{found['distinct_words']['count']:,} among {found['distinct_words']['among_first']:,}"),
        ("training", f"{funnel['documents']['train']:,} documents"),
        ("validation", f"{funnel['documents']['validation']:,} documents"),
        (
            "dropped",
            f"{funnel['duplicates']:,} repeated, {funnel['empty']:,} empty, {funnel['quarantined']:,} unreadable",
        ),
    ]
    if found["entropy_bits_per_byte"] is not None:
        rows.append(("entropy", f"{found['entropy_bits_per_byte']:.4f} bits per byte; no model can pass it"))
    console.out(console.table(rows))
    for note in found["notes"]:
        console.out(f"- {note}")
    for first in found["first"]:
        console.out(f"\n[{first['origin']}, {first['split']}]\n{first['text'].strip()}")
        if "target" in first:
            console.out(f"→ {first['target'].strip()}")


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

    config = section("corpus", [("corpus.source", source), *overrides.split(settings)]).corpus
    if config.pair is not None:
        raise InputError(f"{source}: pairs are two texts each and are not written as one; leave out the two fields")
    count = 0
    with storage.open_replacing(out) as file:
        for _, document in Corpus(config).documents(Funnel()):
            file.write(f"{document.text}\n{config.marker}\n".encode())
            count += 1
    console.say(f"{count:,} documents in {out}")
