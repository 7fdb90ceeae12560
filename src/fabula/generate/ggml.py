"""ggml, the runtime of llama.cpp, by its C functions: where is it, and how is it called?

The wheel `xllamacpp` carries llama.cpp with ggml in one shared library that gives out ggml's C functions. They are
called with ctypes: the wheel's own classes begin at a file and end at a server, and give no logits. Functions only, no
layout of a structure but one of three plain fields: what is called here has kept its form for years.

Everything that ggml reads or writes is memory of torch's (`Context.over`): nothing is copied on the way in or out.
ggml answers a wrong call by ending the process, so `compiled.py` checks shapes before it calls.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fabula.errors import MachineError, require_extra

# Numbers that ggml gives its formats; they stand in GGUF files and do not change.
F32, F16, Q8_0, I32, I64 = 0, 1, 8, 26, 27
_FORMATS = {torch.float32: F32, torch.float16: F16, torch.int32: I32, torch.int64: I64}
# q8_0: blocks of 32 numbers, each a float16 scale and 32 signed bytes.
BLOCK, BLOCK_BYTES = 32, 34
# Of `ggml_rope_ext`: pairs are (x_i, x_{i + H/2}), as in `model.positions.rotate`.
_HALVES = 2
_SUCCESS = 0

Node = int  # the address of a tensor of ggml


class _InitParams(Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_P, _I, _F = c_void_p, c_int64, c_float
# name: (arguments, result); tensors, graphs and buffers are addresses.
_FUNCTIONS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "ggml_version": ((), c_char_p),
    "ggml_init": ((_InitParams,), _P),
    "ggml_free": ((_P,), None),
    "ggml_tensor_overhead": ((), c_size_t),
    "ggml_graph_overhead_custom": ((c_size_t, c_bool), c_size_t),
    "ggml_new_tensor": ((_P, c_int, c_int, POINTER(c_int64)), _P),
    "ggml_new_graph_custom": ((_P, c_size_t, c_bool), _P),
    "ggml_build_forward_expand": ((_P, _P), None),
    "ggml_get_data": ((_P,), _P),
    "ggml_set_output": ((_P,), None),
    "ggml_quantize_chunk": ((c_int, _P, _P, _I, _I, _I, _P), c_size_t),
    "ggml_gallocr_new": ((_P,), _P),
    "ggml_gallocr_free": ((_P,), None),
    "ggml_gallocr_alloc_graph": ((_P, _P), c_bool),
    "ggml_backend_cpu_init": ((), _P),
    "ggml_backend_free": ((_P,), None),
    "ggml_backend_cpu_buffer_type": ((), _P),
    "ggml_backend_cpu_buffer_from_ptr": ((_P, c_size_t), _P),
    "ggml_backend_buffer_free": ((_P,), None),
    "ggml_backend_tensor_alloc": ((_P, _P, _P), c_int),
    "ggml_backend_cpu_set_n_threads": ((_P, c_int), None),
    "ggml_backend_graph_compute": ((_P, _P), c_int),
    "ggml_add": ((_P, _P, _P), _P),
    "ggml_mul": ((_P, _P, _P), _P),
    "ggml_mul_mat": ((_P, _P, _P), _P),
    "ggml_get_rows": ((_P, _P, _P), _P),
    "ggml_set_rows": ((_P, _P, _P, _P), _P),
    "ggml_scale": ((_P, _P, _F), _P),
    "ggml_scale_bias": ((_P, _P, _F, _F), _P),
    "ggml_norm": ((_P, _P, _F), _P),
    "ggml_rms_norm": ((_P, _P, _F), _P),
    "ggml_sqr": ((_P, _P), _P),
    "ggml_tanh": ((_P, _P), _P),
    "ggml_relu": ((_P, _P), _P),
    "ggml_sigmoid": ((_P, _P), _P),
    "ggml_gelu_erf": ((_P, _P), _P),
    "ggml_swiglu": ((_P, _P), _P),
    "ggml_cont": ((_P, _P), _P),
    "ggml_reshape_2d": ((_P, _P, _I, _I), _P),
    "ggml_reshape_3d": ((_P, _P, _I, _I, _I), _P),
    "ggml_view_2d": ((_P, _P, _I, _I, c_size_t, c_size_t), _P),
    "ggml_view_3d": ((_P, _P, _I, _I, _I, c_size_t, c_size_t, c_size_t), _P),
    "ggml_view_4d": ((_P, _P, _I, _I, _I, _I, c_size_t, c_size_t, c_size_t, c_size_t), _P),
    "ggml_rope_ext": ((_P, _P, _P, _P, c_int, c_int, c_int, _F, _F, _F, _F, _F, _F), _P),
    "ggml_flash_attn_ext": ((_P, _P, _P, _P, _P, _F, _F, _F), _P),
}  # fmt: skip


@functools.cache
def library() -> Any:
    """The shared library with its functions declared; MachineError saying what is missing."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or not found.submodule_search_locations:
        raise require_extra("xllamacpp", "generate", "the compiled engine")
    places = [Path(place) for place in found.submodule_search_locations]
    files = [file for place in places for file in sorted(place.glob("xllamacpp*")) if file.suffix in (".so", ".pyd")]
    problem = "it has no shared library"
    for file in files:
        try:
            loaded = ctypes.CDLL(str(file))
            for name, (arguments, result) in _FUNCTIONS.items():
                function = getattr(loaded, name)
                function.argtypes, function.restype = arguments, result
            return loaded
        except (OSError, AttributeError) as error:
            problem = str(error)
    raise MachineError(
        f"the compiled engine cannot use this xllamacpp ({problem}); use the PyTorch engine (--engine torch)"
    )


class Context:
    """A set of tensors of ggml and, if asked for, their graph. `free` ends it; nothing of it may be used after."""

    def __init__(self, n_tensors: int, graph: bool = False) -> None:
        self._c = library()
        size = n_tensors * self._c.ggml_tensor_overhead()
        size += self._c.ggml_graph_overhead_custom(n_tensors, False) if graph else 0
        self.address = self._c.ggml_init(_InitParams(size + 4096, None, True))
        if not self.address:
            raise MemoryError("ggml found no memory for a graph")
        self.graph = self._c.ggml_new_graph_custom(self.address, n_tensors, False) if graph else 0
        self._buffers: list[int] = []
        self._held: list[Tensor] = []
        self._allocator = 0

    def over(self, memory: Tensor, shape: tuple[int, ...] | None = None, kind: int | None = None) -> Node:
        """A tensor of ggml over torch's memory, which must be contiguous and is kept alive.

        Its shape is torch's (or `shape`) the other way round: ggml names the innermost axis first.
        """
        if not memory.is_contiguous() or memory.device.type != "cpu":
            raise ValueError("ggml reads contiguous memory of the CPU")
        sizes = list(reversed(shape or memory.shape))
        format_ = _FORMATS[memory.dtype] if kind is None else kind
        node = self._c.ggml_new_tensor(self.address, format_, len(sizes), (c_int64 * len(sizes))(*sizes))
        buffer = self._c.ggml_backend_cpu_buffer_from_ptr(memory.data_ptr(), memory.numel() * memory.element_size())
        self._buffers.append(buffer)
        self._held.append(memory)
        if self._c.ggml_backend_tensor_alloc(buffer, node, memory.data_ptr()) != _SUCCESS:
            raise MemoryError("ggml refused memory of torch")
        return int(node)

    def __getattr__(self, name: str) -> Callable[..., Node]:
        """An operation by its name without "ggml_": `context.mul_mat(weights, x)`."""
        if f"ggml_{name}" not in _FUNCTIONS:
            raise AttributeError(name)
        function = getattr(self._c, f"ggml_{name}")

        def call(*arguments: Any) -> Node:
            node = function(self.address, *arguments)
            assert node
            return int(node)

        self.__dict__[name] = call
        return call

    def rope(self, x: Node, positions: Node, wavelengths: Node, head_dim: int, scale: float) -> Node:
        """Pairs turned by position / wavelength, times `scale`; x [H, heads, T]. Base 1: the table says everything."""
        return self.rope_ext(x, positions, wavelengths, head_dim, _HALVES, 0, 1.0, 1.0, 0.0, scale, 0.0, 0.0)

    def compute_before(self, node: Node) -> None:
        """Add a node, and what it needs, to the graph."""
        self._c.ggml_build_forward_expand(self.graph, node)

    def finish(self, node: Node, shape: tuple[int, ...]) -> Tensor:
        """Give the graph its memory; returns that of `node` (float32), which each computation fills anew."""
        self._c.ggml_set_output(node)
        self.compute_before(node)
        self._allocator = self._c.ggml_gallocr_new(self._c.ggml_backend_cpu_buffer_type())
        if not self._c.ggml_gallocr_alloc_graph(self._allocator, self.graph):
            raise MemoryError("ggml found no memory to compute in")
        size = 1
        for n in shape:
            size *= n
        memory = (c_float * size).from_address(self._c.ggml_get_data(node))
        return torch.frombuffer(memory, dtype=torch.float32).view(shape)

    def free(self) -> None:
        if self._allocator:
            self._c.ggml_gallocr_free(self._allocator)
        for buffer in self._buffers:
            self._c.ggml_backend_buffer_free(buffer)
        if self.address:
            self._c.ggml_free(self.address)
        self._allocator, self.address, self._buffers, self._held = 0, 0, [], []


class Processor:
    """What computes graphs: the CPU, with a number of threads."""

    def __init__(self, threads: int) -> None:
        self._c = library()
        self._backend = self._c.ggml_backend_cpu_init()
        self._c.ggml_backend_cpu_set_n_threads(self._backend, threads)

    def compute(self, context: Context) -> None:
        if self._c.ggml_backend_graph_compute(self._backend, context.graph) != _SUCCESS:
            raise MemoryError("ggml could not compute a step")

    def free(self) -> None:
        if self._backend:
            self._c.ggml_backend_free(self._backend)
        self._backend = 0


def q8_0_bytes(rows: int, columns: int) -> int:
    """What a matrix takes in q8_0; columns are a multiple of 32."""
    return rows * (columns // BLOCK) * BLOCK_BYTES


def quantize(matrix: Tensor, into: Tensor) -> None:
    """Write a float32 matrix (rows, columns) in q8_0 `into` as many bytes as `q8_0_bytes` says."""
    rows, columns = matrix.shape
    if into.numel() != q8_0_bytes(rows, columns):
        raise ValueError(f"{q8_0_bytes(rows, columns)} bytes are written, there is room for {into.numel()}")
    written = library().ggml_quantize_chunk(
        Q8_0, matrix.contiguous().data_ptr(), into.data_ptr(), 0, rows, columns, None
    )
    if written != into.numel():
        raise ValueError(f"ggml wrote {written} bytes of {into.numel()}")


def version() -> str:
    """ggml's version."""
    return str(library().ggml_version().decode())


__all__ = [
    "BLOCK",
    "F16",
    "F32",
    "Q8_0",
    "Context",
    "Node",
    "Processor",
    "library",
    "q8_0_bytes",
    "quantize",
    "version",
]
