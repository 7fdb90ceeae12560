"""A decoder as a graph of onnxruntime that reads ids and keeps its keys in place: the peer of `engines.py`.

Written with the operators that the runtime's own generation library uses: GroupQueryAttention (rotation inside, keys
and values written where they lie) and SimplifiedLayerNormalization. GPT-2, Llama and Gemma 3, from their tensors as
Hugging Face names them. Needs `onnx` and `onnxruntime`, which the project itself does not.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np


class Graph:
    """Nodes and weights, one after the other."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.tensors = {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.count = 0

    def weight(self, array: Any, name: str = "") -> str:
        from onnx import numpy_helper

        self.count += 1
        name = f"{name or 'w'}_{self.count}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(
        self, kind: str, inputs: list[str], outputs: list[str] | None = None, domain: str = "", **settings: Any
    ) -> str:
        """Adds an operation; the name of its first output."""
        from onnx import helper

        self.count += 1
        names = outputs or [f"{kind}_{self.count}_out"]
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{self.count}", domain=domain, **settings))
        return names[0]

    def linear(self, x: str, name: str, transposed: bool = True) -> str:
        array = self.tensors[f"{name}.weight"]
        y = self.node("MatMul", [x, self.weight(array.T if transposed else array, "matrix")])
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else self.node("Add", [y, self.weight(bias)])

    def rms(self, x: str, name: str, eps: float, plus: float) -> str:
        scale = self.weight(self.tensors[f"{name}.weight"] + np.float32(plus))
        return self.node("SimplifiedLayerNormalization", [x, scale], axis=-1, epsilon=eps, stash_type=1)

    def layer_norm(self, x: str, name: str, eps: float) -> str:
        both = [self.weight(self.tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.node("LayerNormalization", [x, *both], axis=-1, epsilon=eps)

    def attend(self, parts: list[str], layer: int, rotation: list[str], **settings: Any) -> str:
        """Attention over what came before; `parts` are queries, keys, values of (1, T, heads x size)."""
        inputs = [*parts, f"past_key_{layer}", f"past_value_{layer}", "last", "total", *rotation]
        outputs = [f"attended_{layer}", f"key_{layer}", f"value_{layer}"]
        return self.node(
            "GroupQueryAttention", inputs, outputs, "com.microsoft", do_rotary=int(bool(rotation)), **settings
        )

    def rotation(self, size: int, theta: float, most: int) -> list[str]:
        angle = np.outer(np.arange(most), theta ** (-np.arange(0, size, 2) / size))
        return [self.weight(np.cos(angle).astype(np.float32)), self.weight(np.sin(angle).astype(np.float32))]


def gpt2(graph: Graph, theirs: dict[str, Any]) -> tuple[str, int, int]:
    heads, width, eps = theirs["n_head"], theirs["n_embd"], theirs["layer_norm_epsilon"]
    x = graph.node("Gather", [graph.weight(graph.tensors["transformer.wte.weight"]), "ids"])
    places = graph.node("Gather", [graph.weight(graph.tensors["transformer.wpe.weight"]), "places"])
    x = graph.node("Add", [x, places])
    for layer in range(theirs["n_layer"]):
        name = f"transformer.h.{layer}"
        h = graph.linear(graph.layer_norm(x, f"{name}.ln_1", eps), f"{name}.attn.c_attn", transposed=False)
        parts = [f"{what}_{layer}" for what in ("query", "new_key", "new_value")]
        graph.node("Split", [h, graph.weight(np.array([width] * 3))], parts, axis=-1)
        h = graph.attend(parts, layer, [], num_heads=heads, kv_num_heads=heads)
        x = graph.node("Add", [x, graph.linear(h, f"{name}.attn.c_proj", transposed=False)])
        h = graph.linear(graph.layer_norm(x, f"{name}.ln_2", eps), f"{name}.mlp.c_fc", transposed=False)
        # The tanh form of GELU is an operator of the standard, and quicker than a sum of its parts.
        kind = theirs["activation_function"]
        h = graph.node("Relu", [h]) if kind == "relu" else graph.node("Gelu", [h], approximate="tanh")
        x = graph.node("Add", [x, graph.linear(h, f"{name}.mlp.c_proj", transposed=False)])
    return graph.layer_norm(x, "transformer.ln_f", eps), heads, width // heads


def llama(graph: Graph, family: str, theirs: dict[str, Any], most: int) -> tuple[str, int, int]:
    """Llama, and Gemma 3: its norms add 1, stand also after the parts and over queries and keys."""
    gemma = family == "gemma3_text"
    heads, groups, width = theirs["num_attention_heads"], theirs["num_key_value_heads"], theirs["hidden_size"]
    size, eps, plus = theirs.get("head_dim") or width // heads, theirs["rms_norm_eps"], float(gemma)
    rope = theirs.get("rope_parameters") or {}
    tables = {}
    for kind in ("full_attention", "sliding_attention"):
        base = rope.get(kind, rope).get("rope_theta") or theirs["rope_theta"]
        tables[kind] = graph.rotation(size, base, most)
    x = graph.node("Gather", [graph.weight(graph.tensors["model.embed_tokens.weight"]), "ids"])
    if gemma:
        x = graph.node("Mul", [x, graph.weight(np.float32(math.sqrt(width)))])
    for layer in range(theirs["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        h = graph.rms(x, f"{name}.input_layernorm", eps, plus)
        parts = [graph.linear(h, f"{name}.self_attn.{part}_proj") for part in "qkv"]
        if gemma:
            for i, part in enumerate("qk"):
                shape = graph.weight(np.array([1, -1, heads if part == "q" else groups, size]))
                apart = graph.node("Reshape", [parts[i], shape])
                normed = graph.rms(apart, f"{name}.self_attn.{part}_norm", eps, plus)
                parts[i] = graph.node("Reshape", [normed, graph.weight(np.array([1, 0, -1]))], allowzero=0)
        kind = theirs["layer_types"][layer] if gemma else "full_attention"
        h = graph.attend(parts, layer, tables[kind], num_heads=heads, kv_num_heads=groups)
        h = graph.linear(h, f"{name}.self_attn.o_proj")
        x = graph.node("Add", [x, graph.rms(h, f"{name}.post_attention_layernorm", eps, plus) if gemma else h])
        before = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        h = graph.rms(x, f"{name}.{before}", eps, plus)
        gate, up = (graph.linear(h, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
        if gemma:
            gate = graph.node("Gelu", [gate], approximate="tanh")
        else:
            gate = graph.node("Mul", [gate, graph.node("Sigmoid", [gate])])
        h = graph.linear(graph.node("Mul", [gate, up]), f"{name}.mlp.down_proj")
        x = graph.node("Add", [x, graph.rms(h, f"{name}.post_feedforward_layernorm", eps, plus) if gemma else h])
    return graph.rms(x, "model.norm", eps, plus), groups, size


def written(
    file: Path, family: str, theirs: dict[str, Any], tensors: dict[str, Any], layers: int, most: int
) -> tuple[int, int]:
    """Write the graph with its weights beside it; the number of heads of the keys and their size."""
    import onnx
    from onnx import TensorProto, helper

    graph = Graph(tensors)
    older = family == "gpt2"
    x, groups, size = gpt2(graph, theirs) if older else llama(graph, family, theirs, most)
    # Only the last id's logits are wanted.
    x = graph.node("Gather", [x, graph.weight(np.array([-1]))], axis=1)
    embedding = "transformer.wte" if older else "model.embed_tokens"
    head = "lm_head" if "lm_head.weight" in graph.tensors else embedding
    graph.node("Identity", [graph.linear(x, head)], ["logits"])
    real, whole = TensorProto.FLOAT, TensorProto.INT64
    keys = [(f"{what}_{i}", [1, groups, most, size]) for i in range(layers) for what in ("key", "value")]
    inputs = [
        helper.make_tensor_value_info("ids", whole, [1, "T"]),
        helper.make_tensor_value_info("places", whole, [1, "T"]),
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
        *(helper.make_tensor_value_info(f"past_{name}", real, shape) for name, shape in keys),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", real, [1, 1, "V"]),
        *(helper.make_tensor_value_info(name, real, shape) for name, shape in keys),
    ]
    used = {name for node in graph.nodes for name in node.input}
    inputs = [value for value in inputs if value.name in used]
    weights = [weight for weight in graph.weights if weight.name in used]
    made = helper.make_graph(graph.nodes, "decoder", inputs, outputs, weights)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=domains, ir_version=10)
    onnx.save(model, file, save_as_external_data=True, location=f"{file.name}.data")
    return groups, size


def quantized(source: Path, file: Path) -> None:
    """The same with 8-bit matrices in blocks of 32, as q8_0 has them, multiplied as whole numbers."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    logging.getLogger(nbits.__name__).setLevel(logging.WARNING)  # it tells of every operation
    quantizer = nbits.MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=32, is_symmetric=True, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(file), use_external_data_format=True)


class Session:
    """One text: ids in, logits of the last one out."""

    def __init__(self, file: Path, layers: int, groups: int, size: int, most: int, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.names = {value.name for value in self.session.get_inputs()}
        self.binding, self.length, self.value = self.session.io_binding(), 0, onnxruntime.OrtValue
        for layer in range(layers):
            for what in ("key", "value"):
                memory = self.value.ortvalue_from_numpy(np.zeros((1, groups, most, size), np.float32))
                self.binding.bind_ortvalue_input(f"past_{what}_{layer}", memory)
                self.binding.bind_ortvalue_output(f"{what}_{layer}", memory)
        self.binding.bind_output("logits", "cpu")

    def forget(self) -> None:
        self.length = 0

    def read(self, ids: list[int]) -> Any:
        total = self.length + len(ids)
        given = {
            "ids": np.array([ids]),
            "places": np.arange(self.length, total)[None],
            "last": np.array([total - 1], np.int32),
            "total": np.array(total, np.int32),
        }
        for name in self.names & given.keys():
            self.binding.bind_cpu_input(name, given[name])
        self.session.run_with_iobinding(self.binding)
        self.length = total
        return self.binding.get_outputs()[-1].numpy()[0, 0]  # in the order in which they were bound
