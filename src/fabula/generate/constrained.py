"""Which tokens may follow, so that a text matches a regular expression or a JSON schema?

`llguidance` (extra `generate`) walks the expression or grammar by the bytes of the tokens, so a token may hold several
parts of it, or a part of a character. It is asked before each token; ids that can end the text are allowed where what
was written is complete, and alone where nothing more can follow.

A text ends at the latest with its last allowed token or its context. Whether it is complete then is asked of `met`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fabula.errors import InputError, MachineError
from fabula.tokenizer.base import Tokenizer

_MOST_SOURCE = 1 << 20


class Pattern:
    """A regular expression or a JSON schema and the tokenizer it is for; calling it gives a `Constraint`.

    InputError when it cannot be read; MachineError without the library.
    """

    def __init__(self, tokenizer: Tokenizer, grammar: Callable[[Any], str], what: str) -> None:
        self._library, self.what = _library(), what
        self._end, self._vocab_size = tokenizer.special.end_of_document, tokenizer.vocab_size
        self._tokenizer = self._library.LLTokenizer(
            self._library.TokenizerWrapper(_Tokens(tokenizer)), n_vocab=tokenizer.vocab_size, eos_token=self._end
        )
        try:
            self._grammar = grammar(self._library.LLMatcher)
        except ValueError as error:
            raise InputError(f"{what} cannot be read: {_first(str(error))}") from None
        _sound(self._matcher(), what)

    def __call__(self) -> Matching:
        return Matching(self._matcher(), self._vocab_size, self.what)

    def met(self, ids: Sequence[int]) -> bool:
        """Whether a text of these ids is complete; the id that ends it may stand last."""
        text = list(ids[:-1] if ids and ids[-1] == self._end else ids)
        matcher = self._matcher()
        return bool(matcher.try_consume_tokens(text) == len(text) and matcher.is_accepting())

    def _matcher(self) -> Any:
        return self._library.LLMatcher(self._tokenizer, self._grammar, log_level=0)


class Matching:
    """A `Constraint`: where one text stands in a pattern."""

    def __init__(self, matcher: Any, vocab_size: int, what: str) -> None:
        self._matcher, self._vocab_size, self._what = matcher, vocab_size, what

    def allowed(self) -> Tensor:
        """Which of V ids may come next, boolean."""
        mask = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)
        _sound(self._matcher, self._what)
        return mask[: self._vocab_size] > 0

    def advance(self, number: int) -> None:
        """An id was written."""
        self._matcher.consume_token(number)
        _sound(self._matcher, self._what)


def regex(tokenizer: Tokenizer, expression: str) -> Pattern:
    """Texts that match an expression as a whole (Rust's syntax: no look-around, no back references)."""
    _small(expression, "the regular expression")
    return Pattern(tokenizer, lambda m: m.grammar_from_regex(expression), f"the regular expression {expression!r:.60}")


def json_schema(tokenizer: Tokenizer, schema: str | dict[str, Any] | bool) -> Pattern:
    """JSON texts that a schema admits, without blanks that it does not ask for.

    What of JSON Schema the library does not know is refused, never ignored.
    """
    if isinstance(schema, str):
        _small(schema, "the JSON schema")
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InputError(f"the JSON schema is not JSON ({_first(str(error))})") from None
    if not isinstance(schema, dict) and schema is not True:
        raise InputError("a JSON schema is an object, or true, for any JSON; with false nothing could be written")
    # Blanks may go on for ever, and small models like them.
    settled = {"whitespace_flexible": False}
    text = json.dumps({} if schema is True else schema)
    return Pattern(tokenizer, lambda m: m.grammar_from_json_schema(text, overrides=settled), "the JSON schema")


class _Tokens:
    """What the library wants to know of a tokenizer: the bytes of each id, and which are no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.special
        self.eos_token_id, self.bos_token_id = special.end_of_document, special.begin_of_document
        self.special_token_ids = sorted(n for n in tokenizer.controls if n < tokenizer.vocab_size)
        control = set(self.special_token_ids)
        texts = {number: text for text, number in tokenizer.control_texts().items()}
        self.tokens = [
            texts[n].encode() if n in control else tokenizer.decode_bytes([n]) for n in range(tokenizer.vocab_size)
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", errors="replace"))


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise MachineError("regular expressions and schemas need llguidance: pip install 'fabula[generate]'") from None
    return llguidance


def _small(text: str, what: str) -> None:
    if len(text) > _MOST_SOURCE:
        raise InputError(f"{what} is longer than {_MOST_SOURCE:,} characters")


def _sound(matcher: Any, what: str) -> None:
    if matcher.is_error():
        raise InputError(f"{what} cannot be used: {_first(matcher.get_error())}")


def _first(said: str) -> str:
    """The sentence of an error that is meant for people."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return next(iter(named or lines), "no reason is given")
