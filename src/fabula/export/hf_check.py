"""Is what was written the model that it was written from? `transformers` reads the folder and is compared with ours.

Both compute in float32 on the weights as they were rounded for the file. Logits are compared at every position of a
few texts, then 64 greedy tokens, their cache against ours, then the ids of nasty texts. No network, no code from the
folder.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fabula.config import Data
from fabula.device import choose
from fabula.errors import InputError, require_extra
from fabula.export import hf_tokenizer
from fabula.generate.config import GenerateConfig
from fabula.generate.engine import Engine
from fabula.generate.steps import TranslationSteps
from fabula.model.decoder import Decoder
from fabula.model.encdec import EncoderDecoder
from fabula.model.kinds import AnyModel
from fabula.tokenizer.base import Tokenizer

GREEDY = 64
# Ids of a text that is read beyond the prompts, at least; and of each text the last ids at which logits are compared.
_LONG, KEPT = 256, 128
# Parameters from which on one prompt is continued instead of all.
_LARGE = 30_000_000
# The largest difference of two logits that rounding explains: this, or this share of the largest logit.
TOLERANCE, SHARE = 1e-4, 2e-5

PROMPTS = (
    "",
    "Había una vez un zorro que no sabía",
    'The little dog looked at the moon, and 12 stars looked back. Then it said: "',
)
TEXTS = (
    *PROMPTS,
    " a  b   c\t\td\n\n\n  e \r\n",
    "don't, DON'T, l'été, ¿qué?, ¡sí!; straße İstanbul ﬁ Ω²",
    "1 12 123 1234 12345678.90 1e-5 0x7f",
    "漢字かな交じり文 한국어 עברית العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🦊🏽 \U0001f1ea\U0001f1f8 é \u0301e \ufeff\u200d\u2028",
    "def f(x):\n    return {'a': [x**2, \"b\"]}  # ok\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ... --- ___ http://example.org/?a=b&c=%20",
    "\x00\x01\x7f",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, and how far it was apart."""

    logits: int  # positions at which the logits of the whole vocabulary were compared
    largest_difference: float
    tolerance: float
    greedy_tokens: int
    ties: int  # greedy tokens where the two likeliest were equal within the tolerance
    texts: int  # whose ids were compared
    transformers: str  # its version

    def to_data(self) -> Data:
        return asdict(self)


def check(folder: Path, model: AnyModel, tokenizer: Tokenizer, dtype: str) -> Comparison:
    """Compare a folder with the model it was written from; InputError saying what differs.

    MachineError when `transformers` is missing.
    """

    with _transformers() as library:
        theirs = _load(library, folder, isinstance(model, EncoderDecoder))
        words = library.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_words(words, tokenizer, isinstance(model, EncoderDecoder))
        ours = _rounded(model, dtype)
        if isinstance(ours, EncoderDecoder):
            return _compare_pairs(ours, theirs, tokenizer, str(library.__version__))
        return _compare(ours, theirs, tokenizer, str(library.__version__))


def _compare(ours: Decoder, theirs: Any, tokenizer: Tokenizer, version: str) -> Comparison:
    import torch

    config = ours.config
    prompts = [prompt_ids(tokenizer, text, config.context_length) for text in PROMPTS]
    apart, largest, positions = 0.0, 0.0, 0
    with torch.inference_mode():
        for ids in (*prompts, long_ids(tokenizer, ours)):
            tokens, kept = torch.tensor([ids]), min(len(ids), KEPT)
            mine = ours.logits(ours.hidden(tokens)[:, -kept:])
            other = theirs(tokens, logits_to_keep=kept).logits.float()
            largest = max(largest, float(mine.abs().max()))
            apart = max(apart, float(mine.sub_(other).abs_().max()))
            positions += kept
        tolerance = _allowed(apart, largest)
        greedy, ties = 0, 0
        # A large model takes its time: one prompt shows the caches to agree.
        for ids in prompts if config.n_params() < _LARGE else prompts[1:2]:
            n, tie = _same_greedy(ours, theirs, tokenizer, ids, tolerance)
            greedy, ties = greedy + n, ties + tie
    return Comparison(positions, apart, tolerance, greedy, ties, len(TEXTS), version)


def _allowed(apart: float, largest: float) -> float:
    """How far apart logits may be; InputError when they are farther."""
    tolerance = max(TOLERANCE, SHARE * largest)
    if not apart <= tolerance:
        raise InputError(
            f"transformers computes other logits from what was written (apart by up to {apart:.3g}, "
            f"{tolerance:.3g} is allowed): nothing was published"
        )
    return tolerance


def _compare_pairs(ours: EncoderDecoder, theirs: Any, tokenizer: Tokenizer, version: str) -> Comparison:
    """Texts of several lengths are read side by side, padded, and some ids are written after them."""
    import torch

    special, config = tokenizer.special, ours.config
    most, start = config.context_length, special.of(config.target_start)
    sources = [[*tokenizer.encode(text)[: most - 1], special.end_of_document] for text in PROMPTS]
    sources.append([*long_ids(tokenizer, ours)[1:], special.end_of_document])
    lengths = torch.tensor([len(ids) for ids in sources])
    read = torch.full((len(sources), int(lengths.max())), special.filler)
    mask = torch.arange(read.shape[1]) < lengths.unsqueeze(1)
    for row, ids in enumerate(sources):
        read[row, : len(ids)] = torch.tensor(ids)
    begun = [start, *long_ids(tokenizer, ours)[1:]][:KEPT]
    tokens = torch.tensor([begun] * len(sources))
    with torch.inference_mode():
        mine = ours(read, lengths, tokens)
        other = theirs(input_ids=read, attention_mask=mask.long(), decoder_input_ids=tokens).logits.float()
        tolerance = _allowed(apart := float((mine - other).abs().max()), float(mine.abs().max()))
        greedy, ties = 0, 0
        for ids in sources[:-1] if config.n_params() < _LARGE else sources[1:2]:
            n, tie = _same_translation(ours, theirs, tokenizer, ids, tolerance)
            greedy, ties = greedy + n, ties + tie
    return Comparison(tokens.numel(), apart, tolerance, greedy, ties, len(TEXTS), version)


def require_transformers() -> None:
    """MachineError when `transformers` is missing."""
    with _transformers():
        pass


@contextlib.contextmanager
def _transformers() -> Iterator[Any]:
    """The library, kept from the network and from talking."""
    kept = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")}
    os.environ.update(dict.fromkeys(kept, "1"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # By its name: its types are of no use here, and it need not be installed.
                transformers: Any = importlib.import_module("transformers")
            except ImportError:
                raise require_extra("transformers", "export", "checking what is exported") from None
            level = transformers.logging.get_verbosity()
            transformers.logging.set_verbosity(transformers.logging.CRITICAL)
            transformers.logging.disable_progress_bar()
            try:
                yield transformers
            finally:
                transformers.logging.set_verbosity(level)
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _load(library: Any, folder: Path, pairs: bool) -> Any:
    """Their model in float32; InputError when a tensor was not used or not found."""
    import torch

    kind = library.AutoModelForSeq2SeqLM if pairs else library.AutoModelForCausalLM
    model, info = kind.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        # The attention that is written out: the only one that caps scores.
        attn_implementation="eager",
        output_loading_info=True,
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            raise InputError(
                f"transformers: {what.replace('_', ' ')} in what was written: {sorted(map(str, info[what]))[:5]}"
            )
    return model.eval()


def _rounded(model: AnyModel, dtype: str) -> AnyModel:
    """The model with its weights as they stand in the file, on the CPU in float32."""
    import torch

    same = dtype == "float32" and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in model.parameters())
    if same:
        return model.eval()
    made = copy.deepcopy(model).cpu().float()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)).float())
    return made.eval()


def prompt_ids(tokenizer: Tokenizer, text: str, context: int) -> list[int]:
    """The ids of a prompt, of which at least half the context is left to be filled."""
    return [tokenizer.special.begin, *tokenizer.encode(text)][: max(1, context // 2)]


def long_ids(tokenizer: Tokenizer, model: AnyModel) -> list[int]:
    """Ids beyond the edge of every window, as far as the context reaches."""
    reaches = model.config.reaches() if isinstance(model, Decoder) else []
    seen = max((most + 1 for most in reaches if most is not None), default=0)
    length = min(model.config.context_length, max(_LONG, seen + 64))
    text = [number for text in TEXTS for number in tokenizer.encode(text)]
    return [tokenizer.special.begin, *(text * (length // len(text) + 1))][:length]


def _check_words(words: Any, tokenizer: Tokenizer, pairs: bool) -> None:
    """InputError when their tokenizer cuts a text otherwise."""
    problem = hf_tokenizer.differing(
        tokenizer,
        lambda text: words(text, add_special_tokens=False)["input_ids"],
        lambda ids: words.decode(ids, clean_up_tokenization_spaces=False),
        TEXTS,
    )
    special = tokenizer.special
    first = None if pairs else special.begin
    for name, number in (("eos", special.end_of_document), ("bos", first), ("pad", special.padding)):
        found = getattr(words, f"{name}_token_id")
        if problem is None and number is not None and found != number:
            problem = f"{name}_token_id is {found}, ours {number}"
    if problem is not None:
        raise InputError(f"the tokenizer that was written is not the model's: {problem}: nothing was published")


def _same_greedy(
    ours: Decoder, theirs: Any, tokenizer: Tokenizer, prompt: list[int], tolerance: float
) -> tuple[int, int]:
    """Greedy tokens that agree, and ties among them; InputError at the first that differs and is no tie."""
    import torch

    room = min(GREEDY, ours.config.context_length - len(prompt))
    end = tokenizer.special.end_of_document
    ids, n, ties = list(prompt), 0, 0
    while n < room:
        engine = Engine(ours, end, choose("cpu"))
        greedy = GenerateConfig(temperature=0.0, max_new_tokens=room - n)
        mine = [token.id for token in engine.stream(ids, room - n, greedy)]
        row = torch.tensor([ids])
        out = theirs.generate(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            do_sample=False,
            max_new_tokens=room - n,
            eos_token_id=end,
            pad_token_id=end if tokenizer.special.padding is None else tokenizer.special.padding,
        )
        other = out[0, len(ids) :].tolist()
        same = next(
            (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        if mine == other:
            return n + same, ties
        ids += mine[:same]
        with torch.inference_mode():
            logits = ours(torch.tensor([ids]))[0, -1]
        if same == len(mine) or same == len(other) or abs(float(logits[mine[same]] - logits[other[same]])) > tolerance:
            raise InputError(
                f"transformers generates other tokens from what was written (token {n + same + 1} is "
                f"{other[same : same + 1]}, ours {mine[same : same + 1]}): nothing was published"
            )
        # Two tokens equally likely: go on from ours.
        ids.append(mine[same])
        n, ties = n + same + 1, ties + 1
    return n, ties


def _same_translation(
    ours: EncoderDecoder, theirs: Any, tokenizer: Tokenizer, source: list[int], tolerance: float
) -> tuple[int, int]:
    """As `_same_greedy`, for what is written after a source. Theirs begins and ends it as its own files say."""
    import torch

    special = tokenizer.special
    read, lengths = torch.tensor([source]), torch.tensor([len(source)])
    ids, n, ties = [special.of(ours.config.target_start)], 0, 0
    room = min(GREEDY, ours.config.context_length - 1)
    while n < room:
        with torch.inference_mode():
            steps = TranslationSteps(ours, read, lengths, choose("cpu"))
        mine: list[int] = []
        chances: list[Any] = []
        new = ids
        with torch.inference_mode():
            while len(mine) < room - n and special.end_of_document not in mine:
                chances.append(steps.ahead(torch.tensor([new]))[0])
                mine.append(int(chances[-1].argmax()))
                new = mine[-1:]
        begun = {"decoder_input_ids": torch.tensor([ids])} if n else {}
        out = theirs.generate(
            input_ids=read,
            attention_mask=torch.ones_like(read),
            do_sample=False,
            num_beams=1,
            max_new_tokens=room - n,
            **begun,
        )
        written = out[0].tolist()
        other = written[len(ids) :]
        same = next(
            (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        if mine == other and written[: len(ids)] == ids:
            return n + same, ties
        cut = same == len(mine) or same == len(other) or written[: len(ids)] != ids
        if cut or abs(float(chances[same][mine[same]] - chances[same][other[same]])) > tolerance:
            raise InputError(
                f"transformers writes other tokens from what was written (token {n + same + 1} is "
                f"{other[same : same + 1]}, ours {mine[same : same + 1]}): nothing was published"
            )
        # Two tokens equally likely: go on from ours.
        ids = [*ids, *mine[: same + 1]]
        n, ties = n + same + 1, ties + 1
        if ids[-1] == special.end_of_document:
            break
    return n, ties
