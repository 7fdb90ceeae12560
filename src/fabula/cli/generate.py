"""The verb that writes: one prompt, streamed, or many of them side by side."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from fabula.cli import console, pieces
from fabula.cli.models import Device, Model, Which
from fabula.cli.recipes import Json
from fabula.errors import InputError

if TYPE_CHECKING:
    from fabula.generate.constrained import Pattern
    from fabula.generate.many import Sample
    from fabula.generate.run import Generation
    from fabula.language_model import LanguageModel

_MOST_TEXTS = 100_000


def generate(
    model: Model,
    /,
    *,
    prompt: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="the beginning; left out or empty: from nothing")
    ] = None,
    prompts: Annotated[
        Path | None, Parameter(help='a file of beginnings: one a line, or JSONL with "prompt"; all run side by side')
    ] = None,
    n: Annotated[int, Parameter(name="--n", help="texts for each prompt, each with a seed of its own")] = 1,
    best_of: Annotated[int, Parameter(help="write so many and show the likeliest (mean of its tokens); 1: no")] = 1,
    max_new_tokens: Annotated[int, Parameter(help="most tokens to add")] = 200,
    temperature: Annotated[
        float | None, Parameter(help="0 is greedy; 0.7 by default, 0 of a model that translates")
    ] = None,
    beams: Annotated[int, Parameter(help="texts that a search keeps (nothing is drawn); 1: no search")] = 1,
    beam_groups: Annotated[
        int, Parameter(help="groups of the beams, each shunning what those before it choose; 1: none")
    ] = 1,
    diversity: Annotated[float, Parameter(help="groups: what a token loses for each text that just chose it")] = 0.5,
    length_penalty: Annotated[
        float, Parameter(help="beams: texts compete by their log-probability / length^this; 0 favours short ones")
    ] = 1.0,
    top_k: Annotated[int, Parameter(help="keep the k likeliest tokens; 0: all")] = 0,
    top_p: Annotated[float, Parameter(help="keep the likeliest tokens up to this probability")] = 1.0,
    min_p: Annotated[float, Parameter(help="keep tokens of this share of the likeliest one's probability")] = 0.0,
    typical_p: Annotated[float, Parameter(help="keep the typical tokens up to this probability")] = 1.0,
    repetition_penalty: Annotated[float, Parameter(help="above 1 makes seen tokens less likely")] = 1.0,
    presence_penalty: Annotated[float, Parameter(help="taken off the logits of written tokens")] = 0.0,
    frequency_penalty: Annotated[float, Parameter(help="taken off them for each time they were written")] = 0.0,
    no_repeat_ngram: Annotated[int, Parameter(help="no sequence of this many tokens comes twice; 0: it may")] = 0,
    lookup: Annotated[
        int, Parameter(help="tokens guessed from earlier text and verified at once: the same text, sooner; 0: none")
    ] = 0,
    stop: Annotated[
        tuple[str, ...],
        Parameter(negative=(), allow_leading_hyphen=True, help="a text that ends the generation; may be repeated"),
    ] = (),
    seed: Annotated[int, Parameter(help="the same seed gives the same text")] = 0,
    view: Annotated[
        Literal["text", "tokens"],
        Parameter(help="tokens: |what| was| writ|ten|, in the colour of its probability in a terminal"),
    ] = "text",
    logprobs: Annotated[
        int | None, Parameter(help="list each token's log-probability, beside those of so many likeliest ones")
    ] = None,
    regex: Annotated[
        str | None,
        Parameter(allow_leading_hyphen=True, help="what is written has to match this regular expression as a whole"),
    ] = None,
    json_schema: Annotated[
        Path | None, Parameter(help="a file with a JSON schema; what is written is JSON that it admits")
    ] = None,
    also: Annotated[
        tuple[Path, ...],
        Parameter(negative=(), help="another model with the same tokenizer: they write together; may be repeated"),
    ] = (),
    engine: Annotated[
        str, Parameter(help="torch, compiled (a CPU; faster), or auto: compiled where it can be")
    ] = "auto",
    weights: Annotated[
        str, Parameter(help="of the compiled engine: float32, or int8 (faster, less exact)")
    ] = "float32",
    checkpoint: Which = "best",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Continue a prompt; the text appears as it is made. A model that translates writes the prompt's translation.

    With a file of prompts the texts come in its order, each as soon as those before it are there; --json then gives a
    document for each, on a line of its own. Ctrl-C ends it, and what was finished is written.
    """
    from fabula.config import build
    from fabula.generate.config import GenerateConfig
    from fabula.language_model import load
    from fabula.model.encdec import EncoderDecoder

    # What is wrong with a setting is said before the model is read.
    drawn = 0.7 if beams == 1 else 0.0
    config = build(
        GenerateConfig,
        {
            "max_new_tokens": max_new_tokens,
            "temperature": drawn if temperature is None else temperature,
            "beams": beams,
            "beam_groups": beam_groups,
            "diversity": diversity,
            "length_penalty": length_penalty,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "typical_p": typical_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "no_repeat_ngram": no_repeat_ngram,
            "lookup": lookup,
            "stop": [console.typed(s) for s in stop],
            "seed": seed,
        },
    )
    texts = _beginnings(prompt, prompts)
    _check(len(texts), n, best_of, logprobs)
    lm = load(model, checkpoint, device, console.say, engine, weights)
    if also:
        lm = lm.with_others(*(load(other, checkpoint, device, console.say, engine, weights) for other in also))
    translates = isinstance(lm.model, EncoderDecoder)
    if translates and temperature is None:
        config = dataclasses.replace(config, temperature=0.0)
    if max(n, best_of) > 1 and config.temperature == 0 and (beams == 1 or best_of > 1):
        raise InputError(f"{max(n, best_of)} texts of one prompt would be equal: draw them, with a --temperature")
    pattern = _pattern(lm, regex, json_schema)
    shows = _Shows(model, lm, config, view, logprobs, json, translates, pattern)
    if prompts is None and n == 1 and best_of == 1:
        _one(shows, texts[0])
    else:
        _many(shows, texts, n, best_of, from_file=prompts is not None)


def _check(n_prompts: int, n: int, best_of: int, logprobs: int | None) -> None:
    for name, value in (("n", n), ("best-of", best_of)):
        if not 1 <= value <= _MOST_TEXTS:
            raise InputError(f"--{name} {value} must be from 1 to {_MOST_TEXTS:,}")
    if n > 1 and best_of > 1:
        raise InputError("--n shows all texts of a prompt, --best-of one of them: leave out one")
    if logprobs is not None and logprobs < 0:
        raise InputError(f"--logprobs {logprobs} must be at least 0 (0: the written tokens alone)")
    if not n_prompts:
        raise InputError("the file has no prompts")


def _pattern(lm: LanguageModel, regex: str | None, schema: Path | None) -> Pattern | None:
    if regex is not None and schema is not None:
        raise InputError("--regex and --json-schema both say what is written: leave out one")
    if regex is not None:
        return lm.regex(console.typed(regex))
    return None if schema is None else lm.json_schema(_read(schema).decode("utf-8", errors="replace"))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror or error})") from None


# ---- prompts ---------------------------------------------------------------------------------------------------


def _beginnings(prompt: str | None, file: Path | None) -> list[str]:
    if file is None:
        return [console.typed(prompt or "")]
    if prompt is not None:
        raise InputError("--prompt is one beginning, --prompts a file of them: leave out one")
    return list(_lines(file))


def _lines(file: Path) -> Iterator[str]:
    """The prompts of a file. Lines that are empty are none; in JSONL a prompt may be."""
    for number, line in enumerate(_read(file).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{file}, line {number:,}: not UTF-8") from None
        if not text.strip():
            continue
        yield _prompt_of(text, f"{file}, line {number:,}") if file.suffix in (".jsonl", ".ndjson") else text


def _prompt_of(text: str, where: str) -> str:
    try:
        record = jsonlib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({str(error).splitlines()[0]})") from None
    found = record.get("prompt") if isinstance(record, dict) else record
    if not isinstance(found, str):
        raise InputError(f'{where}: no text under "prompt"')
    return found


# ---- what is shown ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Shows:
    """A model, and how its texts are shown."""

    path: Path
    lm: LanguageModel
    config: Any
    view: Literal["text", "tokens"]
    logprobs: int | None
    json: bool
    translates: bool
    pattern: Pattern | None

    @property
    def settings(self) -> dict[str, Any]:
        return {f.name: getattr(self.config, f.name) for f in dataclasses.fields(self.config)}

    def facts(self) -> dict[str, Any]:
        return {
            "model": str(self.path),
            "checkpoint": None if self.lm.checkpoint is None else self.lm.checkpoint.path.name,
        }

    def written(self, made: Generation, seed: int) -> dict[str, Any]:
        found = {
            "prompt": made.prompt,
            "text": made.text,
            "finish_reason": made.finish_reason,
            "prompt_tokens": made.prompt_tokens,
            "tokens": len(made.ids),
            "ids": list(made.ids),
            "logprobs": list(made.logprobs),
            "seed": seed,
        }
        if self.logprobs:
            found["top"] = [[{"id": i, "logprob": x} for i, x in place] for place in made.top]
        if self.pattern is not None:
            found["complete"] = self.pattern.met(made.ids)
        return found

    def how(self) -> dict[str, Any]:
        return {
            "temperature": self.config.temperature,
            "beams": self.config.beams,
            "engine": self.lm.engine[0],
            "engine_reason": self.lm.engine[1],
        }

    def beginning(self, prompt: str) -> str:
        """What stands before a text."""
        return "" if self.translates else prompt

    def show(self, made: Generation) -> None:
        """A finished text."""
        if self.view == "tokens":
            line = pieces.Barred(self.lm.tokenizer, self.beginning(made.prompt))
            for number, chance in zip(made.ids, made.logprobs, strict=True):
                line.add(number, chance)
            line.close()
        else:
            console.out(self.beginning(made.prompt) + made.text)
        self.listed(made)

    def listed(self, made: Generation) -> None:
        """What is told below a text: whether its pattern is met, and the tokens with their log-probabilities."""
        if self.pattern is not None and not self.pattern.met(made.ids):
            console.say(
                f"! after {len(made.ids):,} tokens the text does not yet meet {self.pattern.what} "
                f"(it ended by: {made.finish_reason}); give it more --max-new-tokens"
            )
        if self.logprobs is None:
            return
        header = ["token", "id", "log p", "p", *(["likeliest"] if self.logprobs else [])]
        rows = []
        for place, (number, chance) in enumerate(zip(made.ids, made.logprobs, strict=True)):
            row = [pieces.named(self.lm.tokenizer, number), str(number), f"{chance:.3f}", f"{math.exp(chance):.1%}"]
            if self.logprobs:
                likeliest = [f"{pieces.named(self.lm.tokenizer, i)} {math.exp(x):.1%}" for i, x in made.top[place]]
                row.append("  ".join(likeliest))
            rows.append(row)
        console.out("")
        console.out(console.table(rows, header, right=(1, 2, 3)))


def _one(shows: _Shows, prompt: str) -> None:
    from fabula.generate.run import encode_prompt, gather

    lm, came = shows.lm, []
    line: pieces.Barred | None = None
    for index, piece in enumerate(
        lm.pieces(prompt, top_logprobs=shows.logprobs or 0, pattern=shows.pattern, **shows.settings)
    ):
        came.append(piece)
        # The prompt is shown only once it is known to fit.
        if shows.json:
            continue
        if shows.view == "tokens":
            line = line or pieces.Barred(lm.tokenizer, shows.beginning(prompt))
            line.add(piece.ids[0], piece.logprobs[0])
        else:
            console.out((shows.beginning(prompt) if index == 0 else "") + piece.text, end="")
    made = gather(prompt, len(encode_prompt(lm.tokenizer, prompt)), came)
    if shows.json:
        console.out_json({**shows.facts(), **shows.written(made, shows.config.seed), **shows.how()})
        return
    if line is not None:
        line.close()
    else:
        console.out("")
    shows.listed(made)


def _many(shows: _Shows, texts: Sequence[str], n: int, best_of: int, from_file: bool) -> None:
    from fabula.generate.many import best
    from fabula.progress import stop_on_signals

    several, kept = max(n, best_of), []
    with stop_on_signals() as stop:
        found = shows.lm.samples(
            texts,
            several,
            top_logprobs=shows.logprobs or 0,
            pattern=shows.pattern,
            stopped=stop.__bool__,
            **shows.settings,
        )
        of_prompt: list[Sample] = []
        for sample in found:
            of_prompt.append(sample)
            if best_of > 1 and len(of_prompt) < best_of:
                continue
            shown = best(of_prompt)
            of_prompt = []
            if not shows.json:
                _headed(shows, shown, len(texts), n, best_of)
            elif from_file:
                console.out_json_line(_record(shows, shown, n, best_of))
            else:
                kept.append(_record(shows, shown, n, best_of))
        if shows.json and not from_file:
            console.out_json({**shows.facts(), "samples": kept, **shows.how()})
        stop.check("texts were written; those that were finished are there")


def _record(shows: _Shows, sample: Sample, n: int, best_of: int) -> dict[str, Any]:
    numbers = {"number": sample.prompt + 1, **({"sample": sample.number + 1} if max(n, best_of) > 1 else {})}
    more = {"mean_logprob": sample.mean_logprob, **({"best_of": best_of} if best_of > 1 else {})}
    return {**numbers, **shows.written(sample.made, sample.seed), **more}


def _headed(shows: _Shows, sample: Sample, n_prompts: int, n: int, best_of: int) -> None:
    """A text under a line that says which one it is."""
    said = [f"prompt {sample.prompt + 1:,}"] if n_prompts > 1 else []
    if n > 1:
        said.append(f"sample {sample.number + 1:,}")
    if best_of > 1:
        said.append(f"the likeliest of {best_of:,}")
    said.append(f"{math.exp(sample.mean_logprob):.1%} a token")
    if max(n, best_of) > 1 and shows.config.beams == 1:
        said.append(f"seed {sample.seed}")
    console.out(f"── {', '.join(said)}")
    shows.show(sample.made)
    console.out("")
