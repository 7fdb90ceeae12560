"""The choosing machine: what can be told, how it is told at random, and how a text is read back.

A story grammar is a tree of nodes. Every node can do three things:

* ``tell``: write itself once, drawing every random choice through the `Telling`, which adds up the
  surprisal (-log2 of the exact probability) of what was drawn;
* ``read``: match itself against a given text and yield every derivation that fits. It is a depth-first
  search that drops a branch at the first character that differs, so it is exact and cheap;
* ``span``: bound the number of blanks written so far, which proves the limits on the length of a fable.

There are only three places where chance enters: `Pick`, `Draw` and `Toss`. Keeping them so few is what
makes the entropy of the corpus exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from .lots import ChoicePoint, Lot


class Entry:
    """One entry of a word list: a word with its grammatical forms, or a situation with its scenes.

    ``gender`` is the key that agreeing words are looked up with (for instance "m", "f", "mp", "fp").
    """

    __slots__ = ("name", "gender", "forms")

    def __init__(self, name: str, gender: str, forms: dict[str, Node]) -> None:
        self.name = name
        self.gender = gender
        self.forms = forms


class Telling:
    """The state of one document while it is being told."""

    __slots__ = ("random", "out", "bits", "bound", "flags", "used", "blanks", "counted")

    def __init__(self, seed: int) -> None:
        self.random: Callable[[], float] = Random(seed).random
        self.out: list[str] = []
        self.bits = 0.0
        self.bound: dict[str, Entry] = {}
        self.flags: dict[str, bool] = {}
        self.used: dict[WordList, list[int]] = {}
        self.blanks = 0  # in the first ``counted`` pieces of ``out``
        self.counted = 0

    def count_blanks(self) -> int:
        """Blanks written so far; each piece is counted only once."""
        self.blanks += blanks("".join(self.out[self.counted :]))
        self.counted = len(self.out)
        return self.blanks


@dataclass(frozen=True, slots=True)
class Memory:
    """The state of one derivation while a text is being read. It is never changed, only replaced, because
    the branches of the search share it."""

    bound: dict[str, Entry] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    used: dict[WordList, tuple[int, ...]] = field(default_factory=dict)

    def binding(self, variable: str, entry: Entry) -> Memory:
        return Memory({**self.bound, variable: entry}, self.flags, self.used)

    def flagging(self, flag: str, value: bool) -> Memory:
        return Memory(self.bound, {**self.flags, flag: value}, self.used)

    def using(self, words: WordList, index: int) -> Memory:
        return Memory(self.bound, self.flags, {**self.used, words: (*self.used.get(words, ()), index)})


# A step of reading: position after the match (characters), memory after it, surprisal spent (bits).
Step = tuple[int, Memory, float]


# Least and greatest number of blanks (spaces and newlines) before some point of the story.
Span = tuple[int, int]


@dataclass(slots=True)
class Outlook:
    """What `Node.span` may assume: the entries fixed beforehand and those a variable may hold so far."""

    fixed: dict[str, Entry] = field(default_factory=dict)
    possible: dict[str, set[Entry]] = field(default_factory=dict)


def widest(spans: Sequence[Span]) -> Span:
    return min(least for least, _ in spans), max(most for _, most in spans)


def blanks(text: str) -> int:
    return text.count(" ") + text.count("\n")


class Node:
    """A piece of story. The base class is the empty piece."""

    __slots__ = ()

    def tell(self, telling: Telling) -> None:
        """Write this piece at the end of the telling."""

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        """Yield every way in which this piece matches ``text`` from character ``at``."""
        yield at, memory, 0.0

    def span(self, outlook: Outlook, before: Span) -> Span:
        """Blanks after this piece, given the blanks before it."""
        return before

    def children(self) -> Sequence[Node]:
        return ()


class Text(Node):
    """Fixed text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def tell(self, telling: Telling) -> None:
        telling.out.append(self.text)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        if text.startswith(self.text, at):
            yield at + len(self.text), memory, 0.0

    def span(self, outlook: Outlook, before: Span) -> Span:
        own = blanks(self.text)
        return before[0] + own, before[1] + own


class Chain(Node):
    """Pieces one after the other."""

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Node]) -> None:
        self.parts = tuple(parts)

    def tell(self, telling: Telling) -> None:
        for part in self.parts:
            if type(part) is Text:  # spares a call for half of all parts
                telling.out.append(part.text)
            else:
                part.tell(telling)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        return self._read_from(0, text, at, memory)

    def _read_from(self, index: int, text: str, at: int, memory: Memory) -> Iterator[Step]:
        if index == len(self.parts):
            yield at, memory, 0.0
            return
        for here, after, bits in self.parts[index].read(text, at, memory):
            for end, last, more in self._read_from(index + 1, text, here, after):
                yield end, last, bits + more

    def span(self, outlook: Outlook, before: Span) -> Span:
        for part in self.parts:
            before = part.span(outlook, before)
        return before

    def children(self) -> Sequence[Node]:
        return self.parts


class Pick(Node):
    """One of several alternatives written on the spot."""

    __slots__ = ("options", "sources", "lot", "name")

    def __init__(self, options: Sequence[Node], sources: Sequence[str], weights: Sequence[int], name: str) -> None:
        if len(set(sources)) != len(sources):
            raise ValueError(f"{name}: two alternatives are the same text, so the choice would leave no trace")
        self.options = tuple(options)
        self.sources = tuple(sources)
        self.lot = Lot(weights)
        self.name = name

    def tell(self, telling: Telling) -> None:
        lot = self.lot
        index = lot.draw(telling.random())
        telling.bits += lot.bits[index]
        option = self.options[index]
        if type(option) is Text:  # the most frequent case, without a further call
            telling.out.append(option.text)
        else:
            option.tell(telling)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        for option, cost in zip(self.options, self.lot.bits, strict=True):
            for end, after, bits in option.read(text, at, memory):
                yield end, after, bits + cost

    def span(self, outlook: Outlook, before: Span) -> Span:
        return widest([option.span(outlook, before) for option in self.options])

    def children(self) -> Sequence[Node]:
        return self.options

    def point(self) -> ChoicePoint:
        total = self.lot.total
        return ChoicePoint(
            self.name,
            tuple((source, w / total) for source, w in zip(self.sources, self.lot.weights, strict=True)),
        )


class WordList:
    """A named list of entries from which a document never draws the same entry twice."""

    __slots__ = ("name", "entries", "lot")

    def __init__(self, name: str, entries: Sequence[Entry], weights: Sequence[int]) -> None:
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"word list {name}: repeated entries {twice}")
        self.name = name
        self.entries = tuple(entries)
        self.lot = Lot(weights)

    def point(self) -> ChoicePoint:
        total = self.lot.total
        pairs = zip(self.entries, self.lot.weights, strict=True)
        return ChoicePoint(f"list {self.name}", tuple((entry.name, w / total) for entry, w in pairs))


class Draw(Node):
    """An entry of a word list, written in one of its forms and, if asked, remembered under a variable.

    The draw is without repetition inside a document: the probability of an entry is its weight over the
    weight of all entries not drawn yet.
    """

    __slots__ = ("words", "form", "agree", "bind")

    def __init__(self, words: WordList, form: str, agree: str = "", bind: str = "") -> None:
        self.words = words
        self.form = form  # "" writes nothing: the entry is only remembered
        self.agree = agree  # variable whose gender chooses the form
        self.bind = bind

    def tell(self, telling: Telling) -> None:
        words = self.words
        lot = words.lot
        used = telling.used.get(words)
        index = lot.draw(telling.random())
        if used is None:
            telling.bits += lot.bits[index]
            telling.used[words] = [index]
        else:
            # Drawing again until the entry is new is the same as drawing among the new ones only.
            while index in used:
                index = lot.draw(telling.random())
            telling.bits += self._cost(index, used)
            used.append(index)
        entry = words.entries[index]
        if self.bind:
            telling.bound[self.bind] = entry
        if self.agree:
            entry.forms[self.form + telling.bound[self.agree].gender].tell(telling)
        elif self.form:
            entry.forms[self.form].tell(telling)

    def _cost(self, index: int, used: Sequence[int]) -> float:
        lot = self.words.lot
        left = lot.total - sum([lot.weights[i] for i in used])
        return math.log2(left / lot.weights[index])

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        words = self.words
        used = memory.used.get(words, ())
        form = self.form + memory.bound[self.agree].gender if self.agree else self.form
        for index, entry in enumerate(words.entries):
            if index in used:
                continue
            if form:
                # Most entries fail here at once, and only the others are worth a new memory.
                node = entry.forms[form]
                if isinstance(node, Text) and not text.startswith(node.text, at):
                    continue
            after = memory.using(words, index)
            if self.bind:
                after = after.binding(self.bind, entry)
            cost = self._cost(index, used)
            steps = entry.forms[form].read(text, at, after) if form else iter(((at, after, 0.0),))
            for end, last, bits in steps:
                yield end, last, bits + cost

    def span(self, outlook: Outlook, before: Span) -> Span:
        fixed = outlook.fixed.get(self.bind)
        entries = self.words.entries if fixed is None else (fixed,)
        if self.bind:
            outlook.possible.setdefault(self.bind, set()).update(entries)
        if not self.form and not self.agree:
            return before
        spans = []
        for entry in entries:
            keys = [k for k in entry.forms if k.startswith(self.form)] if self.agree else [self.form]
            spans += [entry.forms[key].span(outlook, before) for key in keys]
        return widest(spans)


class Recall(Node):
    """A form of the entry remembered under a variable."""

    __slots__ = ("variable", "form")

    def __init__(self, variable: str, form: str) -> None:
        self.variable = variable
        self.form = form

    def tell(self, telling: Telling) -> None:
        telling.bound[self.variable].forms[self.form].tell(telling)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        return memory.bound[self.variable].forms[self.form].read(text, at, memory)

    def span(self, outlook: Outlook, before: Span) -> Span:
        entries = outlook.possible[self.variable]
        return widest([entry.forms[self.form].span(outlook, before) for entry in entries])


class Join(Node):
    """Remember under ``variable`` what two entries make together (one entry may be given twice: a copy)."""

    __slots__ = ("variable", "first", "second", "join")

    def __init__(self, variable: str, first: str, second: str, join: Callable[[Entry, Entry], Entry]) -> None:
        self.variable = variable
        self.first = first
        self.second = second
        self.join = join

    def tell(self, telling: Telling) -> None:
        bound = telling.bound
        bound[self.variable] = self.join(bound[self.first], bound[self.second])

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        joined = self.join(memory.bound[self.first], memory.bound[self.second])
        yield at, memory.binding(self.variable, joined), 0.0

    def span(self, outlook: Outlook, before: Span) -> Span:
        firsts, seconds = outlook.possible[self.first], outlook.possible[self.second]
        same = self.first == self.second  # a copy: the two are always one entry
        joined = {self.join(x, y) for x in firsts for y in seconds if not same or x is y}
        outlook.possible.setdefault(self.variable, set()).update(joined)
        return before


class Toss(Node):
    """Decide whether a flag (a feature of the fable) holds. Writes nothing: what follows must show it.

    The probability is looked up by the name of the entry under ``variable`` if one is remembered.
    """

    __slots__ = ("flag", "default", "special", "variable")

    def __init__(self, flag: str, default: float, special: dict[str, float], variable: str) -> None:
        self.flag = flag
        self.default = default
        self.special = special
        self.variable = variable

    def _chance(self, bound: dict[str, Entry]) -> float:
        entry = bound.get(self.variable)
        return self.default if entry is None else self.special.get(entry.name, self.default)

    def tell(self, telling: Telling) -> None:
        chance = self._chance(telling.bound)
        value = telling.random() < chance
        telling.flags[self.flag] = value
        telling.bits -= math.log2(chance if value else 1.0 - chance)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        chance = self._chance(memory.bound)
        for value, probability in ((True, chance), (False, 1.0 - chance)):
            if probability > 0.0:
                yield at, memory.flagging(self.flag, value), -math.log2(probability)

    def point(self) -> ChoicePoint:
        options = [(self.flag, self.default)]
        options += [(f"{self.flag} in {name}", chance) for name, chance in self.special.items()]
        return ChoicePoint(f"toss {self.flag}", tuple(options))


class Raise(Node):
    """Set a flag without any chance (a fact that later pieces must respect)."""

    __slots__ = ("flag",)

    def __init__(self, flag: str) -> None:
        self.flag = flag

    def tell(self, telling: Telling) -> None:
        telling.flags[self.flag] = True

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        yield at, memory.flagging(self.flag, True), 0.0


class When(Node):
    """One of two pieces, according to a flag or to the gender of a remembered entry. No chance here."""

    __slots__ = ("flag", "gender", "then", "other")

    def __init__(self, flag: str, gender: str, then: Node, other: Node) -> None:
        self.flag = flag  # with a gender, the name of a variable
        self.gender = gender
        self.then = then
        self.other = other

    def tell(self, telling: Telling) -> None:
        if self.gender:
            holds = telling.bound[self.flag].gender == self.gender
        else:
            holds = telling.flags.get(self.flag, False)
        (self.then if holds else self.other).tell(telling)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        if self.gender:
            holds = memory.bound[self.flag].gender == self.gender
        else:
            holds = memory.flags.get(self.flag, False)
        return (self.then if holds else self.other).read(text, at, memory)

    def span(self, outlook: Outlook, before: Span) -> Span:
        return widest([self.then.span(outlook, before), self.other.span(outlook, before)])

    def children(self) -> Sequence[Node]:
        return self.then, self.other


class Room(Node):
    """One piece while fewer than ``limit`` blanks have been written, another from there on. No chance here:
    the text so far decides, so probabilities stay exact and no fable grows too long."""

    __slots__ = ("limit", "then", "other")

    def __init__(self, limit: int, then: Node, other: Node) -> None:
        self.limit = limit
        self.then = then
        self.other = other

    def tell(self, telling: Telling) -> None:
        (self.then if telling.count_blanks() < self.limit else self.other).tell(telling)

    def read(self, text: str, at: int, memory: Memory) -> Iterator[Step]:
        return (self.then if blanks(text[:at]) < self.limit else self.other).read(text, at, memory)

    def span(self, outlook: Outlook, before: Span) -> Span:
        spans = []
        if before[0] < self.limit:
            spans.append(self.then.span(outlook, (before[0], min(before[1], self.limit - 1))))
        if before[1] >= self.limit:
            spans.append(self.other.span(outlook, (max(before[0], self.limit), before[1])))
        return widest(spans)

    def children(self) -> Sequence[Node]:
        return self.then, self.other


def choice_points(root: Node) -> list[ChoicePoint]:
    """Every choice point under ``root``, each once, in the order of the story."""
    found: list[ChoicePoint] = []
    seen: set[int] = set()
    waiting: list[Node | WordList] = [root]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        inner: list[Node | WordList] = []
        if isinstance(item, WordList):
            found.append(item.point())
            inner = [form for entry in item.entries for form in entry.forms.values()]
        elif isinstance(item, Draw):
            inner = [item.words]
        else:
            if isinstance(item, Pick | Toss):
                found.append(item.point())
            inner = list(item.children())
        waiting.extend(reversed(inner))
    return found
