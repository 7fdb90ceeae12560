"""What does a server allow? Every limit stands here, in the docs and in the OpenAPI document. Imports no torch."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from fabula.config import setting

# ---- limits of a request, the same for every server ------------------------------------------------------------

MOST_BODY = 1 << 20  # bytes
MOST_HEADERS = 16 << 10  # bytes
MOST_DEPTH = 32  # of JSON
MOST_CHOICES = 16  # n and best_of; prompts times n
MOST_PROMPTS = 16
MOST_TEXTS = 64  # of one request for embeddings
MOST_MESSAGES = 256
MOST_STOPS = 16
MOST_STOP = 200  # characters of a stop sequence
MOST_LOGPROBS = 20
MOST_BIASES = 1024
MOST_TOKENIZED = 100_000  # characters
MOST_EVOLVED = 200  # tokens a checkpoint writes
MOST_SCHEMA = 64 << 10  # characters of a JSON schema

# Written when a request does not say how much.
USUAL_TOKENS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """How a server listens and what it can take on."""

    host: str = setting("127.0.0.1", "address to listen on; another one than this machine's own needs a token")
    port: int = setting(8080, "0: any that is free")
    allow_host: tuple[str, ...] = setting((), "further names under which the server may be called (Host)")
    slots: int = setting(32, "texts that are written at the same time, a model")
    queue: int = setting(64, "texts that may wait for a slot, a model; further ones are refused with 429")
    prefixes: int = setting(8, "ended texts whose memory is kept for others that begin alike; 0: none")
    threads: int = setting(0, "threads of a model's computations; 0: as many as torch takes")
    deterministic: bool = setting(
        True, "a text does not depend on the others, to the last bit; false: the fastest engine"
    )
    weights: str = setting("float32", "int8: of the compiled engine, faster and less exact; not deterministic")
    connections: int = setting(1024, "open connections")
    head_seconds: float = setting(10.0, "time for the head of a request to arrive")
    body_seconds: float = setting(10.0, "time for its body")
    stall_seconds: float = setting(30.0, "a stream whose reader takes nothing for so long is dropped")
    drain_seconds: float = setting(30.0, "time that running requests get when the server is asked to stop")

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port={self.port} must be from 0 (any that is free) to 65535")
        if not 1 <= self.slots <= 1024:
            raise ValueError(f"slots={self.slots} must be from 1 to 1024")
        if not 0 <= self.queue <= 100_000:
            raise ValueError(f"queue={self.queue} must be from 0 to 100000")
        if self.prefixes < 0:
            raise ValueError(f"prefixes={self.prefixes} must be at least 0")
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"threads={self.threads} must be from 0 (as many as torch takes) to 1024")
        if self.weights not in ("float32", "int8"):
            raise ValueError(f'weights="{self.weights}" must be float32 or int8')
        if self.weights != "float32" and self.deterministic:
            raise ValueError(f"weights={self.weights} are not deterministic: say --fast")
        if not 1 <= self.connections <= 100_000:
            raise ValueError(f"connections={self.connections} must be from 1 to 100000")
        for name in ("head_seconds", "body_seconds", "stall_seconds", "drain_seconds"):
            if not 0 < getattr(self, name) <= 3600:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0 and at most 3600")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def names(self) -> frozenset[str]:
        """The hosts that a request may call, in lower case: a page that gave its own name our address is refused."""
        own = {"localhost", "127.0.0.1", "::1", *self.allow_host}
        if self.host not in ("0.0.0.0", "::"):
            own.add(self.host)
        return frozenset(name.lower() for name in own)
