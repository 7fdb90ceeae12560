"""The notation in which the story grammars are written, and its compiler into nodes of the choosing machine.

[one|2*two|]          alternatives, with whole-number weights (default 1); one may be empty
{list}                draw from a word list (its default form) or, for the name of a rule, the rule
{list.form}           draw in a given form;  {^list} the same with a capital letter
{list@X}              draw in the form that agrees with what X holds
{X=list.form}         draw and remember as X (X is a single letter; {^X=list.form} with a capital);
                       {X:list} remember and write nothing
{X.form}  {^X.form}   recall X in a form (default form if omitted), with a capital letter
{X=y}  {X=y+z}        X is what y holds, or what y and z make together
{?flag}  {+flag}      toss for a flag; raise a flag
¶                     a new paragraph; a line break in the source is a space, or nothing next to "|"
<flag:then|else>      one or the other according to a flag;  <X.f:then|else> according to the gender of X;
                      <#90:then|else> according to whether fewer than 90 blanks have been written
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from .choice import Chain, Draw, Entry, Join, Node, Pick, Raise, Recall, Room, Text, Toss, When, WordList

_WEIGHT = re.compile(r"(\d+)\*")
_TAG = re.compile(
    r"(?P<cap>\^?)(?:(?P<bind>[A-Za-z])(?P<how>[=:]))?(?P<name>[\w+]+)(?:\.(?P<form>\w+)|@(?P<agree>\w))?"
)


_BREAK = re.compile(r"([|¶]?)\n\s*([|¶]?)")


def _unfold(match: re.Match[str]) -> str:
    return match[1] + match[2] or " "


def weighted(source: str) -> tuple[int, str]:
    """Split an optional leading ``N*`` from an alternative."""
    match = _WEIGHT.match(source)
    return (int(match[1]), source[match.end() :]) if match else (1, source)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def spoken(forms: Mapping[str, str]) -> dict[str, Node]:
    """Nodes for plain forms, each also with a capital letter under the key ``^form``."""
    nodes: dict[str, Node] = {}
    for key, text in forms.items():
        nodes[key] = Text(text)
        nodes["^" + key] = Text(capital(text))
    return nodes


class Grammar:
    """Word lists and rules of one language. A rule can only use what was defined before it, so the language
    is finite and compiling finds every misspelt name at once."""

    def __init__(
        self,
        form: str,
        join: Callable[[Entry, Entry], Entry],
        chances: Mapping[str, tuple[float, Mapping[str, float]]],
    ) -> None:
        self.form = form  # the default form
        self.join = join
        self.chances = chances
        self.lists: dict[str, WordList] = {}
        self.rules: dict[str, Node] = {}

    def _claim(self, name: str) -> None:
        """One name, one meaning: a rule must not hide a word list."""
        if name in self.lists or name in self.rules:
            raise ValueError(f"{name} is defined twice")

    def words(self, name: str, entries: Sequence[tuple[int, Entry]]) -> None:
        """Define a word list from entries with their weights."""
        self._claim(name)
        self.lists[name] = WordList(name, [entry for _, entry in entries], [weight for weight, _ in entries])

    def phrases(self, name: str, source: str) -> None:
        """Define a word list of invariable phrases, separated by commas or line ends."""
        entries = []
        for item in re.split(r"[,\n]+", source):
            if item.strip():
                weight, text = weighted(item.strip())
                entries.append((weight, Entry(text, "", spoken({self.form: text}))))
        self.words(name, entries)

    def scenes(self, name: str, rows: Mapping[str, Mapping[str, str]]) -> None:
        """Define a word list whose forms are pieces of story in this notation, by title."""
        entries = []
        for title, row in rows.items():
            forms = {key: self.compile(source, f"{name}/{title}/{key}") for key, source in row.items()}
            entries.append((1, Entry(title, "", forms)))
        self.words(name, entries)

    def rule(self, name: str, *variants: str) -> None:
        """Define a rule as a choice between variants (each with an optional weight)."""
        self._claim(name)
        source = variants[0] if len(variants) == 1 else "[" + "|".join(variants) + "]"
        self.rules[name] = self.compile(source, name)

    def compile(self, source: str, name: str) -> Node:
        source = _BREAK.sub(_unfold, source).replace("¶", "\n")
        node, end = _Reader(self, source, name).chain(0, "")
        if end != len(source):
            raise ValueError(f"{name}: stray {source[end]!r} at {end} in {source!r}")
        return node


class _Reader:
    """Recursive descent over one source text."""

    def __init__(self, grammar: Grammar, source: str, name: str) -> None:
        self.grammar = grammar
        self.source = source
        self.name = name

    def chain(self, at: int, stops: str) -> tuple[Node, int]:
        source = self.source
        parts: list[Node] = []
        literal = ""
        while at < len(source) and source[at] not in stops:
            mark = source[at]
            if mark not in "[{<":
                if mark in "]}>|":
                    break
                literal += mark
                at += 1
                continue
            if literal:
                parts.append(Text(literal))
                literal = ""
            node, at = {"[": self.pick, "{": self.tag, "<": self.when}[mark](at + 1)
            # A chain inside a chain is one chain: fewer steps for every document.
            parts.extend(node.parts if isinstance(node, Chain) else [node])
        if literal:
            parts.append(Text(literal))
        return (parts[0] if len(parts) == 1 else Chain(parts)), at

    def close(self, at: int, mark: str) -> int:
        if self.source[at : at + 1] != mark:
            raise ValueError(f"{self.name}: {mark!r} expected at {at} in {self.source!r}")
        return at + 1

    def pick(self, at: int) -> tuple[Node, int]:
        options, sources, weights = [], [], []
        while True:
            match = _WEIGHT.match(self.source, at)
            weights.append(int(match[1]) if match else 1)
            start = match.end() if match else at
            node, at = self.chain(start, "|]")
            options.append(node)
            sources.append(self.source[start:at])
            if self.source[at : at + 1] == "|":
                at += 1
                continue
            return Pick(options, sources, weights, self.name), self.close(at, "]")

    def when(self, at: int) -> tuple[Node, int]:
        colon = self.source.index(":", at)
        test, _, gender = self.source[at:colon].partition(".")
        then, at = self.chain(colon + 1, "|>")
        other: Node = Node()
        if self.source[at : at + 1] == "|":
            other, at = self.chain(at + 1, ">")
        node = Room(int(test[1:]), then, other) if test[0] == "#" else When(test, gender, then, other)
        return node, self.close(at, ">")

    def tag(self, at: int) -> tuple[Node, int]:
        end = self.source.index("}", at)
        inside = self.source[at:end]
        return self.tag_node(inside), end + 1

    def tag_node(self, inside: str) -> Node:
        grammar = self.grammar
        if inside.startswith("?"):
            flag = inside[1:]
            default, special = grammar.chances[flag]
            return Toss(flag, default, dict(special), "S")
        if inside.startswith("+"):
            return Raise(inside[1:])
        match = _TAG.fullmatch(inside)
        if match is None:
            raise ValueError(f"{self.name}: cannot read {{{inside}}}")
        bind, how, cap, name = match["bind"] or "", match["how"], match["cap"], match["name"]
        form = cap + (match["form"] or grammar.form)
        if bind and (len(name) == 1 or "+" in name):
            first, _, second = name.partition("+")
            return Join(bind, first, second or first, grammar.join if second else _same)
        if len(name) == 1:
            return Recall(name, form)
        if name in grammar.rules and not bind:
            return grammar.rules[name]
        if name not in grammar.lists:
            raise ValueError(f"{self.name}: unknown name in {{{inside}}}")
        if match["agree"]:
            return Draw(grammar.lists[name], cap, match["agree"], bind)
        return Draw(grammar.lists[name], "" if how == ":" else form, "", bind)


def _same(entry: Entry, _: Entry) -> Entry:
    return entry
