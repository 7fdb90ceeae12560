"""What becomes of a request's texts while its client is there? When the client leaves, they end at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from fabula.errors import DivergedError, InputError
from fabula.generate.batch import Request
from fabula.generate.engine import Token
from fabula.serve.gate import Gone
from fabula.serve.refusal import Refusal
from fabula.serve.scheduler import Engine, Group, Piece, Writer


@dataclass(frozen=True, slots=True)
class Written:
    """A finished text with its tokens and why it ended."""

    text: str
    tokens: tuple[Token, ...]
    finish: str

    def likelihood(self) -> float:
        """The mean log-probability of its tokens."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))


def told(error: Exception | None) -> Refusal:
    """What is said of a text that failed."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal(400, str(error))
    if isinstance(error, DivergedError):
        return Refusal(500, str(error), code="diverged")
    return Refusal(500, f"writing failed ({type(error).__name__})")


class Texts:
    """Texts that are written for one request. Made in the event loop; `close` it, or come to its end."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Request],
        stops: Sequence[str],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    ) -> None:
        self._group = Group(asyncio.get_running_loop())
        self.writers = engine.submit(self._group, requests, stops)
        self._gone = False
        self._listening = asyncio.create_task(self._listen(receive))

    @property
    def written(self) -> int:
        """Tokens of all."""
        return sum(writer.written for writer in self.writers)

    async def begun(self) -> None:
        """Wait until there is something to say; Refusal when it is an error, which still has its status then."""
        try:
            while not any(writer.has_begun for writer in self.writers):
                await self._news()
            self._fail_if_failed()
        except BaseException:
            self.close()
            raise

    async def whole(self) -> list[Written]:
        """The finished texts; Refusal when one failed."""
        pieces: list[list[Piece]] = [[] for _ in self.writers]
        try:
            while not all(writer.done for writer in self.writers):
                for mine, writer in zip(pieces, self.writers, strict=True):
                    mine += writer.take()
                self._fail_if_failed()
                if not all(writer.done for writer in self.writers):
                    await self._news()
        finally:
            self.close()
        self._fail_if_failed()
        return [
            Written("".join(p.text for p in mine), tuple(t for p in mine for t in p.tokens), str(writer.finish))
            for mine, writer in zip(pieces, self.writers, strict=True)
        ]

    async def changes(self) -> AsyncIterator[list[tuple[int, list[Piece], Writer | None]]]:
        """What came since the last time: the number of a text, its pieces, and the text itself when it has ended."""
        left = dict(enumerate(self.writers))
        while left:
            came: list[tuple[int, list[Piece], Writer | None]] = []
            for index, writer in list(left.items()):
                pieces = writer.take()
                ended = writer.done
                if ended:
                    del left[index]
                if pieces or ended:
                    came.append((index, pieces, writer if ended else None))
            if came:
                yield came
            if left:
                await self._news()

    def close(self) -> None:
        """Nobody waits for them any more."""
        self._listening.cancel()
        for writer in self.writers:
            if writer.finish is None:
                writer.cancel()

    async def _news(self) -> None:
        await self._group.news()
        if self._gone:
            raise Gone

    async def _listen(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        for writer in self.writers:
            writer.cancel()
        self._group.wake()

    def _fail_if_failed(self) -> None:
        failed = next((writer for writer in self.writers if writer.finish == "error"), None)
        if failed is not None:
            raise told(failed.error)
