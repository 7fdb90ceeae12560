"""Verbs of the tokenizer: learn one, measure one or several on a text, see what it does to a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from fabula.cli import console, overrides
from fabula.cli.parts import Source, section
from fabula.cli.recipes import Json, Runs, Settings
from fabula.errors import DamagedError, InputError

if TYPE_CHECKING:
    from fabula.config import Data
    from fabula.tokenizer.base import Tokenizer

tokenizer = App(name="tokenizer")
tokenizer.command(
    "fabula.cli.tokenizer_import:tokenizer_import", name="import", help="Take a tokenizer from elsewhere."
)
tokenizer.command("fabula.cli.tokenizer_chat:tokenizer_chat", name="chat", help="Show a conversation as ids.")

_ANY = "a run folder, a tokenizer's folder or its tokenizer.json, or a folder of Hugging Face's"
TokenizerPath = Annotated[Path, Parameter(help=_ANY)]
Html = Annotated[Path | None, Parameter(help="write a page as well")]
Models = Annotated[
    tuple[str, ...],
    Parameter(
        name="--model",
        negative=(),
        show_default=False,
        help="a preset or run whose parameters and FLOPs the vocabulary is compared with; may be given again",
    ),
]
MostBytes = Annotated[int, Parameter(help="most bytes of text that are measured, spread evenly over each source")]
Rare = Annotated[int, Parameter(help="a token that occurs less often than this is called rare")]

_MOST_BYTES, _RARE = 16_000_000, 10
# What a view holds: more cannot be looked at, and a page of it would be slow.
_VIEWED_BYTES = 1_000_000


@tokenizer.command(name="train")
def tokenizer_train(
    source: Source,
    /,
    *,
    out: Annotated[Path, Parameter(help="the folder to write")],
    vocab_size: Annotated[str, Parameter(help="tokens, or auto")] = "auto",
    kind: Annotated[str, Parameter(help="bpe, unigram, char or byte")] = "bpe",
    boundary: Annotated[str, Parameter(help="bpe: what merges may not cross: word, superword, none")] = "word",
    pattern: Annotated[str, Parameter(help="what a word is: gpt2, gpt4 or spanish")] = "gpt2",
    json: Json = False,
    settings: Settings = (),
) -> None:
    """Learn a tokenizer from a corpus: byte-level BPE, or another kind."""
    from fabula.corpus.run import Corpus
    from fabula.progress import stop_on_signals
    from fabula.tokenizer import run as stage
    from fabula.tokenizer.base import FILE

    flags = {"vocab_size": vocab_size, "kind": kind, "boundary": boundary, "pattern": pattern}
    given = [("corpus.source", source), *((f"tokenizer.{name}", value) for name, value in flags.items())]
    recipe = section("tokenizer", [*given, *overrides.split(settings)])
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).exists():
        raise InputError(f"{out}: a folder with other things in it would be replaced; name a new one")
    made = Corpus(recipe.corpus)
    sample, size = made.sample(recipe.tokenizer.sample_bytes), made.training_bytes()
    with stop_on_signals() as stop:
        result = stage.run(recipe.tokenizer, sample, size, out, console.Watcher(), stop)
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


@tokenizer.command(name="report")
def tokenizer_report(
    tokenizer: TokenizerPath,
    source: Source,
    /,
    *,
    model: Models = (),
    most_bytes: MostBytes = _MOST_BYTES,
    rare: Rare = _RARE,
    json: Json = False,
    html: Html = None,
    settings: Settings = (),
) -> None:
    """What a tokenizer does to a text, and what its vocabulary is made of.

    Several sources with commas between them are told apart.
    """
    config = section("corpus", [("corpus.source", source), *overrides.split(settings)]).corpus
    _show(_measured([tokenizer], config, model, most_bytes, rare), json, html)


@tokenizer.command(name="compare")
def tokenizer_compare(
    *tokenizers: TokenizerPath,
    on: Annotated[str, Parameter(help="the text: fables:es, a file, a folder or a pattern; or several with commas")],
    model: Models = (),
    most_bytes: MostBytes = _MOST_BYTES,
    rare: Rare = _RARE,
    train: Annotated[
        bool,
        Parameter(negative=(), help="train a small model with each, and compare their bits per byte"),
    ] = False,
    seeds: Annotated[int, Parameter(help="--train: runs with each tokenizer")] = 2,
    name: Annotated[str, Parameter(help="--train: of the comparison's folder")] = "tokenizers",
    runs: Runs = Path("runs"),
    fresh: Annotated[bool, Parameter(negative=(), help="--train: remove an older comparison of that name")] = False,
    json: Json = False,
    html: Html = None,
    settings: Settings = (),
) -> None:
    """Tokenizers side by side on one text; with --train also by the models that are trained with them.

    Each model gets the same training FLOPs on the same text (--corpus.source, else that of --on), and is scored on
    the same held-out text. The settings of a recipe hold for these runs: --train.budget 5m, --model.preset fabula-3m.
    """
    if len(tokenizers) < 2:
        raise InputError("name two tokenizers or more; `fabula tokenizer report` looks at one")
    given = overrides.split(settings)
    mine = [(key, value) for key, value in given if key.startswith("corpus.") and key != "corpus.source"]
    config = section("corpus", [("corpus.source", on), *(mine if train else given)]).corpus
    if train:
        from fabula.compare import tokenizers as trial

        trial.check(tokenizers)  # before minutes of measuring
    made = _measured(list(tokenizers), config, model, most_bytes, rare)
    if train:
        names = [row["name"] for row in made["tokenizers"]]
        settings_of_runs = {"corpus.source": on, **dict(given)}
        made["training"] = trial.run(
            trial.TrialConfig(
                tokenizers=dict(zip(names, map(_place, tokenizers), strict=True)),
                bytes_per_token={row["name"]: row["bytes_per_token"] for row in made["tokenizers"]},
                overrides=settings_of_runs,
                seeds=seeds,
                name=name,
                runs=runs,
                fresh=fresh,
            ),
            console.Watcher(),
        )
    _show(made, json, html)


@tokenizer.command(name="view")
def tokenizer_view(
    tokenizer: TokenizerPath,
    text: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="the text to cut")] = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(help="a text file instead")] = None,
    against: Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False, help="another, beside it")] = (),
    ids: Annotated[bool, Parameter(negative=(), help="list every token with its id and bytes")] = False,
    json: Json = False,
    html: Html = None,
) -> None:
    """Show how a text is cut: |to|ken|s|.

    A space is ·, a line end ↵, a tab →, a part of a character <0xE2>; what stands for itself has a backslash before.
    """
    from fabula.cli.tokens import drawn, listed

    if (text is None) == (file is None):
        raise InputError("give a text or --file FILE, one of the two")
    paths = [tokenizer, *against]
    loaded = [_tokenizer(path) for path in paths]
    shown = _read(file) if file is not None else console.typed(text or "")
    made = _viewed(shown, dict(zip(_names(paths), loaded, strict=True)))
    if html is not None:
        from fabula import storage
        from fabula.report import tokens as page

        storage.write_text(html, page.render(made))
        console.say(f"page: {html}")
    if json:
        first, *others = made["tokenizers"]
        console.out_json({"text": shown, **first, "against": others})
    elif html is None or ids:
        coloured = console.coloured()
        for found in made["tokenizers"]:
            if against:
                console.out(f"{found['name']}:")
            for line in drawn(found, coloured):
                console.out(line, own=coloured)
            if ids:
                console.out(listed(found))
            console.out(_size(found))


def _size(found: Data) -> str:
    n = len(found["ids"])
    return f"{n:,} tokens, {found['n_bytes']:,} bytes, {found['n_bytes'] / max(1, n):.2f} bytes a token"


def _viewed(text: str, tokenizers: dict[str, Tokenizer]) -> Data:
    """What each tokenizer makes of a text. `pieces` are for people, `bytes` are exact (hexadecimal)."""
    from fabula.tokenizer import showing

    made = []
    for name, tokenizer in tokenizers.items():
        ids = tokenizer.encode(text)
        raw = showing.pieces(tokenizer, ids)
        made.append(
            {
                "name": name,
                "vocab_size": tokenizer.vocab_size,
                "changes": tokenizer.changes,
                "n_bytes": len(text.encode("utf-8")),
                "words": len(text.split()),
                "ids": ids,
                "pieces": [showing.shown(piece) for piece in raw],
                "bytes": [piece.hex() for piece in raw],
            }
        )
    return {"text": text, "tokenizers": made}


def _read(file: Path) -> str:
    """The text of a file, its beginning where it is long; InputError when it is no text."""
    from fabula.corpus.document import Quarantined, decode
    from fabula.corpus.streams import head

    raw = head(file, _VIEWED_BYTES + 1)
    if len(raw) > _VIEWED_BYTES:
        console.say(f"{file}: the first {_VIEWED_BYTES / 1e6:,.0f} MB are shown")
        raw = raw[:_VIEWED_BYTES]
        # Not in the middle of a character.
        while raw and raw[-1] & 0xC0 == 0x80:
            raw = raw[:-1]
        raw = raw[:-1]
    text = decode(raw, str(file), 1, 0)
    if isinstance(text, Quarantined):
        raise InputError(f"{text.place}: {text.reason}: {text.excerpt}")
    return text.removeprefix("\ufeff")


def _measured(paths: list[Path], config: Any, models: tuple[str, ...], most_bytes: int, rare: int) -> Data:
    """The figures of tokenizers on a corpus, and what their vocabularies cost models."""
    from fabula import __version__
    from fabula.cli.parts import resolve_model
    from fabula.corpus.run import Corpus
    from fabula.model.presets import presets
    from fabula.plan.vocabulary import cost
    from fabula.progress import stop_on_signals
    from fabula.tokenizer import report as stage
    from fabula.tokenizer.material import Material

    usual = [name for name in presets if name.startswith("fabula-") and "translate" not in name]
    priced = [resolve_model(model, ()) for model in models or usual]
    loaded = dict(zip(_names(paths), (_tokenizer(path) for path in paths), strict=True))
    with stop_on_signals() as stop:
        found = stage.run(loaded, Material(Corpus(config), most_bytes), rare, console.Watcher(), stop)
    made = {**found, "fabula": __version__}
    for row in made["tokenizers"]:
        row["costs"] = [
            cost(label, model, row["vocab_size"], row["bytes_per_token"], row["tokens_per_word"])
            for label, model in priced
        ]
    return made


def _show(made: Data, json: bool, html: Path | None) -> None:
    from fabula.cli.tokens import lines

    if html is not None:
        from fabula import storage
        from fabula.report import tokenizers as page

        storage.write_text(html, page.render(made))
        console.say(f"page: {html}")
    if json:
        console.out_json(made)
        return
    for line in lines(made):
        console.out(line)


def _names(paths: list[Path]) -> list[str]:
    """What tokenizers are called: as short as tells them apart."""
    short = [path.parent if path.name in ("tokenizer", "tokenizer.json") else path for path in paths]
    names = [path.name or str(path.resolve().name) for path in short]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: named twice; compare it with another")
    return names


def _place(path: Path) -> Path:
    """Where the tokenizer of a run is, and any other by itself."""
    return path / "tokenizer" if (path / "tokenizer").is_dir() else path


def _tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a run, of a folder or of a file; also one that lies as Hugging Face's tools leave it."""
    from fabula.tokenizer.base import FILE, Tokenizer
    from fabula.tokenizer.foreign import FILE as SPECIAL

    place = _place(path)
    try:
        return Tokenizer.load(place)
    except DamagedError:
        folder = place if place.is_dir() else place.parent
        theirs = any((folder / name).is_file() for name in ("tokenizer_config.json", "special_tokens_map.json"))
        if not theirs or (folder / SPECIAL).is_file():
            raise
    from fabula.export import hf_tokenizer
    from fabula.tokenizer import published
    from fabula.tokenizer.foreign_files import small_json

    config = small_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return hf_tokenizer.read(folder, config, published.size(small_json(folder / FILE)))
