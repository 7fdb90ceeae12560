"""Tokenizer files of Hugging Face's format, both ways.

A `tokenizer.json` of Fabula's is one of theirs. What is added on leaving: the template that puts the begin of a
document before a text, as the model read it in training, and the files that name the tokens of each role. On coming the
other way the roles are read as `tokenizer/published.py` says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fabula.config import Data, dump_json
from fabula.errors import InputError
from fabula.export.hf import read_json
from fabula.tokenizer import conversation, foreign, published
from fabula.tokenizer.base import FILE, Tokenizer, guarded
from fabula.tokenizer.forms import is_native, n_ids
from fabula.tokenizer.special import SPECIAL_TEXT

# Other files that a tokenizer may be made of.
_OTHERS = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt")


def read(folder: Path, theirs: Data, vocab_size: int, given: Path | None = None) -> Tokenizer:
    """The tokenizer of a folder, or the one at `given`, for a model of `vocab_size` ids.

    InputError when there is none or it does not fit, DamagedError when it cannot be held exactly.
    """
    place = folder if given is None else given
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise InputError(f"{place}: {_without(place)}")
    if given is not None and file.with_name(foreign.FILE).is_file():
        return _fitting(Tokenizer.load(file), vocab_size, file)
    home = folder if given is None else file.parent
    return guarded(lambda: _read(file, home, theirs, vocab_size), str(file))


def _read(file: Path, home: Path, theirs: Data, vocab_size: int) -> Tokenizer:
    data = read_json(file) or {}
    bare = {**data, "post_processor": None}
    if is_native(bare):
        if n_ids(data) == vocab_size:
            return _native(bare, file)
        roles: dict[str, str] = dict(SPECIAL_TEXT)
    else:
        roles = published.roles(file.parent, home, data, theirs)
    if len(data.get("model", {}).get("vocab", ())) > vocab_size + len(data.get("added_tokens", ())):
        raise InputError(f"{file}: {len(data['model']['vocab']):,} tokens, but the model has {vocab_size:,} ids")
    return foreign.take(file, foreign.Special(roles, vocab_size, published.template(file.parent)))


def _without(place: Path) -> str:
    others = [name for name in _OTHERS if (place / name).is_file()] if place.is_dir() else []
    if others:
        return (
            f"no {FILE}, only {', '.join(others)}; AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) of "
            "transformers writes one; or `fabula tokenizer import` makes one, to be named with --tokenizer"
        )
    return f"no {FILE}; name the model's tokenizer: --tokenizer PATH"


def _native(data: Data, file: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Backend

    return Tokenizer(Backend.from_str(json.dumps(data, ensure_ascii=False)), str(file))


def _fitting(tokenizer: Tokenizer, vocab_size: int, file: Path) -> Tokenizer:
    if tokenizer.vocab_size != vocab_size:
        raise InputError(f"{file}: {tokenizer.vocab_size:,} ids, but the model has {vocab_size:,}")
    return tokenizer


# ---- writing ----------------------------------------------------------------------------------------------------


def token_ids(tokenizer: Tokenizer, target_start: str | None = None) -> Data:
    """What config.json and generation_config.json say of the tokens.

    `target_start` is the role of the id that an encoder-decoder's targets begin with (None: it is a decoder).
    """
    special = tokenizer.special
    if target_start is not None:
        ids = {"eos_token_id": special.end_of_document, "pad_token_id": special.padding}
        return {**ids, "decoder_start_token_id": special.of(target_start)}
    ids = {"bos_token_id": special.begin, "eos_token_id": special.end_of_document, "pad_token_id": special.padding}
    return ids


def files(tokenizer: Tokenizer, context_length: int, for_pairs: bool = False) -> dict[str, str]:
    """The tokenizer's files by name. A document is begun by an id, what an encoder-decoder reads is ended by one."""
    data = json.loads(tokenizer.to_json())
    texts = {number: token["content"] for token in data["added_tokens"] for number in [token["id"]]}
    special = tokenizer.special
    if not isinstance(tokenizer, foreign.ForeignTokenizer):
        number = special.end_of_document if for_pairs else special.begin
        data["post_processor"] = _template_of(texts[number], number, after=for_pairs)
    tokens: Data = {
        name: texts.get(number)
        for name, number in (
            ("bos_token", None if for_pairs else special.begin),
            ("eos_token", special.end_of_document),
            ("pad_token", special.padding),
        )
        if number is not None
    }
    config: Data = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    made = {FILE: dump_json(data), published.CONFIG: dump_json(config), published.MAP: dump_json(tokens)}
    if tokenizer.chat_template is not None:
        made[conversation.FILE] = tokenizer.chat_template
    return made


def _template_of(text: str, number: int, after: bool = False) -> Data:
    """A post-processor that puts one token before a text, or after it."""
    token = {"SpecialToken": {"id": text, "type_id": 0}}
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing",
        "single": [first, token] if after else [token, first],
        "pair": [first, second, token] if after else [token, first, second],
        "special_tokens": {text: {"id": text, "ids": [number], "tokens": [text]}},
    }


def differing(ours: Tokenizer, encode: Any, decode: Any, texts: Iterable[str]) -> str | None:
    """The first text whose ids, or whose way back, differ between our tokenizer and another one; None: all agree."""
    for text in texts:
        mine, others = ours.encode(text), list(encode(text))
        if mine != others:
            return f"{text!r:.60}: ids {others[:12]}, ours {mine[:12]}"
        if decode(others) != ours.decode(mine):
            return f"{text!r:.60}: comes back as {decode(others)!r:.60}, ours as {ours.decode(mine)!r:.60}"
    return None
