"""Which kinds of records are there, and how does an object out of a file become one?

    documents       {"text"}                                       `Document`
    pairs           two fields that the user names                 `Document` with a `target`
    conversations   {"messages": [{"role", "content"}]}            `Conversation`
                    {"conversations": [{"from", "value"}]}         (ShareGPT)
                    {"instruction", "input", "output"}             (Alpaca; also "system" and "history")
                    {"prompt", "completion"}                       texts, or lists of messages
    preferences     {"instruction", "input", "chosen", "rejected"} `Preference`
                    {"conversations", "chosen", "rejected"}
                    {"prompt", "chosen", "rejected"}               texts or lists of messages; in lists the prompt may
                                                                   stand at the beginning of both answers instead

Roles become system, user, assistant and tool. A record that is not one of these to the letter is no record but a
reason, in words: nothing is guessed and nothing is mended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal, Protocol

from fabula.corpus.document import Document
from fabula.errors import SourceError

Kind = Literal["auto", "documents", "pairs", "conversations", "preferences"]
Role = Literal["system", "user", "assistant", "tool"]

# What the fields of conversations and preferences are called: of a table only these columns are read.
FIELDS = (
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "system",
    "history",
    "prompt",
    "completion",
    "chosen",
    "rejected",
)

AS_TEXT = 'read as plain text: each turn begins with its role ("User: ..."), with an empty line between turns'

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function"), "tool"),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns: perhaps a system's, then user and assistant in alternation, the assistant's last. No turn is empty."""

    turns: tuple[Turn, ...]
    origin: str

    @property
    def texts(self) -> tuple[str, ...]:
        """All of it as one text."""
        return (as_text(self.turns),)

    @property
    def split_by(self) -> str:
        """What comes before the first answer: several answers to one question are on one side."""
        return as_text(takewhile(lambda turn: turn.role != "assistant", self.turns))


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt that ends with a question, and two different answers to it: the better and the worse."""

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    origin: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt and both answers."""
        return as_text(self.prompt), as_text(self.chosen), as_text(self.rejected)

    @property
    def split_by(self) -> str:
        """The prompt."""
        return as_text(self.prompt)


Record = Document | Conversation | Preference


class Useless(str):
    """A reason that is no damage: the record can be read, but nothing can be learnt from it."""

    __slots__ = ()


class Fields(Protocol):
    """What of `Reading` says how an object becomes a record."""

    @property
    def records(self) -> Kind: ...
    @property
    def text_field(self) -> str: ...
    @property
    def title_field(self) -> str: ...
    @property
    def pair(self) -> tuple[str, str] | None: ...
    @property
    def plain(self) -> bool: ...


def as_text(turns: Iterable[Turn]) -> str:
    r"""Turns as plain text: each begins with its role, an empty line between them.

    >>> as_text([Turn("user", "How many?"), Turn("assistant", "Three.")])
    'User: How many?\n\nAssistant: Three.'
    """
    return "\n\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)


def as_document(record: Record, spec: str) -> Document:
    """A record as plain text to pretrain on; SourceError for a preference, half of which is not to be learnt."""
    if isinstance(record, Document):
        return record
    if isinstance(record, Conversation):
        return Document(as_text(record.turns), record.origin, question=record.split_by)
    raise SourceError(
        f"{spec}: preferences hold bad answers beside good ones, and a model would learn both as text; use them to "
        "train preferences, or take one field as text: --corpus.records documents --corpus.text_field chosen"
    )


def detect(names: Sequence[str], text_field: str) -> tuple[Kind, str]:
    """Which kind of records has fields of these names, and why.

    >>> detect(["id", "instruction", "input", "output"], "text")
    ('conversations', 'the fields instruction and output (Alpaca)')
    """
    has = set(names)
    if text_field in has:
        return "documents", f"the field {text_field}"
    if {"chosen", "rejected"} <= has:
        return "preferences", "the fields chosen and rejected"
    if "messages" in has:
        return "conversations", "the field messages"
    if "conversations" in has:
        return "conversations", "the field conversations (ShareGPT)"
    if {"instruction", "output"} <= has:
        return "conversations", "the fields instruction and output (Alpaca)"
    if {"prompt", "completion"} <= has:
        return "conversations", "the fields prompt and completion"
    return "documents", f"no fields of conversations or preferences among {', '.join(sorted(has)[:8]) or 'none'}"


def detect_most(found: Sequence[Sequence[str]], text_field: str) -> tuple[Kind, str]:
    """What most of some records are, by the names of their fields, and why."""
    kinds = [detect(names, text_field) for names in found]
    most = Counter(kind for kind, _ in kinds).most_common(1)[0][0]
    return next(pair for pair in kinds if pair[0] == most)


def record_of(value: Any, fields: Fields, origin: str) -> Record | str:
    """The record in an object (or a text), or the reason why there is none."""
    if fields.plain and type(value) is dict and type(text := value.get(fields.text_field)) is str and text.isascii():
        return Document(text, origin)  # most records, and a fifth faster
    if fields.records in ("conversations", "preferences"):
        if not isinstance(value, dict):
            return f"expected an object, got {kind_of_value(value)}"
        try:
            return _conversation(value, origin) if fields.records == "conversations" else _preference(value, origin)
        except _NoRecord as problem:
            return problem.reason
    return _document(value, fields, origin)


def _document(value: Any, fields: Fields, origin: str) -> Document | str:
    if fields.pair is not None:
        if not isinstance(value, dict):
            return f"expected an object with a source and a target, got {kind_of_value(value)}"
        source, problem = text_of(value, fields.pair[0])
        target, also = text_of(value, fields.pair[1])
        return problem or also or Document(source, origin, target=target)
    text, problem = text_of(value, fields.text_field)
    if fields.title_field and not problem:
        title, problem = ("", "") if isinstance(value, str) else text_of(value, fields.title_field)
        text = with_title(title, text)
    return problem or Document(text, origin)


def with_title(title: str, text: str) -> str:
    """A text under its title, unless it begins with it already; an empty text stays empty."""
    title = title.strip()
    if not title or not text.strip() or text.lstrip().partition("\n")[0].strip() == title:
        return text
    return f"{title}\n\n{text}"


def text_of(record: Any, field: str) -> tuple[str, str]:
    """The text of a record and "", or "" and the reason why it has none. "a.b" is the field b of the object in a."""
    if isinstance(record, str):
        text: Any = record
    elif not isinstance(record, dict):
        return "", f"expected an object or a string, got {kind_of_value(record)}"
    elif field not in record:
        outer, _, inner = field.partition(".")
        if inner and isinstance(record.get(outer), dict):
            return text_of(record[outer], inner)
        has = ", ".join(str(k) for k in list(record)[:8]) or "nothing"
        return "", f'no field "{field}"; the record has: {has}'
    else:
        text = record[field]
    if not isinstance(text, str):
        return "", f'the field "{field}" holds {kind_of_value(text)}, not text'
    return text, _surrogate(text)


def kind_of_value(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return names.get(type(value), "a number")


def _surrogate(text: str) -> str:
    """The reason why a text cannot be written as UTF-8, or ""."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start:,} of the text"
    return ""


# ---- conversations and preferences ---------------------------------------------------------------------------


class _NoRecord(Exception):
    """Why an object is no conversation and no preference."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _conversation(record: Mapping[str, Any], origin: str) -> Conversation:
    if "messages" in record or "conversations" in record:
        name = "messages" if "messages" in record else "conversations"
        turns = (*_system(record), *_turns(record[name], name))
    elif "instruction" in record:
        turns = (*_asked(record), Turn("assistant", _text(record, "output")))
    elif "prompt" in record:
        turns = (*_side(record, "prompt", "user"), *_side(record, "completion", "assistant"))
    else:
        has = ", ".join(map(str, list(record)[:8])) or "nothing"
        raise _NoRecord(f"no conversation: the record has {has}")
    _alternate(turns)
    if turns[-1].role != "assistant":
        raise _NoRecord(f"the last of {len(turns)} turns is the {turns[-1].role}'s, so there is no answer to learn")
    return Conversation(turns, origin)


def _preference(record: Mapping[str, Any], origin: str) -> Preference:
    chosen, rejected = (_side(record, name, "assistant") for name in ("chosen", "rejected"))
    prompt: tuple[Turn, ...] = ()
    # Some sets have all turns of the better answer in `messages` beside a prompt, hence this order.
    if record.get("prompt"):
        prompt = (*_system(record), *_side(record, "prompt", "user"))
    elif "instruction" in record:
        prompt = _asked(record)
    elif name := next((n for n in ("conversations", "messages") if n in record), ""):
        prompt = (*_system(record), *_turns(record[name], name))
    shared = len(prompt)
    if not prompt:
        # The prompt may stand at the beginning of both answers alone; what they share may go beyond its last question.
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        while shared and chosen[shared - 1].role == "assistant":
            shared -= 1
        prompt = chosen[:shared]
    if chosen[:shared] == prompt == rejected[:shared] and min(len(chosen), len(rejected)) > shared:
        chosen, rejected = chosen[shared:], rejected[shared:]
    if not prompt:
        raise _NoRecord("no prompt: neither a field of that name, nor a beginning that both answers share")
    if prompt[-1].role not in ("user", "tool"):
        raise _NoRecord(f"the prompt ends with the {prompt[-1].role}'s turn, not with a question")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _alternate((*prompt, *answer))
        if answer[-1].role != "assistant":
            raise _NoRecord(f"the {name} answer ends with the {answer[-1].role}'s turn")
    if chosen == rejected:
        raise _NoRecord(Useless("chosen and rejected are the same"))
    return Preference(prompt, chosen, rejected, origin)


def _system(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The system's words beside the turns, where there are any."""
    given = record.get("system")
    return (Turn("system", _text(record, "system")),) if isinstance(given, str) and given.strip() else ()


def _asked(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Alpaca's form of a question: an instruction, an input below it that may be empty, earlier turns."""
    question = _text(record, "instruction")
    if record.get("input") not in (None, ""):
        extra, problem = text_of(record, "input")
        if problem:
            raise _NoRecord(problem)
        question = f"{question}\n\n{extra}" if extra.strip() else question
    earlier: list[Turn] = []
    for pair in record.get("history") or []:
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
            raise _NoRecord('the field "history" must be a list of [question, answer]')
        said: dict[str, Any] = dict(zip(("question", "answer"), pair, strict=True))
        earlier += [Turn("user", _text(said, "question")), Turn("assistant", _text(said, "answer"))]
    return (*_system(record), *earlier, Turn("user", question))


def _side(record: Mapping[str, Any], name: str, role: Role) -> tuple[Turn, ...]:
    """A field that is a text, one message or a list of messages."""
    value = record.get(name)
    if isinstance(value, str):
        return (Turn(role, _text(record, name)),)
    return _turns([value] if isinstance(value, dict) else value, name)


def _turns(messages: Any, name: str) -> tuple[Turn, ...]:
    """A list of messages, in either of the two spellings."""
    if not isinstance(messages, (list, tuple)):
        raise _NoRecord(f'the field "{name}" holds {kind_of_value(messages)}, not a list of messages')
    if not messages:
        raise _NoRecord(Useless(f'the field "{name}" holds no message'))
    return tuple(_turn(message, number, name) for number, message in enumerate(messages, start=1))


def _turn(message: Any, number: int, name: str) -> Turn:
    where = f"message {number} of {name}"
    if not isinstance(message, dict):
        raise _NoRecord(f"{where} is {kind_of_value(message)}, not an object")
    # In a table every message has all the fields that any has.
    spelled = next((pair for pair in (("role", "content"), ("from", "value")) if message.get(pair[0])), None)
    if spelled is None:
        has = ", ".join(map(str, list(message)[:8])) or "nothing"
        raise _NoRecord(f"{where} has neither role and content nor from and value, but {has}")
    role = _ROLES.get(str(message[spelled[0]]).strip().lower())
    if role is None:
        raise _NoRecord(
            f'{where} is of the role "{str(message[spelled[0]])[:40]}", which is none of {", ".join(_ROLES)}'
        )
    content = message.get(spelled[1])
    if isinstance(content, (list, tuple)) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text") or "") for part in content)
    return Turn(role, _words(content, f"{where}, the {role}'s,"))


def _text(record: Mapping[str, Any], name: str) -> str:
    if name not in record:
        raise _NoRecord(f'no field "{name}"; the record has: {", ".join(map(str, list(record)[:8]))}')
    return _words(record[name], f'the field "{name}"')


def _words(value: Any, what: str) -> str:
    """A text that says something; it is kept as it is."""
    if not isinstance(value, str):
        raise _NoRecord(f"{what} holds {kind_of_value(value)}, not text")
    if not value.strip():
        raise _NoRecord(Useless(f"{what} is empty"))
    problem = _surrogate(value)
    if problem:
        raise _NoRecord(f"{what} has a {problem}")
    return value


# Who may speak after whom; "" is the beginning.
_AFTER: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}


def _alternate(turns: Sequence[Turn]) -> None:
    before = ""
    for number, turn in enumerate(turns, start=1):
        if turn.role not in _AFTER[before]:
            what = f"follows the {before}'s" if before else "is the first"
            expected = " or ".join(_AFTER[before])
            raise _NoRecord(f"turn {number} is the {turn.role}'s and {what}; expected: {expected}")
        before = turn.role
