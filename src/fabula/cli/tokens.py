"""How do tokens and their figures look in a terminal? Lines of at most a hundred columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from fabula.cli import console
from fabula.config import Data

WIDTH = 100
_LABEL, _COLUMN = 36, 14
_LISTED = 8

# Black on light grounds of the terminal's 256 colours: readable whatever the terminal's own are; neighbours differ.
_GROUNDS = (153, 223, 157, 218)


# ---- a text --------------------------------------------------------------------------------------------------


def drawn(found: Data, coloured: bool) -> list[str]:
    """A text as |to|ken|s|; after a token with a line end a new line begins."""
    lines: list[list[str]] = [[]]
    for number, (piece, raw) in enumerate(zip(found["pieces"], found["bytes"], strict=True)):
        lines[-1].append(f"\x1b[38;5;16;48;5;{_GROUNDS[number % 4]}m{piece}\x1b[0m" if coloured else piece)
        if b"\n" in bytes.fromhex(raw):
            lines.append([])
    kept = lines if lines[-1] or len(lines) == 1 else lines[:-1]
    return ["|" + "|".join(line) + "|" for line in kept]


def listed(found: Data) -> str:
    """Every token with its id and its bytes."""
    rows = [
        (str(number), piece, " ".join(raw[i : i + 2] for i in range(0, len(raw), 2)))
        for number, piece, raw in zip(found["ids"], found["pieces"], found["bytes"], strict=True)
    ]
    return console.table(rows, ("id", "token", "bytes"), right=(0,))


# ---- figures -------------------------------------------------------------------------------------------------


def lines(made: Data) -> list[str]:
    """The report of one tokenizer or the comparison of several."""
    from fabula.tokenizer.report import summary

    rows = made["tokenizers"]
    out = [line for sentence in summary(made) for line in _wrapped(sentence, "")]
    out += ["", *_side_by_side(rows, _figures(made))]
    out += _groups(rows)
    out += _costs(rows)
    if len(rows) == 1:
        out += _vocabulary(rows[0])
    else:
        out += _examples(rows)
    if made["training"] is not None:
        out += _training(made["training"])
    said = [(row["name"], sentence) for row in rows for sentence in row["warnings"]]
    if said:
        out.append("")
    for sentence in dict.fromkeys(text for _, text in said):
        who = [name for name, text in said if text == sentence]
        before = "" if len(who) == len(rows) else f"{', '.join(who)}: "
        out += _wrapped(f"{before}{sentence}", "! ")
    out += ["", *_wrapped("* as measured on this machine now, with all cores; whatever else it did is in it", "")]
    return out


Say = Callable[[Data], str]


def _figures(made: Data) -> list[tuple[str, Say]]:
    rare = made["rare"]
    return [
        ("vocabulary", lambda r: f"{r['vocab_size']:,}"),
        ("tokens of the text", lambda r: f"{r['tokens']:,}"),
        ("bytes a token", lambda r: f"{r['bytes_per_token']:.3f}"),
        ("characters a token", lambda r: f"{r['characters_per_token']:.3f}"),
        ("tokens a word", lambda r: f"{r['tokens_per_word']:.3f}"),
        ("of several words: of the vocabulary", lambda r: _percent(r["multi_word"]["vocabulary_share"])),
        ("    of the text's tokens", lambda r: _percent(r["multi_word"]["text_share"])),
        ("    of the text's bytes", lambda r: _percent(r["multi_word"]["bytes_share"])),
        ("of one byte: of the text's tokens", lambda r: _percent(r["single_byte_share"])),
        ("unused in this text", lambda r: _percent(r["unused"]["vocabulary_share"])),
        (f"rare: 1 to {rare - 1} times in this text", lambda r: _percent(r["rare"]["vocabulary_share"])),
        ("Rényi efficiency", lambda r: f"{r['renyi_efficiency']:.3f}"),
        *(
            (f"odd tokens: {kind['says']}", _artefact(number))
            for number, kind in enumerate(made["tokenizers"][0]["artefacts"])
            if any(row["artefacts"][number]["tokens"] for row in made["tokenizers"])
        ),
        ("encoding, MB/s *", lambda r: f"{r['speed']['bytes_per_second'] / 1e6:.1f}"),
    ]


def _artefact(number: int) -> Say:
    return lambda row: f"{row['artefacts'][number]['tokens']:,}"


def _side_by_side(rows: Sequence[Data], figures: Sequence[tuple[str, Say]]) -> list[str]:
    """Figures down, tokenizers across, in as many tables as the width asks for."""
    beside = (WIDTH - _LABEL) // (_COLUMN + 2)
    out: list[str] = []
    for first in range(0, len(rows), beside):
        part = rows[first : first + beside]
        header = ["", *(_short(row["name"], _COLUMN) for row in part)]
        table = [[label, *(say(row) for row in part)] for label, say in figures]
        out += [*([""] if first else []), *console.table(table, header, right=range(1, len(header))).splitlines()]
    return out


def _groups(rows: Sequence[Data]) -> list[str]:
    """By domain, language and script: bytes a token and tokens a word of each tokenizer."""
    from fabula.report.tokenizers import endings

    out = []
    for title, key in (("source", "domains"), ("language", "languages"), ("script", "scripts")):
        names = [group["name"] for group in rows[0][key]]
        if len(names) < 2 and key != "scripts":
            continue
        found = [{group["name"]: group for group in row[key]} for row in rows]
        labels = endings(names) if key == "domains" else dict(zip(names, names, strict=True))
        if len(rows) == 1:
            out += _group_of_one(title, rows[0][key], labels)
            continue
        figures = [(_short(labels[name], _LABEL), _of(found, rows, name)) for name in names[:_LISTED]]
        out += ["", f"by {title}: bytes a token / tokens a word", *_side_by_side(rows, figures)]
        if len(names) > _LISTED:
            out.append(f"and {len(names) - _LISTED} more with less text (--json has all)")
    return out


def _of(found: Sequence[dict[str, Data]], rows: Sequence[Data], name: str) -> Say:
    by_row = {row["name"]: groups.get(name) for row, groups in zip(rows, found, strict=True)}

    def of(row: Data) -> str:
        group = by_row[row["name"]]
        return "-" if group is None else f"{_two('bytes_per_token')(group)} / {_two('tokens_per_word')(group)}"

    return of


def _two(key: str) -> Say:
    return lambda group: "-" if group[key] is None else f"{group[key]:.3f}"


def _group_of_one(title: str, groups: Sequence[Data], labels: dict[str, str]) -> list[str]:
    header = [title, "text", "bytes/token", "chars/token", "tokens/word"]
    cut = title == "script"
    if cut:
        header.append("characters cut")
    table = []
    for group in groups[: 2 * _LISTED]:
        cells = [_two(key)(group) for key in ("bytes_per_token", "characters_per_token", "tokens_per_word")]
        extra = [_percent(group["cut_share"])] if cut else []
        table.append([_short(labels[group["name"]], 40), console.n_bytes(group["bytes"]), *cells, *extra])
    more = len(groups) - 2 * _LISTED
    return [
        "",
        *console.table(table, header, right=range(1, len(header))).splitlines(),
        *([f"and {more} more with less text (--json has all)"] if more > 0 else []),
    ]


def _costs(rows: Sequence[Data]) -> list[str]:
    """What the vocabulary costs models."""
    from fabula.report.comparison import flops

    if not rows[0]["costs"]:
        return []
    if len(rows) == 1:
        header = ("model", "parameters", "vocabulary's", "its FLOPs", "FLOPs/byte **", "context", "bytes", "words")
        table = [
            (
                _short(cost["preset"], 20),
                f"{cost['parameters']:,}",
                _percent(cost["vocabulary_share"]),
                _percent(cost["vocabulary_flops_share"]),
                flops(cost["training_flops_per_byte"]),
                f"{cost['context_tokens']:,}",
                f"{cost['context_bytes']:,.0f}",
                f"{cost['context_words']:,.0f}",
            )
            for cost in rows[0]["costs"]
        ]
        out = ["", *console.table(table, header, right=range(1, 8)).splitlines()]
        return [*out, *_wrapped("** FLOPs of training for a byte of text in a full context", "")]
    figures: list[tuple[str, Say]] = []
    for number, cost in enumerate(rows[0]["costs"]):
        figures += [
            (f"{_short(cost['preset'], 20)}: parameters", _cost(number, "parameters", "{:,}")),
            ("    of them the vocabulary's", _cost(number, "vocabulary_share", "{:.1%}")),
            ("    the vocabulary's FLOPs", _cost(number, "vocabulary_flops_share", "{:.1%}")),
            ("    training FLOPs a byte of text", _cost(number, "training_flops_per_byte", "{:.3g}")),
            (f"    {cost['context_tokens']:,} tokens of context, in words", _cost(number, "context_words", "{:,.0f}")),
        ]
    most = 3 * 5  # three models; the others are in the page and in the JSON
    return ["", *_side_by_side(rows, figures[:most])]


def _cost(number: int, key: str, form: str) -> Say:
    return lambda row: form.format(row["costs"][number][key])


def _vocabulary(row: Data) -> list[str]:
    """Tokens of one vocabulary, by what they are examples of."""
    lists = [
        ("longest", row["longest"]),
        ("most used", row["most_used"]),
        ("of several words, most used", row["multi_word"]["most_used"]),
        ("unused here, longest", row["unused"]["examples"]),
        ("rare here, longest", row["rare"]["examples"]),
        *((kind["says"], kind["examples"]) for kind in row["artefacts"]),
    ]
    out: list[str] = []
    for title, tokens in lists:
        if tokens:
            out += ["", f"{title}:", *_barred(tokens)]
    return out


def _examples(rows: Sequence[Data]) -> list[str]:
    out = []
    for row in rows:
        out += ["", f"longest tokens of {row['name']}:", *_barred(row["longest"][:_LISTED])]
    return out


def _barred(tokens: Sequence[Data]) -> list[str]:
    """Tokens between bars, on lines that end between two of them."""
    out = [""]
    for token in tokens:
        if out[-1] and len(out[-1]) + len(token["text"]) + 2 > WIDTH - 2:
            out.append("")
        out[-1] += f"|{token['text']}"
    return [f"  {line}|" for line in out]


def _training(made: Data) -> list[str]:
    header = ("trained with", "parameters", "steps", "text read", "bits/byte", "sd", "n", "difference", "")
    table = [
        (
            _short(row["name"], 20),
            f"{row['parameters']:,}",
            f"{row['steps']:,}",
            console.n_bytes(row["text_bytes"]),
            "-" if row["bits_per_byte"] is None else f"{row['bits_per_byte']['mean']:.4f}",
            _deviation(row["bits_per_byte"]),
            "0" if row["bits_per_byte"] is None else str(row["bits_per_byte"]["n"]),
            row["difference"],
            row["verdict"],
        )
        for row in made["rows"]
    ]
    out = ["", *console.table(table, header, right=(1, 2, 3, 4, 5, 6)).splitlines()]
    for sentence in made["notes"]:
        out += _wrapped(sentence, "")
    return [*out, f"report: {made['report']}"]


def _deviation(found: Data | None) -> str:
    return "-" if found is None or found["standard_deviation"] is None else f"{found['standard_deviation']:.4f}"


# ---- words ---------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(text: str, before: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=before,
        subsequent_indent=" " * max(2, len(before)),
        break_on_hyphens=False,
        break_long_words=True,
    )
