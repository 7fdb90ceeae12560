"""How is a key of config.json a setting of a model? The entries of the tables in `families.py`, each read both ways.

Settings of a model are handled as dotted names ("attention.n_heads"); keys of config.json as they stand there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fabula.errors import nearest

Theirs = dict[str, Any]
Ours = dict[str, Any]


class Field:
    """Some keys of config.json and the settings of a model that they are made of."""

    keys: tuple[str, ...] = ()

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        """The settings; what is not understood is appended to `wrong`."""
        raise NotImplementedError

    def write(self, ours: Ours) -> Theirs:
        """The keys. A model that has no twin gives the nearest one: reading it back shows the difference."""
        raise NotImplementedError


class Same(Field):
    """The same value under two names. `default` is what their class takes when the key is missing or null."""

    def __init__(self, theirs: str, ours: str, kind: Any = int, default: Any = None, written: bool = True) -> None:
        self.keys, self.theirs, self.ours, self.kind = (theirs,), theirs, ours, kind
        self.default, self.written = default, written

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        value = theirs.get(self.theirs)
        if value is None:
            value = self.default(theirs) if callable(self.default) else self.default
            if value is None:
                wrong.append(f"{self.theirs} is missing")
                return {}
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind or (self.kind is not bool and not 0 <= value < 1 << 62):
            wrong.append(f"{self.theirs} is {value!r:.40}, not {_KINDS[self.kind]}")
            return {}
        return {self.ours: value}

    def write(self, ours: Ours) -> Theirs:
        return {self.theirs: ours[self.ours]} if self.written and self.ours in ours else {}


_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


class Always(Field):
    """A setting that every model of the family has."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {name.replace("__", "."): value for name, value in settings.items()}

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        return dict(self.settings)

    def write(self, ours: Ours) -> Theirs:
        return {}


class Only(Field):
    """A key that may have but one value, since we have nothing for the others; null is that value too."""

    def __init__(self, theirs: str, value: Any, written: bool = False) -> None:
        self.keys, self.theirs, self.value, self.written = (theirs,), theirs, value, written

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        found = theirs.get(self.theirs)
        if found is not None and found != self.value:
            wrong.append(f"{self.theirs} is {found!r:.60}, only {self.value!r} is supported")
        return {}

    def write(self, ours: Ours) -> Theirs:
        return {self.theirs: self.value} if self.written else {}


class Choice(Field):
    """A key whose values stand for several settings; of equal ones the first is written."""

    def __init__(self, theirs: str, options: Mapping[str, Ours], default: str) -> None:
        self.keys, self.theirs, self.options, self.default = (theirs,), theirs, options, default

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        value = theirs.get(self.theirs) or self.default
        if not isinstance(value, str) or value not in self.options:
            wrong.append(f"{self.theirs} is {value!r:.40}; {nearest(str(value), self.options)}")
            return {}
        return dict(self.options[value])

    def write(self, ours: Ours) -> Theirs:
        for value, settings in self.options.items():
            if all(ours.get(name) == wanted for name, wanted in settings.items()):
                return {self.theirs: value}
        return {self.theirs: next(iter(self.options))}


class Biases(Field):
    """One switch for several biases (no key: the class always has them). Those that a model lacks are written as 0."""

    def __init__(self, theirs: str | None, *ours: str) -> None:
        self.keys, self.theirs, self.ours = ((theirs,) if theirs else ()), theirs, ours

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        value = theirs.get(self.theirs) or False if self.theirs else True
        if not isinstance(value, bool):
            wrong.append(f"{self.theirs} is {value!r:.40}, not true or false")
        return dict.fromkeys(self.ours, value is True)

    def write(self, ours: Ours) -> Theirs:
        return {self.theirs: any(ours.get(name) for name in self.ours)} if self.theirs else {}


class Cap(Field):
    """A soft-cap, null where there is none."""

    def __init__(self, theirs: str, ours: str) -> None:
        self.keys, self.theirs, self.ours = (theirs,), theirs, ours

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        value = theirs.get(self.theirs) or 0.0
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            wrong.append(f"{self.theirs} is {value!r:.40}, not a number")
            return {}
        return {self.ours: float(value)}

    def write(self, ours: Ours) -> Theirs:
        return {self.theirs: ours.get(self.ours) or None}


class ScoreScale(Field):
    """Gemma divides scores by the root of a whole number, which need not be the width of a head."""

    keys = ("query_pre_attn_scalar",)

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        value = theirs.get("query_pre_attn_scalar", 256)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1 << 31:
            wrong.append(f"query_pre_attn_scalar is {value!r:.40}, not a number above 0")
            return {}
        return {"attention.scale": 0.0 if value == theirs.get("head_dim", 256) else value**-0.5}

    def write(self, ours: Ours) -> Theirs:
        scale = ours.get("attention.scale")
        return {"query_pre_attn_scalar": max(1, round(scale**-2)) if scale else ours.get("attention.head_dim", 1)}


# What the names of activations are here, in gated networks and in plain ones.
GATED: dict[str, Ours] = {
    "silu": {"ffn.kind": "swiglu"},
    "swish": {"ffn.kind": "swiglu"},
    "gelu_pytorch_tanh": {"ffn.kind": "geglu", "ffn.tanh": True},
    "gelu_new": {"ffn.kind": "geglu", "ffn.tanh": True},
    "gelu": {"ffn.kind": "geglu", "ffn.tanh": False},
    "sigmoid": {"ffn.kind": "glu"},
}
PLAIN: dict[str, Ours] = {
    "gelu_new": {"ffn.kind": "gelu", "ffn.tanh": True},
    "gelu_pytorch_tanh": {"ffn.kind": "gelu", "ffn.tanh": True},
    "gelu": {"ffn.kind": "gelu", "ffn.tanh": False},
    "relu": {"ffn.kind": "relu"},
    "relu2": {"ffn.kind": "relu2"},
}


# T5's word for a network, the name of its activation, and what they are here; of equal ones the first is written.
# "gated-gelu" is the approximation: the exact form has no word.
_T5_WORDS: dict[str, tuple[str, Ours]] = {
    "relu": ("relu", PLAIN["relu"]),
    "gated-gelu": ("gelu_new", GATED["gelu_new"]),
    **{f"gated-{act}": (act, settings) for act, settings in GATED.items() if act != "gelu"},
    **{act: (act, settings) for act, settings in PLAIN.items()},
}


class FeedForward(Field):
    """T5 says in one word which activation its network has and whether it is gated; later files say it twice."""

    keys = ("feed_forward_proj", "dense_act_fn", "is_gated_act")

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        word = theirs.get("feed_forward_proj") or "relu"
        if not isinstance(word, str) or word not in _T5_WORDS:
            wrong.append(f"feed_forward_proj is {word!r:.40}; {nearest(str(word), _T5_WORDS)}")
            return {}
        act, settings = _T5_WORDS[word]
        for key, value in (("dense_act_fn", act), ("is_gated_act", word.startswith("gated-"))):
            if theirs.get(key) not in (None, value):
                wrong.append(f"{key} is {theirs[key]!r:.40}, but feed_forward_proj is {word!r}")
        return dict(settings)

    def write(self, ours: Ours) -> Theirs:
        equal = [w for w, (_, s) in _T5_WORDS.items() if all(ours.get(name) == value for name, value in s.items())]
        alike = [w for w, (_, s) in _T5_WORDS.items() if s["ffn.kind"] == ours.get("ffn.kind")]
        word = [*equal, *alike, "relu"][0]
        return {
            "feed_forward_proj": word,
            "dense_act_fn": _T5_WORDS[word][0],
            "is_gated_act": word.startswith("gated-"),
        }


class HeadAndScale(Field):
    """T5's head and the factor before it. One key said both: tied and scaled, or neither.

    transformers 5 writes `tie_word_embeddings` true whatever is tied, and the factor in a key of its own. Whether there
    is a head is then seen by the weights: `hf.read` sets the key by them.
    """

    keys = ("tie_word_embeddings", "scale_decoder_outputs")

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        tied, scaled = theirs.get("tie_word_embeddings"), theirs.get("scale_decoder_outputs")
        tied = True if tied is None else tied
        scaled = tied if scaled is None else scaled
        if not isinstance(tied, bool) or not isinstance(scaled, bool):
            wrong.append(
                f"tie_word_embeddings, scale_decoder_outputs are {tied!r:.20}, {scaled!r:.20}, not true or false"
            )
            return {}
        return {"tied": tied, "head_scale": "inverse_sqrt_width" if scaled else 1.0}

    def write(self, ours: Ours) -> Theirs:
        return {
            "tie_word_embeddings": ours["tied"],
            "scale_decoder_outputs": ours["head_scale"] == ours["d_model"] ** -0.5,
        }


_TYPES = {"full_attention": "G", "sliding_attention": "L"}
_NAMES = {kind: name for name, kind in _TYPES.items()}


class Layers(Field):
    """Which layers look back only so far: a list with the type of each, and in older files a rule."""

    def __init__(self, switch: bool) -> None:
        self.switch = switch  # Qwen has one; Gemma's rule is a period
        self.keys = ("layer_types", "sliding_window")
        if switch:
            self.keys += ("use_sliding_window", "max_window_layers")
        else:
            self.keys += ("sliding_window_pattern", "_sliding_window_pattern")

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        n, window = theirs.get("num_hidden_layers"), theirs.get("sliding_window")
        if type(n) is not int or not 0 < n < 1 << 16:
            return {}
        if self.switch and not theirs.get("use_sliding_window"):
            window = None
        types = theirs.get("layer_types")
        if types is None:
            types = [_NAMES[kind] for kind in self._rule(theirs, n, window)]
        if not isinstance(types, list) or len(types) != n:
            wrong.append(f"layer_types does not name {n} layers")
            return {}
        unknown = sorted({str(t) for t in types if t not in _TYPES})
        if unknown:
            wrong.append(f"layer_types has {', '.join(unknown)}; {', '.join(_TYPES)} are supported")
            return {}
        kinds = "".join(_TYPES[t] for t in types)
        if "L" not in kinds:
            return {"pattern": "G", "local.kind": "full"}
        if type(window) is not int or window < 1:
            wrong.append(f"sliding_window is {window!r}, but there are layers of type sliding_attention")
            return {}
        return {"pattern": _period(kinds), "local.kind": "sliding", "local.window": window}

    def _rule(self, theirs: Theirs, n: int, window: Any) -> str:
        if self.switch:
            first = theirs.get("max_window_layers", 28)
            return "".join("L" if window is not None and i >= first else "G" for i in range(n))
        every = theirs.get("sliding_window_pattern", theirs.get("_sliding_window_pattern", 6))
        return "".join("L" if not isinstance(every, int) or every < 1 or (i + 1) % every else "G" for i in range(n))

    def write(self, ours: Ours) -> Theirs:
        sliding = ours.get("local.kind") == "sliding"
        kinds = kinds_of(ours) if sliding else "G" * ours["n_layers"]
        theirs: Theirs = {"layer_types": [_NAMES[kind] for kind in kinds]}
        if self.switch:
            used = "L" in kinds
            return {
                **theirs,
                "use_sliding_window": used,
                "sliding_window": ours["local.window"] if used else None,
                "max_window_layers": ours["n_layers"],
            }
        return {**theirs, "sliding_window": ours["local.window"] if sliding else ours["context_length"]}


def kinds_of(ours: Ours) -> str:
    """The kind of every layer."""
    return str(ours["pattern"] * ours["n_layers"])[: ours["n_layers"]]


def _period(kinds: str) -> str:
    """The shortest pattern that gives these kinds when it is repeated.

    >>> _period("LLGLLGL")
    'LLG'
    """
    return next(kinds[:p] for p in range(1, len(kinds) + 1) if (kinds[:p] * len(kinds))[: len(kinds)] == kinds)


# The keys that a kind of scaling needs or may have, beside its type and base.
_SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
}
UNSCALED: Ours = {
    "position.scaling": "none",
    "position.factor": 1.0,
    "position.original_context": 0,
    "position.beta_fast": 32.0,
    "position.beta_slow": 1.0,
    "position.attention_factor": 0.0,
    "position.low_freq_factor": 1.0,
    "position.high_freq_factor": 4.0,
}
# Of a scaling, the settings that it looks at.
LOOKED_AT = {
    "none": (),
    "linear": ("factor",),
    "ntk": ("factor",),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor"),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
}
# Not a setting: our local layers are never scaled, theirs are where one set of angles serves all layers.
LOCAL_SCALING = "position.scaling of local layers"


class RopeAngles(Field):
    """The base and scaling of the angles, as transformers 5 keeps them (`rope_parameters`) and as older files do.

    `by_type`: local layers have a base of their own and are not scaled (Gemma 3). Both ways are written.
    """

    def __init__(self, theta: float, by_type: bool = False, local_theta: float = 0.0) -> None:
        self.theta, self.by_type, self.local_theta = theta, by_type, local_theta
        self.keys = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
        self.keys += ("rope_local_base_freq",) if by_type else ("rope_interleaved",)

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        found: Ours = {"position.kind": "rope", "position.local_theta": 0.0, **UNSCALED}
        given, older = theirs.get("rope_parameters") or {}, theirs.get("rope_scaling") or {}
        if not isinstance(given, dict) or not isinstance(older, dict):
            wrong.append("rope_parameters or rope_scaling is not a table")
            return {}
        if theirs.get("rope_interleaved"):
            wrong.append("rope_interleaved is true, only the half-split layout is supported")
        if theirs.get("partial_rotary_factor") not in (None, 1, 1.0):
            wrong.append(f"partial_rotary_factor is {theirs['partial_rotary_factor']!r:.20}, only 1 is supported")
        if self.by_type:
            whole = {**(given.get("full_attention") or {}), **older}
            local = given.get("sliding_attention") or {}
            if set(given) - {"full_attention", "sliding_attention"}:
                wrong.append(f"rope_parameters is for {', '.join(given)}, not for full_attention and sliding_attention")
            base = local.get("rope_theta", theirs.get("rope_local_base_freq") or self.local_theta)
            found["position.local_theta"] = _number(base, "rope_theta of sliding_attention", wrong)
            if local.get("rope_type", "default") != "default":
                wrong.append(f"rope_type of sliding_attention is {local['rope_type']!r}, only default is supported")
            found[LOCAL_SCALING] = "none"
        else:
            whole = older or given
        theta = whole.get("rope_theta", theirs.get("rope_theta"))
        found["position.theta"] = _number(self.theta if theta is None else theta, "rope_theta", wrong)
        self._read_scaling(whole, theirs, found, wrong)
        if not self.by_type:
            found[LOCAL_SCALING] = found["position.scaling"]
        return found

    def _read_scaling(self, given: Theirs, theirs: Theirs, found: Ours, wrong: list[str]) -> None:
        kind = given.get("rope_type", given.get("type", "default"))
        if kind not in _SCALINGS:
            wrong.append(f"rope_type is {kind!r:.40}; {', '.join(_SCALINGS)} are supported")
            return
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_SCALINGS[kind]}
        wrong += [f"rope_parameters has {name}, which {kind} does not know" for name in given if name not in known]
        if given.get("partial_rotary_factor") not in (None, 1, 1.0):
            wrong.append(f"partial_rotary_factor is {given['partial_rotary_factor']!r:.20}, only 1 is supported")
        if kind == "default":
            return
        found["position.scaling"] = kind
        found["position.factor"] = factor = _number(given.get("factor"), f"factor of {kind}", wrong)
        if kind in ("yarn", "llama3"):
            original = given.get("original_max_position_embeddings") or theirs.get("max_position_embeddings")
            found["position.original_context"] = original
        if kind == "llama3":
            for name in ("low_freq_factor", "high_freq_factor"):
                found[f"position.{name}"] = _number(given.get(name), f"{name} of llama3", wrong)
        if kind == "yarn":
            found["position.beta_fast"] = _number(given.get("beta_fast") or 32, "beta_fast", wrong)
            found["position.beta_slow"] = _number(given.get("beta_slow") or 1, "beta_slow", wrong)
            if given.get("truncate") not in (None, True):
                wrong.append("truncate of yarn is false, only true is supported")
            sharper, above, below = (given.get(n) for n in ("attention_factor", "mscale", "mscale_all_dim"))
            if sharper is None and above and below and factor > 1:
                sharper = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
            found["position.attention_factor"] = _number(sharper or 0, "attention_factor", wrong)

    def write(self, ours: Ours) -> Theirs:
        if ours.get("position.kind") != "rope":
            ours = {**ours, **UNSCALED, "position.theta": self.theta, "position.local_theta": 0.0}
        theta, kind = ours["position.theta"], ours["position.scaling"]
        scaling: Theirs = {}
        if kind != "none":
            scaling = {"rope_type": kind, "factor": ours["position.factor"]}
        if kind in ("yarn", "llama3"):
            scaling["original_max_position_embeddings"] = ours["position.original_context"]
        if kind == "llama3":
            scaling |= {n: ours[f"position.{n}"] for n in ("low_freq_factor", "high_freq_factor")}
        if kind == "yarn":
            scaling |= {n: ours[f"position.{n}"] for n in ("beta_fast", "beta_slow")}
            if ours["position.attention_factor"]:
                scaling["attention_factor"] = ours["position.attention_factor"]
        whole = {"rope_type": "default", "rope_theta": theta, **scaling}
        theirs: Theirs = {"rope_theta": theta, "rope_scaling": scaling or None}
        if not self.by_type:
            return {"rope_parameters": whole, **theirs}
        local = ours["position.local_theta"] or theta
        parameters = {"full_attention": whole, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
        return {"rope_parameters": parameters, **theirs, "rope_local_base_freq": local}


def _number(value: Any, name: str, wrong: list[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        wrong.append(f"{name} is {value!r:.40}, not a number")
        return 2.0
    return float(value)


class HeadDim(Field):
    """GPT-2's heads share the width evenly."""

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        width, heads = theirs.get("n_embd", 768), theirs.get("n_head", 12)
        if type(width) is not int or type(heads) is not int or heads < 1 or width % heads:
            wrong.append(f"n_embd={width!r:.20} is not a multiple of n_head={heads!r:.20}")
            return {}
        return {"attention.head_dim": width // heads}

    def write(self, ours: Ours) -> Theirs:
        return {}


class NormOfHeads(Field):
    """The norms of queries and keys have the epsilon of all others."""

    def __init__(self, centred: bool) -> None:
        self.centred = centred

    def read(self, theirs: Theirs, wrong: list[str]) -> Ours:
        eps = theirs.get("rms_norm_eps", 1e-6)
        return {
            "attention.qk_norm": True,
            "attention.qk_norm_eps": float(eps) if isinstance(eps, (int, float)) else 1e-6,
            "attention.qk_norm_centred": self.centred,
        }

    def write(self, ours: Ours) -> Theirs:
        return {}
