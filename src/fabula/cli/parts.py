"""Verbs for one stage at a time: corpus, tokenizer, data, model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.recipes import Json, RecipePath, Settings
from fabula.errors import ConfigError, InputError

if TYPE_CHECKING:
    from fabula.model.kinds import AnyConfig

corpus = App(name="corpus")
tokenizer = App(name="tokenizer")
data = App(name="data")
model = App(name="model")
tokenizer.command(
    "fabula.cli.tokenizer_import:tokenizer_import", name="import", help="Take a tokenizer from elsewhere."
)
tokenizer.command("fabula.cli.tokenizer_chat:tokenizer_chat", name="chat", help="Show a conversation as ids.")
model.command("fabula.cli.masks:masks", name="masks", help="Draw who may see whom.")

Source = Annotated[str, Parameter(help="fables:es, fables:en, a file, a folder, a pattern or hf:owner/name")]
TokenizerPath = Annotated[Path, Parameter(help="a run folder, a tokenizer's folder or its tokenizer.json")]


@corpus.command(name="show")
def corpus_show(source: Source, /, *, json: Json = False, settings: Settings = ()) -> None:
    """What a corpus holds: documents, lengths, words, what would be dropped, its beginnings."""
    from fabula.corpus.survey import survey

    config = _section("corpus", [("corpus.source", source), *overrides.split(settings)])
    found = survey(config.corpus)
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
        (
            "dropped",
            f"{funnel['duplicates']:,} repeated, {funnel['empty']:,} empty, {funnel['quarantined']:,} unreadable",
        ),
    ]
    if funnel["useless"]:
        rows.append(("set aside", f"{funnel['useless']:,} with nothing to learn; the first: {_first_useless(funnel)}"))
    if found["entropy_bits_per_byte"] is not None:
        rows.append(("entropy", f"{found['entropy_bits_per_byte']:.4f} bits per byte; no model can pass it"))
    console.out(console.table(rows))
    for note in [*found["notes"], *source_lines(found["sources"])]:
        console.out(f"- {note}")
    for first in found["first"]:
        console.out(f"\n[{first['origin']}, {first['split']}]\n{_beginning(first)}")


def _first_useless(funnel: dict[str, Any]) -> str:
    return next(
        (f"line {r['line']:,}: {r['reason']}" for r in funnel["first_quarantined"] if r["useless"]), "none listed"
    )


def source_lines(sources: list[dict[str, Any]]) -> list[str]:
    """Licence and citation of every source that has them; who has none is told to say it."""
    lines = []
    for source in sources:
        licence = source["licence"] or "not stated; say it with --corpus.licence"
        where = f" ({source['licence_from']})" if source["licence"] else ""
        lines.append(f"{source['spec']}: licence: {licence}{where}")
        if source["citation"]:
            lines.append(f"{source['spec']}: cite: {' '.join(source['citation'].split())[:300]}")
    return lines


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

    config = _section("corpus", [("corpus.source", source), *overrides.split(settings)]).corpus
    if config.pair is not None:
        raise InputError(f"{source}: pairs are two texts each and are not written as one; leave out the two fields")
    count = 0
    with storage.open_replacing(out) as file:
        for _, document in Corpus(config).documents(Funnel()):
            file.write(f"{document.text}\n{config.marker}\n".encode())
            count += 1
    console.say(f"{count:,} documents in {out}")


@tokenizer.command(name="train")
def tokenizer_train(
    source: Source,
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write")],
    vocab_size: Annotated[str, Parameter(help="tokens, or auto")] = "auto",
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Learn a byte-level BPE tokenizer from a corpus."""
    from fabula.corpus.run import Corpus
    from fabula.tokenizer import run as stage
    from fabula.tokenizer.base import FILE

    given = [("corpus.source", source), ("tokenizer.vocab_size", vocab_size), *overrides.split(settings)]
    recipe = _section("tokenizer", given)
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).exists():
        raise InputError(f"{out}: a folder with other things in it would be replaced; name a new one")
    made = Corpus(recipe.corpus)
    result = stage.run(recipe.tokenizer, made.sample(recipe.tokenizer.sample_bytes), made.training_bytes(), out)
    if json:
        console.out_json({"folder": str(out), **result.facts})
        return
    if result.rule:
        console.say(f"vocabulary: {result.rule}")
    facts = result.facts
    console.out(
        f"{out}: {facts['vocab_size']:,} tokens, {facts['bytes_per_token']:.3f} bytes a token, "
        f"{facts['tokens_per_word']:.3f} tokens a word"
    )


@tokenizer.command(name="view")
def tokenizer_view(
    tokenizer: TokenizerPath,
    text: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    json: Json = False,
) -> None:
    """Show how a text is cut: |to|ken|s|.

    Parameters
    ----------
    text
        the text to cut
    """
    loaded, text = _tokenizer(tokenizer), console.typed(text)
    ids = loaded.encode(text)
    pieces = [loaded.decode([number]) for number in ids]
    if json:
        console.out_json({"text": text, "ids": ids, "pieces": pieces})
        return
    console.out("|" + "|".join(pieces) + "|")
    size = len(text.encode("utf-8"))
    console.out(f"{len(ids):,} tokens, {size:,} bytes, {size / max(1, len(ids)):.2f} bytes a token")


@data.command(name="prepare")
def data_prepare(
    recipe: RecipePath,
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write: tokenizer/ and data/ appear in it")],
    json: Json = False,
    settings: Settings = (),
) -> None:
    """The first stages of a recipe: tokenizer and shards of ids."""
    from fabula import recipe as recipes
    from fabula import storage
    from fabula.corpus.run import Corpus
    from fabula.data import run as stage
    from fabula.progress import stop_on_signals
    from fabula.tokenizer import run as tokenizer_stage

    loaded = recipes.load(recipe, overrides.split(settings))
    made = Corpus(loaded.corpus)
    with stop_on_signals() as stop, storage.lock(out):
        sample = made.sample(loaded.tokenizer.sample_bytes)
        learnt = tokenizer_stage.run(loaded.tokenizer, sample, made.training_bytes(), out / "tokenizer")
        stage.run(loaded.data, made, learnt.tokenizer, out / "data", console.Watcher(), stop)
    data_show(out, json=json)


@data.command(name="show")
def data_show(folder: Path, /, *, json: Json = False) -> None:
    """What shards of ids hold.

    Parameters
    ----------
    folder
        a run folder or a data folder
    """
    from fabula.data.shards import Shards

    shards = Shards(folder / "data" if (folder / "data").is_dir() else folder)
    if json:
        console.out_json(shards.manifest)
        return
    rows = [
        (name, f"{s.n_documents:,}", f"{s.n_tokens:,}", f"{s.n_bytes:,}", f"{s.n_bytes / max(1, s.n_tokens):.3f}")
        for name, s in shards.splits.items()
    ]
    header = ("split", "documents", "tokens", "bytes", "bytes/token")
    console.out(console.table(rows, header, right=(1, 2, 3, 4)))
    funnel = shards.manifest["funnel"]
    console.out(
        f"ids are {shards.dtype.name}, of a vocabulary of {shards.manifest['vocab_size']:,}; dropped: "
        f"{funnel['duplicates']:,} repeated, {funnel['empty']:,} empty, {funnel['quarantined']:,} unreadable"
    )
    for line in source_lines(shards.manifest.get("sources", [])):
        console.out(f"- {line}")


@model.command(name="list")
def model_list(*, json: Json = False) -> None:
    """Every preset with its exact parameter count."""
    from fabula.model.kinds import kind_of
    from fabula.model.presets import presets

    found = [(name, presets.get(name)) for name in presets]
    if json:
        console.out_json(
            [
                {"preset": name, "kind": kind_of(p.config), "parameters": p.config.n_params(), "source": p.source}
                for name, p in found
            ]
        )
        return
    rows = [
        (
            name,
            f"{p.config.n_params():,}",
            _layers(p.config),
            str(p.config.d_model),
            f"{p.config.vocab_size:,}",
            f"{p.config.context_length:,}",
            p.source,
        )
        for name, p in found
    ]
    header = ("preset", "parameters", "layers", "d_model", "vocabulary", "context", "source")
    console.out(console.table(rows, header, right=(1, 2, 3, 4, 5)))


@model.command(name="show")
def model_show(
    preset: Annotated[str, Parameter(help="a preset, or a run folder")],
    /,
    *,
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Parts, parameters, FLOPs and cache of a model; its settings can be changed with --model.NAME VALUE."""
    from fabula.config import to_data
    from fabula.model.kinds import kind_of

    name, config = resolve_model(preset, settings)
    parts = {part: count for part, count in config.parts().items() if count}
    facts = {
        "preset": name,
        "kind": kind_of(config),
        "parameters": config.n_params(),
        "parts": parts,
        "flops_per_token": config.flops_per_token(),
        "training_flops_per_token": config.training_flops_per_token(),
        "cache_bytes": config.cache_bytes(),
        "config": to_data(config),
    }
    if json:
        console.out_json(facts)
        return
    total = config.n_params()
    console.out(f"{name}: {total:,} parameters\n")
    rows = [(part, f"{count:,}", f"{count / total:.1%}") for part, count in parts.items()]
    console.out(console.table(rows, ("part", "parameters", "share"), right=(1, 2)))
    console.out("")
    console.out(
        console.table(
            [
                ("layers", f"{_layers(config)} of width {config.d_model}, context {config.context_length:,}"),
                *(
                    (part, _one_line(to_data(getattr(config, part))))
                    for part in ("attention", "position", "ffn", "norm")
                ),
                ("head", "tied to the embedding" if config.tied else "its own weights"),
                (
                    "FLOPs a token",
                    f"{console.quantity(config.flops_per_token())} forward, three times that in training",
                ),
                ("cache", f"{console.n_bytes(config.cache_bytes())} for a full context in float32"),
            ]
        )
    )


def resolve_model(preset: str, settings: Settings) -> tuple[str, AnyConfig]:
    """A preset's or a run's name and configuration, changed by settings; ConfigError lists what is wrong."""
    from fabula.config import Typed, merge, nest
    from fabula.model.presets import resolve

    if Path(preset).is_dir():
        from fabula import checkpoint

        found = checkpoint.find(Path(preset))
        section: dict[str, Any] = {"preset": found.manifest.get("preset", ""), **_config_of(found.path)}
    else:
        section = {"preset": preset}
    changed = nest((name, Typed(value)) for name, value in overrides.split(settings))
    wrong = [f"{name}: only --model.NAME VALUE is understood here" for name in changed if name != "model"]
    section = merge(section, changed.get("model", {}))
    name, config = resolve(section, wrong)
    if config is None or wrong:
        raise ConfigError(wrong)
    return name, config


def _layers(config: Any) -> str:
    """The number of layers; of an encoder-decoder those that read and those that write."""
    both = (getattr(config, "encoder_layers", 0), getattr(config, "decoder_layers", 0))
    return f"{both[0]} + {both[1]}" if all(both) else str(config.n_layers)


def _one_line(table: dict[str, Any]) -> str:
    kind = table.pop("kind")
    return f"{kind} (" + ", ".join(f"{k}={v}" for k, v in table.items()) + ")"


def _config_of(folder: Path) -> dict[str, Any]:
    from fabula import checkpoint, storage

    found: dict[str, Any] = storage.read_json(folder / checkpoint.CONFIG)
    return found


def _tokenizer(path: Path) -> Any:
    from fabula.tokenizer.base import Tokenizer

    return Tokenizer.load(path / "tokenizer" if (path / "tokenizer").is_dir() else path)


def _section(name: str, given: list[tuple[str, str]]) -> Any:
    """A recipe made of settings alone, of which a verb reads one section."""
    from fabula import recipe

    allowed = {"corpus", name}
    foreign = [setting for setting, _ in given if setting.split(".")[0] not in allowed]
    if foreign:
        raise InputError(f"{', '.join(foreign)}: this command takes only {' and '.join(sorted(allowed))} settings")
    # A recipe's model must fit its corpus; here there is none, so one is named that reads pairs.
    pairs = any(setting == "corpus.source_field" for setting, _ in given)
    return recipe.resolve({"model": {"preset": "fabula-translate-4m"}} if pairs else {}, given)
