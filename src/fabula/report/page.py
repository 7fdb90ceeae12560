"""What does the page say? From the records of a run to what the template lays out.

Every section is one function that returns plain values for its part of `page.html.j2`; what a run does not
have is None or an empty list, and the template says so in that place.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from fabula.report import cleaning, curves, wording
from fabula.report.energy import energy
from fabula.report.facts import Fact, Section, breakdown, shown
from fabula.report.reading import Facts, Records

TEXT_LIMIT = 6000  # characters of one sample; what is longer is cut with a word about it
MOMENTS = 60  # positions of the slider; more checkpoints than that are thinned evenly


def describe(records: Records, points: int, first_axis: str) -> Section:
    """The values for the whole template."""
    measured = curves.measure(records)
    return {
        "name": run_name(records),
        "started": wording.day(records.summary.text("started")),
        "fabula": records.summary.text("fabula"),
        "sentence": sentence(records),
        "banner": banner(records),
        "problems": records.problems,
        "numbers": numbers(records),
        "learning": curves.learning(measured, entropy(records), points, first_axis),
        "small": curves.small_charts(measured, points),
        "progress": progress(records),
        "moments": moments(records),
        "translation": translation(records),
        "data": data(records),
        "tokenizer": tokenizer(records),
        "model": model(records),
        "stages": stages(records),
        "energy": energy(records),
        "settings": settings(records),
        "environment": environment(records),
    }


# ---- headline --------------------------------------------------------------------------------------------


def run_name(records: Records) -> str:
    return records.summary.text("name").strip() or records.folder or "A run without a name"


def sentence(records: Records) -> str:
    """What was trained on what, how long and where, with whatever of it is known."""
    summary = records.summary
    parameters, preset = summary.number("model", "parameters"), summary.text("model", "preset")
    text = "A language model"
    if parameters is not None:
        text += f" of {wording.count(parameters)} parameters"
    if preset:
        text += f" ({preset})" if parameters is not None else f", {preset}"
    corpus, documents = corpus_name(records), summary.number("data", "train", "documents")
    if documents is not None:
        text += f", trained on {wording.plural(documents, record_name(records))}"
        text += f" of {corpus}" if corpus else ""
    elif corpus:
        text += f", trained on {corpus}"
    size = summary.number("data", "train", "bytes")
    text += f" ({wording.size(size)} of text)" if size is not None and documents is not None else ""
    seconds = training_seconds(records)
    text += f" for {wording.duration(seconds)}" if seconds is not None else ""
    device = summary.text("environment", "device").partition(":")[0]
    text += {"cpu": " on a CPU", "cuda": " on a GPU", "mps": " on an Apple GPU"}.get(device, "")
    return text + "." if text != "A language model" else "What was trained, and on what, is not recorded yet."


def record_name(records: Records) -> str:
    """What one record of the text is called."""
    return "pair" if records.summary.text("data", "records") == "pairs" else "document"


def feeding(records: Records) -> list[Fact]:
    """How rows were filled, and how often each component of a mixture was read, where the run says so."""
    facts = []
    packing = records.summary.table("train", "packing")
    waste, cut, documents = packing.number("waste"), packing.number("cut"), packing.number("documents")
    if waste is not None and cut is not None and documents:
        where = f"packing {packing.text('packing')}; {100 * cut / documents:.1f} % of the documents are cut"
        facts.append(Fact("padding", f"{100 * waste:.1f} %", where))
    for name, _ in records.summary.pairs("train", "mixture"):
        part = records.summary.table("train", "mixture", name)
        share, passes = part.number("share"), part.number("passes")
        bits = records.evaluation.number("validation", "components", name, "bits_per_byte")
        if share is not None and passes is not None:
            scored = "" if bits is None else f"; {wording.bits(bits)} bits per byte"
            facts.append(Fact(name, f"{100 * share:.1f} %", f"of the tokens, read {passes:.2f} times{scored}"))
    return facts


def corpus_name(records: Records) -> str:
    """What a person would call the text: its name, its file, or the kind of its source."""
    corpus = records.recipe.table("corpus")
    for path in (("name",), ("source", "name")):
        if corpus.text(*path):
            return corpus.text(*path)
    mixed = [corpus.text("mixture", name, "source") for name, _ in corpus.pairs("mixture")]
    spec = (
        ",".join(filter(None, mixed)) or corpus.text("source") or corpus.text("source", "path") or corpus.text("path")
    )
    named = [_source_name(part.strip()) for part in spec.split(",") if part.strip()]
    return " and ".join(named) or corpus.text("source", "kind") or corpus.text("kind")


_LANGUAGES = {"es": "Spanish", "en": "English"}


def _source_name(spec: str) -> str:
    """A source without its folders; the generator with its languages."""
    if spec.startswith("fables:"):
        languages = spec.removeprefix("fables:").split("+")
        return f"generated fables in {' and '.join(_LANGUAGES.get(code, code) for code in languages)}"
    return PurePath(spec).name or spec


def training_seconds(records: Records) -> float | None:
    seconds = records.summary.number("train", "seconds")
    return last_number(records, "seconds") if seconds is None else seconds


def last_number(records: Records, key: str) -> float | None:
    """The greatest value of a quantity that only grows, from whichever record has it."""
    found = [n for r in (*records.train, *records.evaluations) if (n := r.number(key)) is not None]
    return max(found, default=None)


def banner(records: Records) -> str:
    """Sentences about a run that is not finished or met trouble; nothing for one that is and did not."""
    return " ".join(filter(None, (_ending(records), _unapplied(records))))


def _unapplied(records: Records) -> str:
    """Steps that were not applied: how many, and why the first one was not."""
    if not records.unapplied:
        return ""
    first, number = records.unapplied[0], len(records.unapplied)
    was = "step was" if number == 1 else "steps were"
    return (
        f"{wording.exact(number)} {was} not applied, the first at step {wording.exact(first.number('step'))}: "
        f"{first.text('reason')}."
    )


def _ending(records: Records) -> str:
    status = records.summary.text("status")
    step, planned = last_number(records, "step"), records.summary.number("train", "planned_steps")
    where = f" at step {wording.exact(step)}" if step is not None else ""
    where += f" of {wording.exact(planned)}" if where and planned is not None else ""
    if status == "stopped":
        return f"This run was stopped{where}. The page shows what it had learned until then."
    if status == "diverged":
        return f"This run diverged{where} and was ended; what had been saved before is whole."
    if status == "running":
        return f"This run is not over: the page was written{where or ' before the first step'}."
    if status == "finished":
        early = records.summary.text("train", "ended_early")
        return f"Training {early}." if early else ""
    what = "How this run ended is not recorded" if records.summary else "There is no summary of this run"
    return f"{what}: it was cut short or is still going{'; last seen' + where if where else ''}."


def quality(records: Records) -> tuple[Facts, str]:
    """The measurement that speaks for the run, and where it comes from."""
    final = records.evaluation.table("validation")
    if final.number("bits_per_byte") is not None:
        step = records.evaluation.number("step")
        at = f"step {wording.exact(step)}" if step is not None else records.evaluation.text("checkpoint")
        return final, f"on {final.text('name') or 'the validation text'}" + (f", {at}" if at else "")
    measured = [e for e in records.evaluations if e.number("bits_per_byte") is not None]
    if not measured:
        return Facts(), ""
    best = min(measured, key=lambda e: e.number("bits_per_byte") or 0.0)
    return best, f"on the validation text, best while training, step {wording.exact(best.number('step'))}"


def entropy(records: Records) -> float | None:
    """Bits per byte that the generator of the text itself needs, None where no generator is known."""
    validation = records.summary.table("data", "validation")
    surprisal, size = validation.number("surprisal_bits"), validation.number("bytes")
    return surprisal / size if surprisal is not None and size else None


def numbers(records: Records) -> list[Fact]:
    """The four numbers that matter."""
    measured, where = quality(records)
    bits, perplexity = measured.number("bits_per_byte"), measured.number("perplexity")
    note = where or "not measured yet"
    if perplexity is not None:
        note += f"; perplexity {wording.ratio(perplexity)}"
    summary = records.summary
    shape = [
        f"{wording.exact(n)} {noun}"
        for key, noun in (
            ("n_layers", "layers"),
            ("d_model", "wide"),
            ("context_length", "tokens of context"),
        )
        if (n := summary.number("model", key)) is not None
    ]
    all_stages = [n for s in summary.tables("stages") if (n := s.number("seconds")) is not None]
    whole = f"of training; {wording.duration(sum(all_stages))} with everything else" if all_stages else "of training"
    seconds = training_seconds(records)
    return [
        Fact("bits per byte", wording.bits(bits), note),
        bleu(records) or distance(bits, entropy(records)),
        Fact("parameters", wording.count(summary.number("model", "parameters")), ", ".join(shape)),
        Fact("time", wording.duration(seconds), whole if seconds is not None else "not recorded"),
    ]


def bleu(records: Records) -> Fact | None:
    """BLEU of what was translated, None where nothing was."""
    found = records.evaluation.table("translation")
    if found.number("bleu") is None:
        return None
    note = f"chrF {wording.ratio(found.number('chrf'), 3)}; {wording.exact(found.number('sources'))} held-out sources"
    return Fact("BLEU", wording.ratio(found.number("bleu"), 3), note)


def distance(bits: float | None, limit: float | None) -> Fact:
    """How far the model is from the best that is possible on this text."""
    label = "above the entropy"
    if limit is None:
        return Fact(label, wording.UNKNOWN, "not known: only text from a generator has a known entropy")
    known = f"the generator itself needs {wording.bits(limit)}"
    if bits is None:
        return Fact(label, wording.UNKNOWN, f"not measured yet; {known}")
    gap = bits - limit
    if gap < 0:
        note = f"{known}; below it by chance on a small set, or because the text was seen in training"
        return Fact("below the entropy", wording.bits(-gap), note)
    more = f", this is {wording.percent(gap / limit)} more" if limit > 0 else ""
    return Fact(label, wording.bits(gap), known + more)


def progress(records: Records) -> list[Fact]:
    """Training in numbers."""
    train = records.summary.table("train")
    steps = train.number("steps")
    steps = last_number(records, "step") if steps is None else steps
    planned, tokens = train.number("planned_steps"), train.number("tokens")
    tokens = last_number(records, "tokens") if tokens is None else tokens
    epochs, memory = train.number("epochs"), train.number("peak_memory_bytes")
    facts = []
    if steps is not None:
        of = f"of {wording.exact(planned)} planned" if planned is not None and planned != steps else ""
        facts.append(Fact("steps", wording.exact(steps), of))
    if tokens is not None:
        read = f"the text {wording.ratio(epochs)} times" if epochs is not None else ""
        facts.append(Fact("tokens read", wording.count(tokens), read))
    if train.number("tokens_per_second") is not None:
        facts.append(Fact("speed", wording.count(train.number("tokens_per_second")), "tokens per second"))
    if memory is not None:
        facts.append(Fact("most memory", wording.size(memory)))
    if train.number("best_step") is not None:
        facts.append(Fact("best step", wording.exact(train.number("best_step"))))
    if train.text("weights"):
        facts.append(Fact("weights at the end", train.text("weights"), "the better of their mean and the last step's"))
    return facts


# ---- samples ---------------------------------------------------------------------------------------------


def moments(records: Records) -> Section | None:
    """What the model wrote at each checkpoint, None when it wrote nothing."""
    by_step: dict[float, list[Facts]] = {}
    order: dict[str, int] = {}
    for sample in records.samples:
        step = sample.number("step")
        if step is not None and isinstance(sample.get("text"), str):
            by_step.setdefault(step, []).append(sample)
            order.setdefault(sample.text("prompt"), len(order))
    if not by_step:
        return None
    steps = sorted(by_step)
    if len(steps) > MOMENTS:
        steps = [steps[round(i * (len(steps) - 1) / (MOMENTS - 1))] for i in range(MOMENTS)]
    listed = []
    for step in steps:
        samples = sorted(by_step[step], key=lambda s: order[s.text("prompt")])
        tokens = next((n for s in samples if (n := s.number("tokens")) is not None), None)
        after = f"after {wording.plural(tokens, 'token')}" if tokens is not None else ""
        listed.append({"step": f"Step {wording.exact(step)}", "after": after, "samples": [written(s) for s in samples]})
    return {"listed": listed, "left_out": len(by_step) - len(steps), "settings": sampling(records)}


def written(sample: Facts) -> Section:
    """One sample: the prompt, what the model added, and why it ended."""
    prompt, text = sample.text("prompt"), sample.text("text")
    translates = sample.text("kind") == "translation"
    if prompt and text.startswith(prompt) and not translates:
        text = text[len(prompt) :]
    reason = sample.text("finish_reason")
    if reason in ("length", "max_new_tokens", "context"):
        ending = "cut at the length asked for"
    elif reason in ("end", "stop", "eos", "end_of_document", "end_of_text"):
        ending = "ended by the model"
    else:
        ending = f"ended: {reason}" if reason else ""
    cut = f"{wording.exact(len(text))} characters; the rest is in samples.jsonl" if len(text) > TEXT_LIMIT else ""
    return {
        "prompt": prompt,
        "between": "\n→ " if translates else "",
        "text": text[:TEXT_LIMIT],
        "references": sample.texts("references"),
        "cut": cut,
        "ending": ending,
    }


def translation(records: Records) -> Section | None:
    """What was written for held-out sources, and how good it is; None where nothing was translated."""
    found = records.evaluation.table("translation")
    if not found:
        return None
    facts = []
    for key, label in (("bleu", "BLEU"), ("chrf", "chrF")):
        if found.number(key) is not None:
            facts.append(Fact(label, wording.ratio(found.number(key), 4), found.text(f"{key}_signature")))
    if found.number("sources") is not None:
        of = f"of {wording.exact(found.number('of_sources'))}, {wording.exact(found.number('references'))} references"
        facts.append(Fact("sources", wording.exact(found.number("sources")), of))
    if found.number("beams") is not None:
        penalty = wording.ratio(found.number("length_penalty"))
        facts.append(Fact("beams", wording.exact(found.number("beams")), f"length penalty {penalty}"))
    if found.number("cut"):
        facts.append(Fact("cut", wording.exact(found.number("cut")), "did not end by themselves"))
    examples = [
        {"source": e.text("source"), "text": e.text("text")[:TEXT_LIMIT], "references": e.texts("references")}
        for e in found.tables("examples")
    ]
    return {"facts": facts, "examples": examples}


def sampling(records: Records) -> str:
    """How the samples were drawn, where all were drawn alike."""
    said = []
    for key in ("temperature", "seed"):
        found = {n for s in records.samples if (n := s.number(key)) is not None}
        if len(found) == 1:
            said.append(f"{key} {wording.ratio(found.pop(), 6)}")
    return ", ".join(said)


# ---- facts -----------------------------------------------------------------------------------------------


def data(records: Records) -> Section | None:
    """What the model was trained on."""
    found = records.summary.table("data")
    if not found:
        return None
    splits = []
    for key, label in (("train", "training"), ("validation", "validation")):
        split = found.table(key)
        if split:
            cells = [wording.exact(split.number(k)) for k in ("documents", "tokens", "bytes")]
            splits.append({"label": label, "cells": cells})
    facts = []
    if found.number("duplicates") is not None:
        facts.append(Fact("duplicates", wording.exact(found.number("duplicates")), "left out before the split"))
    if found.number("quarantined") is not None:
        facts.append(Fact("quarantined", wording.exact(found.number("quarantined")), "records that could not be used"))
    long = cleaning.too_long(found)
    if long is not None:
        facts.append(Fact("too long", *long))
    limit = entropy(records)
    if limit is not None:
        facts.append(Fact("entropy", wording.bits(limit), "bits per byte, of the generator on the validation text"))
    sha256 = records.evaluation.text("validation", "sha256")
    if sha256:
        facts.append(Fact("validation text", sha256[:16], "first digits of its SHA-256"))
    facts += feeding(records)
    for source in found.tables("sources"):
        licence, where = source.text("licence"), source.text("licence_from")
        note = f"{source.text('spec')}, as {where} says" if licence else f"{source.text('spec')} says nothing of one"
        facts.append(Fact("licence", licence or "not stated", note))
        if source.text("revision"):
            facts.append(Fact("revision", source.text("revision")[:16], source.text("spec")))
    cited = [f"To cite {source.text('spec')}: {source.text('citation')}" for source in found.tables("sources")]
    notes = found.texts("notes") + [text for text in cited if not text.endswith(": ")]
    name = f"{record_name(records)}s"
    steps = cleaning.rows(found.tables("cleaning"))
    made = {"corpus": corpus_name(records), "splits": splits, "facts": facts, "notes": notes, "records": name}
    return {**made, "cleaning": steps}


def tokenizer(records: Records) -> list[Fact]:
    found = records.summary.table("tokenizer")
    facts = []
    if found.number("vocab_size") is not None:
        facts.append(Fact("vocabulary", wording.exact(found.number("vocab_size")), "tokens"))
    if found.number("bytes_per_token") is not None:
        facts.append(Fact("bytes per token", wording.ratio(found.number("bytes_per_token")), "more is shorter"))
    if found.text("fingerprint"):
        facts.append(Fact("fingerprint", found.text("fingerprint")[:16]))
    return facts


def model(records: Records) -> Section | None:
    """The model's shape, and where its parameters are."""
    found = records.summary.table("model")
    if not found:
        return None
    facts = [Fact("preset", found.text("preset"))] if found.text("preset") else []
    named: tuple[tuple[str, str, str], ...] = (
        ("n_layers", "layers", ""),
        ("d_model", "width", "numbers per token"),
        ("context_length", "context", "tokens"),
        ("vocab_size", "vocabulary", "tokens"),
    )
    facts += [Fact(label, wording.exact(n), note) for k, label, note in named if (n := found.number(k)) is not None]
    if found.number("flops_per_token") is not None:
        facts.append(Fact("computation", wording.count(found.number("flops_per_token")), "FLOPs per token"))
    return {"facts": facts, **breakdown(found.numbers("parts"), wording.exact, "Where the parameters are")}


def stages(records: Records) -> Section | None:
    """Where the time went."""
    found = records.summary.tables("stages")
    if not found:
        return None
    timed = [(s.text("stage") or "unnamed", s.number("seconds") or 0.0) for s in found]
    made = breakdown(timed, wording.duration, "Where the time went")
    for row, stage in zip(made["rows"], found, strict=True):
        row["skipped"], row["detail"] = stage.get("skipped") is True, stage.text("detail")
        row["value"] = wording.duration(stage.number("seconds"))
        if row["skipped"]:
            row["value"], row["share"] = wording.UNKNOWN, ""
    return made


def settings(records: Records) -> list[Section]:
    """The resolved recipe: every setting, and the rule of those that were derived."""
    rules = {key: value for key, value in records.recipe.pairs("rules") if isinstance(value, str)}
    rules |= {key: value for key, value in flat(records.recipe.get("rules"), "") if isinstance(value, str)}
    sections = []
    for name, table in records.recipe.pairs():
        if name == "rules":
            continue
        rows = [(key, shown(value), rules.pop(f"{name}.{key}", "")) for key, value in flat(table, "")]
        if rows:
            derived = sum(1 for _, _, rule in rows if rule)
            sections.append({"name": name, "rows": rows, "derived": derived})
    left = [(key, "", rule) for key, rule in rules.items()]
    if left:
        sections.append({"name": "other rules", "rows": left, "derived": 0})
    return sections


def flat(value: Any, path: str) -> list[tuple[str, Any]]:
    """The leaves of nested tables with their dotted names."""
    if not isinstance(value, dict):
        return [(path, value)] if value is not None else []
    return [leaf for k, v in value.items() for leaf in flat(v, f"{path}.{k}" if path else str(k))]


def environment(records: Records) -> list[Fact]:
    found = records.summary.table("environment")
    reason = found.text("device_reason")
    named = (
        ("device", reason),
        ("dtype", ""),
        ("cpu", ""),
        ("threads", ""),
        ("platform", ""),
        ("python", ""),
        ("torch", ""),
    )
    facts = [Fact(key, shown(found.get(key)), note) for key, note in named if found.get(key) not in (None, "")]
    if records.summary.text("fabula"):
        facts.append(Fact("fabula", records.summary.text("fabula")))
    return facts
