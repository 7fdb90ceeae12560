"""The steps of cleaning in their order, over a stream of documents, with an account of each.

    mojibake, unicode, control, whitespace, gutenberg, navigation, repeated_lines, length, language, quality,
    decontaminate, redact; then, behind the removal of exact duplicates, near_duplicates

Cleaning comes before the split, so that no near copy stands on both sides. Two steps know more than their text. To find
lines that repeat, the corpus is read once before; that does not depend on its order. Of near copies the first in the
order of reading stays. All others are pure functions of one text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fabula.config import Data
from fabula.corpus.clean import characters, lines, redaction
from fabula.corpus.clean.config import CLEANING_VERSION, CleanConfig
from fabula.corpus.clean.step import Account, Dropped, Step
from fabula.corpus.document import Document
from fabula.corpus.split import Seen, content_key
from fabula.progress import check_stop

if TYPE_CHECKING:
    from fabula.corpus.clean.shingles import NearCopies

NEAR = "near_duplicates"
_CHECK_EVERY = 256


@dataclass(slots=True)
class Cleaning:
    """What cleaning did to a corpus: an account for each step, in their order."""

    accounts: list[Account] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Documents that were dropped by any step."""
        return sum(account.dropped for account in self.accounts)

    def to_data(self) -> list[Data]:
        """The accounts as plain data."""
        return [account.to_data() for account in self.accounts]


class Cleaner:
    """The steps that a configuration switches on; `read` gives all documents anew each time.

    Making one loads nothing but says what is missing: a library, a file, a language that nobody knows.
    """

    def __init__(self, config: CleanConfig, read: Callable[[], Iterable[Document]]) -> None:
        self.settings: Data = config.active()
        self._read = read
        self._frequent: frozenset[bytes] | None = None
        self.evaluations: Any = None
        if self.settings.get("languages"):
            from fabula.corpus.clean import language
            from fabula.errors import ConfigError

            try:
                language.require(self.settings["languages"])
            except ValueError as error:
                raise ConfigError([f"corpus.clean.languages: {error}"]) from None
        if self.settings.get("decontaminate"):
            from fabula.corpus.clean.decontamination import Evaluations

            self.evaluations = Evaluations(self.settings["decontaminate"], self.settings["decontaminate_words"])

    def __bool__(self) -> bool:
        return bool(self.settings)

    def identity(self) -> Data:
        """What the cleaned text depends on besides the text: settings, and the content of evaluation sets."""
        found: Data = {"version": CLEANING_VERSION, **_plain(self.settings)}
        if self.evaluations is not None:
            found["decontaminate"] = self.evaluations.identity()
        return found

    def notes(self) -> list[str]:
        """What is done, in a sentence for each step."""
        notes = [f"cleaned: {step.about}{f' ({step.whole})' if step.whole else ''}" for step in self._steps(None)]
        if NEAR in self.settings:
            notes.append(f"cleaned: {self._near_about()}")
        if self.evaluations is not None and self.evaluations.too_short:
            notes.append(
                f"of {self.evaluations.items:,} texts of the evaluation sets {self.evaluations.too_short:,} have fewer "
                "than 8 words and are not looked for"
            )
        return notes

    def start(self) -> Pass:
        """A pass over the corpus; the first one of a corpus whose repeated lines go reads all of it before."""
        if "repeated_lines" in self.settings and self._frequent is None:
            self._frequent = self._learn()
        near = None
        if NEAR in self.settings:
            from fabula.corpus.clean.shingles import NearCopies

            near = NearCopies(self.settings[NEAR])
        return Pass(list(self._steps(self._frequent)), near, self._near_about() if near else "")

    def _learn(self) -> frozenset[bytes]:
        """The lines that stand in many documents, as they are when their turn comes; exact copies count once."""
        before = []
        for step in self._steps(None):
            if step.name == "repeated_lines":
                break
            before.append(step)

        def texts(seen: Seen) -> Iterator[str]:
            for number, document in enumerate(self._read()):
                if number % _CHECK_EVERY == 0:
                    check_stop("looking for lines that repeat")
                if not seen.add(content_key("\x00".join(document.texts))):
                    continue
                made = [_through(before, text) for text in document.texts]
                if all(isinstance(text, str) for text in made):
                    yield "\n".join(str(text) for text in made)

        with Seen() as seen:
            return lines.frequent_lines(texts(seen), self.settings["repeated_lines"])

    def _steps(self, frequent: frozenset[bytes] | None) -> Iterator[Step]:
        """The steps that are switched on, in their order; without near duplicates, which come later."""
        on = self.settings
        if "mojibake" in on:
            what = "put right" if on["mojibake"] == "repair" else "a reason to drop a document"
            yield Step("mojibake", f"mojibake (â€œ) is {what}", partial(characters.mojibake, how=on["mojibake"]))
        if "unicode" in on:
            more = ", ligatures and full-width letters made plain" if on["unicode"] == "forms" else ""
            about = f"accents composed (NFC){more}"
            yield Step("unicode", about, partial(characters.unicode_form, how=on["unicode"]))
        if "control" in on:
            yield Step("control", "characters that cannot be seen are taken out", characters.visible)
        if "whitespace" in on:
            yield Step("whitespace", "white space and line ends made even", characters.even_space)
        if "gutenberg" in on:
            yield Step("gutenberg", "Project Gutenberg's own words are taken out", lines.without_gutenberg)
        if "navigation" in on:
            about = "lines about cookies, log-ins and sharing are taken out"
            yield Step("navigation", about, lines.without_navigation)
        if "repeated_lines" in on:
            about = f"lines that stand in {on['repeated_lines']:,} documents or more are taken out"
            judge = partial(lines.without_lines, frequent=frequent or frozenset())
            yield Step("repeated_lines", about, judge, "the corpus is read once before, to find them")
        if "least_words" in on or "most_bytes" in on:
            least, most = on.get("least_words", 0), on.get("most_bytes", 0)
            limits = [f"fewer than {least:,} words"] * bool(least) + [f"more than {most:,} bytes"] * bool(most)
            yield Step("length", f"documents of {' or '.join(limits)} are dropped", partial(_length, least, most))
        if "languages" in on:
            from fabula.corpus.clean import language

            about = f"documents in other languages than {', '.join(on['languages'])} are dropped"
            how = {"probability": on["language_probability"], "least_letters": on["language_letters"]}
            yield Step("language", about, partial(language.judge, languages=on["languages"], **how))
        if "quality" in on:
            from fabula.corpus.clean import quality

            known = not on.get("languages") or set(on["languages"]) <= set(quality.STOP_WORDS)
            about = f"documents that break a rule of {', '.join(on['quality'])} are dropped"
            judge_quality = partial(quality.judge, sets=on["quality"], limits=on["limits"], stop_words=known)
            yield Step("quality", about, judge_quality)
        if "decontaminate" in on:
            what = "are dropped" if on["decontaminate_how"] == "drop" else "lose these sentences"
            about = f"documents that share {on['decontaminate_words']} words in a row with an evaluation set {what}"
            yield Step("decontaminate", about, partial(self.evaluations.judge, how=on["decontaminate_how"]))
        if "redact" in on:
            about = f"personal data is covered up: {', '.join(on['redact'])}"
            yield Step("redact", about, partial(redaction.redact, kinds=on["redact"], how=on["redact_with"]))

    def _near_about(self) -> str:
        return f"documents that resemble an earlier one by {self.settings.get(NEAR, 0):g} or more are dropped"


class Pass:
    """One pass over a corpus: every document goes through `clean`, and what is new through `is_near_copy`."""

    def __init__(self, steps: list[Step], near: NearCopies | None, near_about: str) -> None:
        self._steps, self._near = steps, near
        self.account = Cleaning([Account(step.name, step.about) for step in steps])
        self._near_account = Account(NEAR, near_about)
        if near is not None:
            self.account.accounts.append(self._near_account)
        self._number = 0

    def clean(self, document: Document) -> Document | None:
        """The document as it is kept; None when a step dropped it. A half of a pair takes the other one with it."""
        self._number += 1
        if self._number % _CHECK_EVERY == 0:
            check_stop("cleaning")
        for step, account in zip(self._steps, self.account.accounts, strict=False):
            made = [_result(step, text) for text in document.texts]
            size = _size(document)
            why = next((text.reason for text in made if isinstance(text, Dropped)), None)
            if why is not None:
                account.drop(size, document.origin, document.text, why)
                return None
            texts = [str(text) for text in made]
            if texts == list(document.texts):
                account.keep(size, size)
                continue
            account.change(document.origin, _joined(document.texts), _joined(texts))
            # The probability that a generator told was that of another text.
            document = replace(
                document,
                text=texts[0],
                target=None if document.target is None else texts[1],
                surprisal_bits=None,
            )
            account.keep(size, _size(document))
        return document

    def is_near_copy(self, document: Document) -> bool:
        """Whether an earlier document that was kept is nearly the same; if not, this one is remembered."""
        if self._near is None:
            return False
        from fabula.corpus.words import words

        size = _size(document)
        found = self._near.copy_of(words(_joined(document.texts)), document.origin)
        if found is None:
            self._near_account.keep(size, size)
            return False
        origin, share = found
        self._near_account.drop(size, document.origin, document.text, f"{share:.0%} like {origin}")
        return True

    def __enter__(self) -> Pass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            if self._near is not None:
                stack.push(self._near)


def _result(step: Step, text: str) -> str | Dropped:
    """What a step makes of a text; one of which nothing is left is dropped by that step."""
    made = step.judge(text)
    if isinstance(made, str) and not made.strip() and text.strip():
        return Dropped("nothing is left of it")
    return made


def _through(steps: Iterable[Step], text: str) -> str | Dropped:
    for step in steps:
        made = _result(step, text)
        if isinstance(made, Dropped):
            return made
        text = made
    return text


def _length(least_words: int, most_bytes: int, text: str) -> str | Dropped:
    count = len(text.split())
    if count < least_words:
        return Dropped(f"{count:,} words")
    if most_bytes and (size := len(text.encode("utf-8"))) > most_bytes:
        return Dropped(f"{size:,} bytes")
    return text


def _size(document: Document) -> int:
    return sum(len(text.encode("utf-8")) for text in document.texts)


def _joined(texts: Iterable[str]) -> str:
    return "\n→ ".join(texts)


def _plain(settings: Mapping[str, Any]) -> Data:
    """Settings as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
