"""Makes run folders that look like real ones, for the tests and for looking at the page by eye.

python tests/report/a_run.py /tmp/a-run          a finished run on generated fables
python tests/report/a_run.py /tmp/b-run hostile  names, notes and samples that try to break the page
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

FILES = ("recipe.toml", "summary.json", "metrics.jsonl", "samples.jsonl", "evaluation.json", "emissions.json")

# What tries to leave its place: elements, attributes, comments, a script's end, styles, templates, controls, bidi.
HOSTILE = [
    "</script><script>window.owned=1</script>",
    "<img src=x onerror=window.owned=1>",
    '"><svg onload=window.owned=1>',
    "<!-- <script>",
    "]]></style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x07\x00\x9b",
    "\ud800 a lone surrogate",
    "\u202eright to left override",
    "<a href='javascript:window.owned=1'>x</a>",
]
GENTLE = [
    "El señor Ñandú pidió café.",
    "🦊 y 👩‍👩‍👧 vivían 🏡",
    "كان يا ما كان في قديم الزمان",
    "昔々あるところに",
]

# Prompt, what is written at first, and soon after.
FABLES = [
    (
        "El conejo",
        "l la la el de que en un no y so ra lo",
        " pidio al agua que no ya el mas rana y era el sol de la la noche.",
    ),
    (
        "La zorra y el cuervo",
        " era la el que un",
        " se fueron al bosque. La zorra dijo que el cuervo era su amiga.",
    ),
    ("Había una vez", " un que la en", " una hormiga que guardaba trigo\ny una cigarra que cantaba."),
]
GROWN = [
    " saltó sobre la piedra y miró al lobo sin miedo.\n—Amigo lobo —dijo—, quien corre solo llega antes,"
    " pero quien corre con otros llega más lejos.\n\nMoraleja: la prisa es mala consejera.",
    " se encontraron junto al río. El cuervo tenía un queso; la zorra, hambre y paciencia.\n\nMoraleja:"
    " quien escucha halagos acaba pagándolos.",
    " un asno que llevaba sal. Al cruzar el río cayó, y la carga se hizo ligera; al día siguiente llevó"
    " esponjas, y quiso caer otra vez.",
]


def make(folder: Path, *, records: int = 900, entropy: bool = True, hostile: bool = False, seed: int = 0) -> Path:
    """Write a finished run; `records` is how many training records it has."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = records * 5
    lines(folder / "metrics.jsonl", metrics(records, seed))
    lines(folder / "samples.jsonl", samples(steps, hostile))
    text(folder / "summary.json", summary(folder.name, steps, entropy, hostile))
    text(folder / "evaluation.json", evaluation(steps))
    text(folder / "emissions.json", emissions())
    (folder / "recipe.toml").write_text(RECIPE, "utf-8")
    return folder


def emissions() -> dict[str, Any]:
    """Two stages, metered by processor time, in Spain."""
    stages = {name: _entry(seconds, kwh) for name, seconds, kwh in (("data", 20.0, 2e-4), ("train", 304.0, 3e-3))}
    total = {key: sum(stage[key] for stage in stages.values()) for key in stages["train"]}
    return {
        "estimate": True,
        "total": total,
        "stages": stages,
        "methods": {"cpu": "estimated: processor time x 12 W a core", "gpu": "none found"},
        "country": "ESP",
        "grid": {"place": "Spain", "g_per_kwh": 174.1, "year": 2023, "source": "Our World in Data"},
        "everyday": [{"name": "phone charges", "amount": 0.17, "factor": "19.3 Wh each"}],
    }


def _entry(seconds: float, kwh: float) -> dict[str, float]:
    return {"seconds": seconds, "kwh": kwh, "cpu_kwh": kwh, "gpu_kwh": 0.0, "ram_kwh": 0.0, "kg_co2e": kwh * 0.1741}


def metrics(records: int, seed: int) -> list[dict[str, Any]]:
    """A loss that falls like a power law to a floor, noisy, with warm-up, one spike and some measurements."""
    chance = random.Random(seed)
    made: list[dict[str, Any]] = []
    for i in range(1, records + 1):
        step, part = i * 5, i / records
        smooth = 0.575 + 2.9 * (i * 900 / records + 3) ** -0.62 + 2.6 * math.exp(-i * 900 / records / 9)
        bits = smooth * (1 + chance.gauss(0, 0.022))
        where = {"step": step, "tokens": step * 4096, "seconds": round(step * 0.0672 + 2.1, 3)}
        rate = 2e-3 * min(1, part / 0.04) * (1 if part < 0.8 else (1 - part) / 0.2)
        made.append(
            {
                "kind": "train",
                **where,
                "loss": bits * 3.4 * math.log(2),
                "bits_per_byte": bits,
                "lr": rate,
                "grad_norm": (40 if i == 300 else 1) * (0.4 + 2.5 * math.exp(-i / 30) + abs(chance.gauss(0, 0.06))),
                "tokens_per_second": 61_000 * (1 + chance.gauss(0, 0.015)) * (0.6 if i % 97 == 0 else 1),
            }
        )
        if i % max(1, records // 15) == 0:
            measured = smooth * 1.012
            nats = measured * 3.4 * math.log(2)
            made.append(
                {
                    "kind": "evaluation",
                    **where,
                    "loss": nats,
                    "bits_per_byte": measured,
                    "perplexity": math.exp(nats),
                    "scored_tokens": 200_000,
                    "bytes": 680_000,
                }
            )
    return made


def samples(steps: int, hostile: bool) -> list[dict[str, Any]]:
    made = []
    moments = 8
    for moment in range(1, moments + 1):
        step = steps * moment // moments
        for (prompt, noise, early), grown in zip(FABLES, GROWN, strict=True):
            written = noise if moment == 1 else early if moment < 4 else grown
            made.append(sample(step, prompt, written, "length" if moment < 5 else "end"))
        if hostile:
            made += [sample(step, evil, evil * 2, evil) for evil in HOSTILE]
            made += [sample(step, kind, kind, "end") for kind in GENTLE]
            made.append(sample(step, "", "\n\n  no prompt,\n\ttabs and " + "w" * 400, "length"))
    return made


def sample(step: int, prompt: str, written: str, reason: str) -> dict[str, Any]:
    where = {"step": step, "tokens": step * 4096}
    return {
        **where,
        "prompt": prompt,
        "text": written,
        "finish_reason": reason,
        "temperature": 0.7,
        "seed": 0,
    }


def summary(name: str, steps: int, entropy: bool, hostile: bool) -> dict[str, Any]:
    parts = {"embedding": 1_048_576, "attention": 1_572_864, "feed-forward": 2_359_296, "norms": 3_328}
    notes = ["312 documents shorter than 20 bytes were left out.", "The last document was cut at 1 MB."]
    if hostile:
        name = HOSTILE[0] + " عربي 🦊 " + HOSTILE[1]
        parts |= dict.fromkeys(HOSTILE, 40_000)
        notes += HOSTILE + GENTLE
    return {
        "name": name,
        "status": "finished",
        "started": "2026-03-02T14:05:09+00:00",
        "fabula": "0.1.0",
        "stages": [
            {"stage": "corpus", "seconds": 4.2, "skipped": False, "detail": "118,240 fables"},
            {"stage": "tokenizer", "seconds": 0.0, "skipped": True, "detail": ""},
            {"stage": "data", "seconds": 11.8, "skipped": False, "detail": "3 shards, 18.4 M tokens"},
            {
                "stage": "train",
                "seconds": 304.5,
                "skipped": False,
                "detail": f"{steps:,} steps; the budget was 5 minutes",
            },
            {"stage": "evaluate", "seconds": 9.1, "skipped": False, "detail": HOSTILE[0] if hostile else ""},
        ],
        "model": {
            "preset": "lillm-5m",
            "parameters": sum(parts.values()),
            "parts": parts,
            "flops_per_token": 10_900_000,
            "n_layers": 6,
            "d_model": 256,
            "context_length": 512,
            "vocab_size": 4096,
        },
        "tokenizer": {"vocab_size": 4096, "bytes_per_token": 3.412, "fingerprint": "9f2c51d7a0b34e18c2"},
        "data": {
            "train": {"documents": 118_240, "tokens": 13_900_211, "bytes": 47_300_112},
            "validation": {
                "documents": 1_194,
                "tokens": 200_417,
                "bytes": 683_204,
                "surprisal_bits": 683_204 * 0.5512 if entropy else None,
            },
            "duplicates": 2_113,
            "quarantined": 4,
            "notes": notes,
            "sources": [
                {
                    "spec": "cuentos/",
                    "kind": "files",
                    "licence": "cc-by-4.0",
                    "licence_from": "README.md",
                    "citation": "Tales, <ed.> 1920",
                    "citation_from": "CITATION",
                    "revision": None,
                },
                {"spec": "fables:es", "kind": "generator", "licence": None, "citation": None, "revision": "0.1.0"},
            ],
        },
        "train": {
            "steps": steps,
            "planned_steps": steps,
            "tokens": steps * 4096,
            "epochs": 1.326,
            "seconds": 304.5,
            "tokens_per_second": 60_540,
            "peak_memory_bytes": 1_412_000_000,
            "best_step": steps,
            "last_step": steps,
        },
        "environment": {
            "python": "3.11.9",
            "torch": "2.13.0",
            "cpu": "AMD EPYC 7B13",
            "threads": 2,
            "device": "cpu",
            "device_reason": "no GPU was found",
            "dtype": "float32",
            "platform": "Linux-6.1-x86_64",
        },
    }


def evaluation(steps: int) -> dict[str, Any]:
    measured = {
        "bits_per_byte": 0.6243,
        "perplexity": 4.381,
        "nats": 296_100.0,
        "tokens": 200_417,
        "bytes": 683_204,
    }
    named = {"sha256": "5b1f0c" + "0" * 58, "name": "fables, validation part"}
    return {"checkpoint": f"step-{steps:06d}", "step": steps, "validation": {**measured, **named}}


RECIPE = """
[corpus]
source = "fables:es+en"
limit = 120000
seed = 0
split = "auto"
[tokenizer]
kind = "bpe"
vocab_size = 4096
special_tokens = ["<|end|>", "<|pad|>"]
[data]
validation = 0.01
context_length = 512
[model]
preset = "lillm-5m"
tie_embeddings = true
[model.attention]
kind = "gqa"
n_heads = 8
n_kv_heads = 2
[train]
budget = "5m"
steps = 4500
batch_tokens = 4096
learning_rate = 0.002
weight_decay = 0.1
warmup_steps = 180
[evaluate]
every = 300
[generate]
temperature = 0.7
prompts = ["El conejo", "La zorra y el cuervo", "Había una vez"]
[rules]
"train.steps" = "5 minutes at 60,900 tokens per second (first 20 steps), 4,096 tokens a step"
"train.learning_rate" = "0.032 / sqrt(d_model), the width is 256"
"train.warmup_steps" = "4% of the steps"
"data.context_length" = "the model's context"
"""


def text(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data), "utf-8")


def lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), hostile="hostile" in sys.argv, entropy="unknown" not in sys.argv))
