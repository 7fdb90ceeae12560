"""Folders of Hugging Face's format: what is read, what is refused, and that nothing in them is run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fabula import storage
from fabula.errors import ConfigError, DamagedError, FabulaError, InputError
from fabula.export import hf
from tests.export import folders
from tests.export.folders import CONFIG, INDEX, WEIGHTS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folders.write(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**data, **changes}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def shard(folder: Path, names: tuple[str, str] = ("a.safetensors", "b.safetensors")) -> dict[str, str]:
    """Cut the weights in two files with an index; returns the index's map."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {name: names[i % 2] for i, name in enumerate(tensors)}
    for file in names:
        save_file({n: t for n, t in tensors.items() if where[n] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return where


# ---- what is read ----------------------------------------------------------------------------------------------


def test_a_folder_is_read(tmp_path: Path) -> None:
    model = folders.write(tmp_path / "model")
    found = hf.read(tmp_path / "model")
    assert found.config == model.config
    assert (found.family.name, found.dtype, found.notes) == ("qwen3", "float32", [])
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.equal(found.model(tokens), model(tokens))
    assert all(p.requires_grad for p in found.model.parameters())


def test_shards_are_read(folder: Path) -> None:
    whole = hf.read(folder).model.state_dict()
    shard(folder)
    cut = hf.read(folder).model.state_dict()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_names_without_the_prefix_and_what_older_files_hold_beside(tmp_path: Path) -> None:
    """GPT-2 as it was published: no "transformer.", and masks among the weights."""
    from fabula.model.presets import presets

    small = dict(d_model=32, n_layers=2, vocab_size=320, context_length=32)
    import dataclasses

    base = presets.get("gpt2").config
    attention = dataclasses.replace(base.attention, n_heads=2, n_kv_heads=2, head_dim=16)
    config = dataclasses.replace(base, **small, attention=attention, ffn=dataclasses.replace(base.ffn, d_ff=128))
    model = folders.write(tmp_path / "gpt2", config=config, family="gpt2")

    def older(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
        tensors["h.1.attn.masked_bias"] = torch.tensor(-1e4)

    change_tensors(tmp_path / "gpt2", older)
    found = hf.read(tmp_path / "gpt2")
    assert found.notes == ["2 tensors that are no weights were left out (transformer.h.0.attn.bias, ...)"]
    own = model.state_dict()
    assert all(torch.equal(own[name], t) for name, t in found.model.state_dict().items())


def test_tied_weights_may_be_stored_twice_but_must_be_equal(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    hf.read(folder)
    change_tensors(folder, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(ConfigError, match=r"lm_head.weight is tied to model.embed_tokens.weight by config.json, but"):
        hf.read(folder)


def test_several_formats_of_numbers_are_told(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].bfloat16()}))
    found = hf.read(folder)
    assert found.dtype == "float32"
    assert found.notes == ["weights in several formats (bfloat16, float32): an export writes float32"]


def test_what_looks_like_such_a_folder(folder: Path, tiny_run: Path, tmp_path: Path) -> None:
    assert hf.is_folder(folder)
    assert not hf.is_folder(tiny_run)
    assert not hf.is_folder(next((tiny_run / "checkpoints").iterdir()))
    assert not hf.is_folder(tmp_path / "nothing")
    (folder / CONFIG).write_text("{")
    assert not hf.is_folder(folder)


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda f: (f / CONFIG).unlink(), InputError, "no config.json"),
        (lambda f: (f / CONFIG).write_text("{"), DamagedError, "not valid JSON"),
        (lambda f: (f / CONFIG).write_text("[]"), DamagedError, "not a JSON object"),
        (lambda f: (f / WEIGHTS).unlink(), InputError, "no model.safetensors and no"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\x10" + bytes(50)), DamagedError, "not a safetensors file"),
        (lambda f: os.truncate(f / WEIGHTS, 9000), DamagedError, "not a safetensors file"),
        (lambda f: change_config(f, model_type="mamba"), ConfigError, "model_type 'mamba' is not supported"),
        (lambda f: change_config(f, model_type="quen3"), ConfigError, 'did you mean "qwen3"'),
        (lambda f: change_config(f, architectures=["Qwen3ForSequenceClassification"]), ConfigError, "only Qwen3For"),
        (lambda f: change_config(f, auto_map={"AutoModel": "a.B"}), ConfigError, "auto_map: the model needs code"),
        (lambda f: change_config(f, quantization_config={"bits": 4}), ConfigError, "quantization_config"),
        (lambda f: change_config(f, layer_types=None, num_hidden_layers=100), InputError, "a model of 100 layers"),
        (lambda f: change_config(f, layer_types=None, num_hidden_layers=10**15), InputError, "layers|n_layers"),
        (lambda f: change_config(f, vocab_size=10**15), InputError, "numbers, but the weights are"),
        (lambda f: change_config(f, intermediate_size=65), ConfigError, r"mlp.up_proj.weight has shape \(64, 32\)"),
        (lambda f: change_config(f, tie_word_embeddings=False), ConfigError, "lm_head.weight is missing"),
        (lambda f: change_config(f, attention_bias=True), ConfigError, "q_proj.bias is missing"),
        (
            lambda f: change_tensors(f, lambda t: t.pop("model.norm.weight")),
            ConfigError,
            "model.norm.weight is missing",
        ),
        (
            lambda f: change_tensors(f, lambda t: t.update(other=torch.zeros(1))),
            ConfigError,
            "model.other is not part of this model",
        ),
        (
            lambda f: change_tensors(f, lambda t: t["model.norm.weight"].fill_(float("nan"))),
            ConfigError,
            "model.norm.weight holds NaN or infinity",
        ),
        (
            lambda f: change_tensors(f, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)})),
            ConfigError,
            "has numbers of I8",
        ),
    ],
)
def test_refused(folder: Path, change: Callable[[Path], Any], kind: type[FabulaError], said: str) -> None:
    change(folder)
    with pytest.raises(kind, match=f"(?s){said}") as caught:
        hf.read(folder)
    assert str(folder) in str(caught.value)


def test_all_that_is_wrong_with_the_weights_is_listed(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.norm.weight"]
        tensors["model.extra.weight"] = torch.zeros(3)
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(2, 2)

    change_tensors(folder, spoil)
    with pytest.raises(ConfigError) as caught:
        hf.read(folder)
    assert len(caught.value.problems) == 3
    assert caught.value.exit_code == 2


def test_a_long_list_is_cut_and_counted(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({f"x{i}": torch.zeros(1) for i in range(30)}))
    with pytest.raises(ConfigError) as caught:
        hf.read(folder)
    assert len(caught.value.problems) == 9
    assert caught.value.problems[-1] == "and 22 more tensors: is not part of this model"


@pytest.mark.parametrize("name", ["../b.safetensors", "/etc/b.safetensors", "sub/b.safetensors", "b.bin", "", ".."])
def test_an_index_stays_in_its_folder(folder: Path, name: str) -> None:
    where = shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**where, "model.norm.weight": name}}))
    with pytest.raises(InputError, match="is no safetensors file in this folder"):
        hf.read(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": 3}, {"weight_map": {"a": 3}}])
def test_an_index_that_is_none(folder: Path, index: Any) -> None:
    shard(folder)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DamagedError, match="not an index"):
        hf.read(folder)


def test_shards_that_are_missing_or_overlap(folder: Path) -> None:
    shard(folder)
    save_file({**load_file(folder / "b.safetensors"), "model.norm.weight": torch.zeros(32)}, folder / "b.safetensors")
    save_file({**load_file(folder / "a.safetensors"), "model.norm.weight": torch.zeros(32)}, folder / "a.safetensors")
    with pytest.raises(ConfigError, match=r"model.norm.weight stands in a.safetensors and in b.safetensors"):
        hf.read(folder)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"b.safetensors is missing"):
        hf.read(folder)


class _Trap:
    def __reduce__(self) -> Any:
        return (Path(sys.argv[0]).with_name("sprung").write_text, ("x",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickles_are_never_opened(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside sound weights they are told and left alone; alone they are refused. (A hook of the tests sees to it.)"""
    monkeypatch.setattr(sys, "argv", [str(folder / "x")])
    (folder / name).write_bytes(pickle.dumps(_Trap()))
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    assert hf.read(folder).notes == [
        f"{name} is a pickle or holds code, and was not opened",
        "modeling_evil.py is code, and was not run",
    ]
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=f"{name} are never opened"):
        hf.read(folder)
    assert not (folder / "sprung").exists()


def test_a_folder_that_we_wrote_and_that_was_changed(folder: Path) -> None:
    storage.seal(folder, {"kind": hf.KIND})
    hf.read(folder)
    change_config(folder, rms_norm_eps=0.1)
    with pytest.raises(DamagedError, match=r"(?s)config.json.*If it was changed on purpose, remove .*manifest.json"):
        hf.read(folder)
    (folder / storage.MANIFEST).unlink()
    hf.read(folder)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_end_in_an_error_of_ours(folder: Path, seed: int) -> None:
    import random

    chance = random.Random(seed)
    file = folder / chance.choice([CONFIG, WEIGHTS])
    raw = bytearray(file.read_bytes())
    head = min(len(raw), 3000)
    for _ in range(chance.choice([1, 3, 30])):
        raw[chance.randrange(head)] = chance.randrange(256)
    if chance.random() < 0.3:
        del raw[chance.randrange(len(raw)) :]
    file.write_bytes(bytes(raw))
    with contextlib.suppress(InputError, DamagedError):  # or it may still be sound
        hf.read(folder)
