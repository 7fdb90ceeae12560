"""What is exported needs nothing of ours: a process in which `fabula` cannot be imported says the same 64 tokens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fabula
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.progress import Silent
from tests import tiny

PROMPTS = ["", "El conejo", "Había una vez  un zorro\n—¡Ay!"]

# Runs in isolated mode: neither this folder nor PYTHONPATH are looked at, and whatever is installed is hidden.
PROGRAM = """
import json, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fabula", "tests"):
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
try:
    import fabula
    raise SystemExit("fabula is not hidden")
except ImportError:
    pass
import torch
torch.set_num_threads(1)
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
pairs = AutoConfig.from_pretrained(sys.argv[1], local_files_only=True).is_encoder_decoder
model = (AutoModelForSeq2SeqLM if pairs else AutoModelForCausalLM).from_pretrained(sys.argv[1], local_files_only=True)
words = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
found = []
for prompt in json.loads(sys.argv[2]):
    ids = words(prompt, return_tensors="pt")["input_ids"]
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64)
    found.append([made[0, 1 if pairs else ids.shape[1]:].tolist(), words.decode(made[0], skip_special_tokens=True)])
print(json.dumps([type(model).__name__, found]))
"""

# Recipes of both kinds that are asked for: Alexandria's shape (GPT-2's class, no biases of queries), and Gemma's.
ALEXANDRIA = """
preset = "alexandria-9m"
context_length = 96
d_model = 32
n_layers = 2
attention = { n_heads = 2, n_kv_heads = 2, head_dim = 16 }
ffn = { d_ff = 64 }
"""
GEMMA = """
preset = "gemma3-tinystories"
context_length = 96
d_model = 32
n_layers = 4
pattern = "LLG"
local = { kind = "sliding", window = 16 }
attention = { n_heads = 2, n_kv_heads = 1, head_dim = 16 }
ffn = { d_ff = 64 }
"""


@pytest.mark.parametrize(("shape", "family"), [(ALEXANDRIA, "GPT2LMHeadModel"), (GEMMA, "Gemma3ForCausalLM")])
def test_the_same_64_tokens(shape: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from fabula import pipeline

    monkeypatch.setattr("fabula.train.speed._SECONDS", (0.0, 0.05))
    before, after = tiny.RECIPE.split("[model]", 1)
    recipe = f"{before}[model]{shape}\n[train]{after.split('[train]', 1)[1]}".replace("128", "192")
    run = pipeline.run(tiny.write_recipe(tmp_path, recipe), runs=tmp_path / "runs").folder
    loaded = stage.open_model(run)
    made = stage.run(ExportConfig(), loaded, tmp_path / "out", Silent())
    assert made.architecture == family

    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(tmp_path / "out"), json.dumps(PROMPTS)],
        cwd=tmp_path,
        env={**tiny.environment(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, tiny.tail(done.stderr, 20)
    name, found = json.loads(done.stdout.splitlines()[-1])
    assert name == family
    lm = fabula.load(run, device="cpu")
    torch.set_num_threads(1)
    for prompt, (ids, text) in zip(PROMPTS, found, strict=True):
        ours = lm.generate(prompt, temperature=0.0, max_new_tokens=64)
        assert list(ours.ids) == ids
        assert prompt + ours.text == text
        assert len(ids) == 64 or ours.finish_reason != "length"


TRANSLATION = """
[corpus]
source = "pairs.tsv"
source_field = "1"
target_field = "2"

[tokenizer]
vocab_size = 320

[model]
preset = "fabula-translate-4m"
context_length = 96
d_model = 32
encoder_layers = 2
decoder_layers = 2
attention = { n_heads = 2, n_kv_heads = 2, head_dim = 16 }
ffn = { d_ff = 64 }

[train]
budget = "24steps"
batch_tokens = 192
device = "cpu"
threads = 1

[evaluate]
translations = 4

[generate]
max_new_tokens = 6
"""


def test_the_same_translations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of the preset of recipes/translate.toml as T5."""
    pytest.importorskip("transformers")
    pytest.importorskip("sacrebleu")
    from fabula import pipeline
    from tests.test_translate import write_pairs

    monkeypatch.setattr("fabula.train.speed._SECONDS", (0.0, 0.05))
    recipe = tiny.write_recipe(tmp_path, TRANSLATION)
    given = {"corpus.source": str(write_pairs(tmp_path))}
    run = pipeline.run(recipe, given, runs=tmp_path / "runs").folder
    made = stage.run(ExportConfig(), stage.open_model(run), tmp_path / "out", Silent())
    assert made.architecture == "T5ForConditionalGeneration"
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(tmp_path / "out"), json.dumps(PROMPTS)],
        cwd=tmp_path,
        env={**tiny.environment(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, tiny.tail(done.stderr, 20)
    name, found = json.loads(done.stdout.splitlines()[-1])
    assert name == "T5ForConditionalGeneration"
    lm = fabula.load(run, device="cpu")
    torch.set_num_threads(1)
    for prompt, (ids, text) in zip(PROMPTS, found, strict=True):
        ours = lm.generate(prompt, max_new_tokens=64)
        assert list(ours.ids) == ids
        assert ours.text == text
