"""What does an answer look like? Pieces of texts in OpenAI's forms, whole and as chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from fabula.generate.engine import Token
from fabula.serve.models import Served
from fabula.serve.scheduler import Piece, Writer
from fabula.serve.texts import Written
from fabula.tokenizer.base import Tokenizer

# What stands for the logarithm of nothing: JSON has no infinity.
_NEVER = -9999.0

DONE = b"data: [DONE]\n\n"
_REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}


def event(data: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"


def reason(writer: Writer) -> str:
    """Why a text ended, in OpenAI's words."""
    return _REASONS[str(writer.finish)]


def usage(read: int, written: int) -> dict[str, int]:
    """Tokens that were read and written."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def finite(logprob: float) -> float:
    """A log-probability that JSON can say."""
    return max(logprob, _NEVER)


def shown(tokenizer: Tokenizer, number: int) -> str:
    r"""A token as text; bytes that are no text alone as OpenAI writes them, `bytes:\xc3`."""
    raw = tokenizer.decode_bytes([number], specials=True)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def piece_of_text(tokenizer: Tokenizer, number: int) -> dict[str, Any]:
    """A token with its bytes."""
    raw = tokenizer.decode_bytes([number], specials=True)
    control = number in tokenizer.controls
    return {"id": number, "text": raw.decode("utf-8", "replace"), "bytes": list(raw), "control": control}


class Form:
    """The form of the answers to one request: completions or chats."""

    def __init__(self, served: Served, chat: bool, top: int | None, with_usage: bool) -> None:
        self.served, self.chat, self.top, self.with_usage = served, chat, top, with_usage
        self._offsets: dict[int, int] = {}
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": served.fingerprint,
        }

    # ---- whole -----------------------------------------------------------------------------------------------

    def whole(self, texts: Sequence[Written], read: int, written: int) -> dict[str, Any]:
        """An answer of these texts."""
        choices = []
        for index, made in enumerate(texts):
            said: dict[str, Any] = {"text": made.text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": made.text}}
            logprobs, why = self._logprobs(index, made.tokens), _REASONS[made.finish]
            choices.append({"index": index, **said, "logprobs": logprobs, "finish_reason": why})
        return {**self._head, "choices": choices, "usage": usage(read, written)}

    # ---- chunks ----------------------------------------------------------------------------------------------

    def begin(self, index: int, echo: str = "") -> bytes:
        """What a stream begins with."""
        if self.chat:
            return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None)
        return self._chunk(index, {"text": echo}, None, None) if echo else b""

    def chunk(self, index: int, pieces: Sequence[Piece], why: str | None) -> bytes:
        """What came of one text."""
        text = "".join(piece.text for piece in pieces)
        logprobs = self._logprobs(index, [token for piece in pieces for token in piece.tokens])
        has_tokens = logprobs is not None and bool(logprobs["content" if self.chat else "tokens"])
        made = b""
        if text or has_tokens:
            said: dict[str, Any] = {"delta": {"content": text}} if self.chat else {"text": text}
            made = self._chunk(index, said, logprobs if has_tokens else None, None)
        if why is not None:
            made += self._chunk(index, {"delta": {}} if self.chat else {"text": ""}, None, why)
        return made

    def end(self, read: int, written: int) -> bytes:
        """What a stream ends with."""
        last = b""
        if self.with_usage:
            last = event({**self._chunk_head(), "choices": [], "usage": usage(read, written)})
        return last + DONE

    def _chunk(self, index: int, said: dict[str, Any], logprobs: Any, why: str | None) -> bytes:
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": why}
        last = {"usage": None} if self.with_usage else {}
        return event({**self._chunk_head(), "choices": [choice], **last})

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"} if self.chat else self._head

    # ---- log-probabilities -----------------------------------------------------------------------------------

    def _logprobs(self, index: int, tokens: Iterable[Token]) -> dict[str, Any] | None:
        if self.top is None:
            return None
        # What ends a text is no part of it: its tokens are those of the text.
        seen = [token for token in tokens if token.finish != "end"]
        return {"content": self._chat_tokens(seen)} if self.chat else self._completion_tokens(index, seen)

    def _chat_tokens(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        return [
            {**self._token(t.id, t.logprob), "top_logprobs": [self._token(n, value) for n, value in t.top[: self.top]]}
            for t in tokens
        ]

    def _token(self, number: int, logprob: float) -> dict[str, Any]:
        raw = self.served.tokenizer.decode_bytes([number], specials=True)
        return {"token": shown(self.served.tokenizer, number), "logprob": finite(logprob), "bytes": list(raw)}

    def _completion_tokens(self, index: int, tokens: Sequence[Token]) -> dict[str, Any]:
        tokenizer = self.served.tokenizer
        offsets, place = [], self._offsets.get(index, 0)
        for token in tokens:
            offsets.append(place)
            place += len(tokenizer.decode([token.id]))
        self._offsets[index] = place
        top = [{shown(tokenizer, number): finite(value) for number, value in token.top} for token in tokens]
        return {
            "tokens": [shown(tokenizer, token.id) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": top if self.top else None,
            "text_offset": offsets,
        }


def unfolded(served: Served, tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Tokens with their bytes and what else was likely, for the pages of `/`."""
    tokenizer = served.tokenizer
    return [
        {
            **piece_of_text(tokenizer, token.id),
            "logprob": finite(token.logprob),
            "top": [{**piece_of_text(tokenizer, number), "logprob": finite(value)} for number, value in token.top],
        }
        for token in tokens
    ]
