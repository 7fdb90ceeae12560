"""llama.cpp itself, from the wheel `xllamacpp`, to read again what was written for it: ids and logits of a GGUF file.

Called by its C functions, since the wheel's classes end at a server. Two structures of settings are passed as they come
from llama.cpp's own defaults, as bytes; of one of them a few numbers are changed, at places that are checked to hold
the known defaults first. A wheel that lays them out otherwise is refused, never guessed at.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from ctypes import c_bool, c_char, c_char_p, c_float, c_int32, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fabula.errors import InputError, MachineError
from fabula.generate import ggml


class _Settings(ctypes.Structure):
    """More room than any of the structures needs: by value it is passed on the stack, from its beginning."""

    _fields_ = (("bytes", c_char * 1024),)


class _Batch(ctypes.Structure):
    _fields_ = (("n_tokens", c_int32), ("pointers", c_void_p * 6))


# Of the context's settings: place, what is found there by default, what we ask for. A context is exact (float32 keys
# and values, no fused attention), all of its tokens in one batch.
_N_CTX, _N_BATCH, _N_UBATCH = (0, 512), (4, 2048), (8, 512)
_N_THREADS, _N_THREADS_BATCH = 28, 32
_FLASH, _KEYS, _VALUES = (52, -1), (104, ggml.F16), (108, ggml.F16)
_OFF = 0


@functools.cache
def _library() -> Any:
    c = ggml.library()
    declared: dict[str, tuple[tuple[Any, ...], Any]] = {
        "llama_backend_init": ((), None),
        "llama_log_set": ((c_void_p, c_void_p), None),
        "llama_model_default_params": ((), _Settings),
        "llama_context_default_params": ((), _Settings),
        "llama_model_load_from_file": ((c_char_p, _Settings), c_void_p),
        "llama_model_free": ((c_void_p,), None),
        "llama_init_from_model": ((c_void_p, _Settings), c_void_p),
        "llama_free": ((c_void_p,), None),
        "llama_model_get_vocab": ((c_void_p,), c_void_p),
        "llama_vocab_n_tokens": ((c_void_p,), c_int32),
        "llama_tokenize": ((c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool), c_int32),
        "llama_get_memory": ((c_void_p,), c_void_p),
        "llama_memory_clear": ((c_void_p, c_bool), None),
        "llama_batch_get_one": ((c_void_p, c_int32), _Batch),
        "llama_decode": ((c_void_p, _Batch), c_int32),
        "llama_get_logits": ((c_void_p,), c_void_p),
    }
    try:
        for name, (arguments, result) in declared.items():
            function = getattr(c, name)
            function.argtypes, function.restype = arguments, result
    except AttributeError as error:
        raise MachineError(f"this xllamacpp cannot check a GGUF file: {error}") from None
    # Silent: what it has to say of a file is asked of it.
    silent = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)(lambda level, text, data: None)
    c.llama_log_set(silent, None)
    c.silent = silent  # kept alive
    c.llama_backend_init()
    return c


class Llama:
    """A GGUF file as llama.cpp sees it. `fused`: its own defaults (16-bit memory, fused attention), for timing."""

    def __init__(self, file: Path, context: int, threads: int, fused: bool = False) -> None:
        self._c = c = _library()
        self._model = c.llama_model_load_from_file(str(file).encode(), c.llama_model_default_params())
        if not self._model:
            raise InputError(f"llama.cpp does not load what was written ({file.name}): nothing was published")
        settings = c.llama_context_default_params()
        wanted: list[tuple[tuple[int, int], int]] = [
            (_N_CTX, context),
            (_N_BATCH, max(context, 2048)),
            (_N_UBATCH, 512),
        ]
        if not fused:
            wanted += [(_FLASH, _OFF), (_KEYS, ggml.F32), (_VALUES, ggml.F32)]
        held = ctypes.addressof(settings)
        for (place, usual), value in wanted:
            here = c_int32.from_address(held + place)
            if here.value != usual:
                raise MachineError(
                    "this xllamacpp lays out llama.cpp's settings otherwise: it cannot check a GGUF file"
                )
            here.value = value
        for place in (_N_THREADS, _N_THREADS_BATCH):
            c_int32.from_address(held + place).value = threads
        self._context = c.llama_init_from_model(self._model, settings)
        if not self._context:
            raise InputError(f"llama.cpp cannot run what was written ({file.name}): nothing was published")
        self._vocab = c.llama_model_get_vocab(self._model)
        self.vocab_size = int(c.llama_vocab_n_tokens(self._vocab))

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        raw = text.encode("utf-8")
        room = len(raw) + 8
        made = (c_int32 * room)()
        n = self._c.llama_tokenize(self._vocab, raw, len(raw), made, room, False, False)
        if n < 0:
            raise InputError(f"llama.cpp cuts {text!r:.40} into {-n} tokens, more than it has bytes")
        return list(made[:n])

    def forget(self) -> None:
        """Begin a new text."""
        self._c.llama_memory_clear(self._c.llama_get_memory(self._context), False)

    def read(self, ids: Sequence[int]) -> Tensor:
        """Logits (V) of what follows new ids."""
        tokens = (c_int32 * len(ids))(*ids)
        code = self._c.llama_decode(self._context, self._c.llama_batch_get_one(tokens, len(ids)))
        if code:
            raise InputError(f"llama.cpp cannot read {len(ids)} tokens (code {code})")
        held = (c_float * self.vocab_size).from_address(self._c.llama_get_logits(self._context))
        return torch.frombuffer(held, dtype=torch.float32).clone()

    def close(self) -> None:
        self._c.llama_free(self._context)
        self._c.llama_model_free(self._model)


@contextlib.contextmanager
def opened(file: Path, context: int, threads: int, fused: bool = False) -> Iterator[Llama]:
    llama = Llama(file, context, threads, fused)
    try:
        yield llama
    finally:
        llama.close()


__all__ = ["Llama", "opened"]
