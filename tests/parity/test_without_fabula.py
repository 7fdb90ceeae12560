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
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], local_files_only=True)
words = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
found = []
for prompt in json.loads(sys.argv[2]):
    ids = words(prompt, return_tensors="pt")["input_ids"]
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64)
    found.append([made[0, ids.shape[1]:].tolist(), words.decode(made[0], skip_special_tokens=True)])
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
