"""Which kinds of model are there? A name, a configuration and a module each; `config.json` of a checkpoint names one.

A decoder's has no name: so it stood in the checkpoints that were made before there was another kind.
"""

from __future__ import annotations

from typing import Any

from fabula.config import Data, build, to_data
from fabula.errors import InputError, nearest
from fabula.model.config import ModelConfig
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig

AnyConfig = ModelConfig | EncoderDecoderConfig
AnyModel = Decoder | EncoderDecoder

DECODER, ENCODER_DECODER = "decoder", "encoder-decoder"
_CONFIGS: dict[str, type[AnyConfig]] = {DECODER: ModelConfig, ENCODER_DECODER: EncoderDecoderConfig}


def kind_of(config: AnyConfig) -> str:
    """The name of a configuration's kind."""
    return ENCODER_DECODER if isinstance(config, EncoderDecoderConfig) else DECODER


def class_of(kind: str, where: str) -> type[AnyConfig]:
    """The class of configurations of a kind; InputError for an unknown one."""
    if kind not in _CONFIGS:
        raise InputError(f'{where}: unknown kind of model "{kind}"; {nearest(kind, _CONFIGS)}')
    return _CONFIGS[kind]


def build_model(config: AnyConfig) -> AnyModel:
    """The module of a configuration; weights follow torch's generator."""
    return EncoderDecoder(config) if isinstance(config, EncoderDecoderConfig) else Decoder(config)


def described(config: AnyConfig) -> Data:
    """A configuration as plain data that `read` turns back into an equal one."""
    return to_data(config) if isinstance(config, ModelConfig) else {"kind": kind_of(config), **to_data(config)}


def read(data: Any, where: str) -> AnyConfig:
    """A configuration from plain data; InputError for anything else."""
    if not isinstance(data, dict):
        raise InputError(f"{where}: not the settings of a model")
    cls = class_of(str(data.get("kind", DECODER)), where)
    return build(cls, {k: v for k, v in data.items() if k != "kind"}, where)
