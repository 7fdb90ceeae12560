"""Export and import as stages and as verbs: what is published, and when nothing is."""

from __future__ import annotations

import builtins
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fabula
from fabula import checkpoint as checkpoints
from fabula import storage
from fabula.checkpoint import Loaded
from fabula.errors import DamagedError, InputError, MachineError
from fabula.export import hf, hf_check
from fabula.export import run as stage
from fabula.export.run import ExportConfig
from fabula.model.attention import GroupedQueryAttention
from fabula.model.ffn import ReluFFN
from fabula.model.norms import LayerNormConfig
from fabula.model.positions import Alibi, LearnedPositions
from fabula.progress import Silent
from fabula.tokenizer.base import Tokenizer
from tests import tiny
from tests.export import folders

pytest.importorskip("transformers")

Cli = Callable[..., tuple[int, str, str]]
FILES = {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja", "manifest.json",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    folders.write(tmp_path / "theirs", tiny_tokenizer)
    return tmp_path / "theirs"


@pytest.fixture
def loaded(folder: Path) -> Loaded:
    return stage.open_model(folder)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


# ---- export ----------------------------------------------------------------------------------------------------


def test_a_run_is_exported(tiny_run: Path, tmp_path: Path) -> None:
    made = stage.run(ExportConfig(), stage.open_model(tiny_run), tmp_path / "out", Silent())
    assert names(tmp_path / "out") == FILES
    assert (made.family, made.dtype, made.notes) == ("qwen3", "float32", [])
    seen = made.comparison
    assert seen.largest_difference <= seen.tolerance
    assert seen.greedy_tokens > 0
    assert seen.texts > 8
    manifest = storage.verify(tmp_path / "out")
    assert manifest["kind"] == "huggingface"
    modes = {p.stat().st_mode for p in (tmp_path / "out").iterdir()}
    assert len(modes) == 1
    assert "lm_head.weight" not in load_file(tmp_path / "out" / hf.WEIGHTS)  # tied: stored once
    lm = fabula.load(tmp_path / "out")
    assert lm.generate("El", max_new_tokens=5).ids == fabula.load(tiny_run).generate("El", max_new_tokens=5).ids


def test_weights_are_rounded_once_and_compared_as_they_are(loaded: Loaded, tmp_path: Path) -> None:
    made = stage.run(ExportConfig(dtype="bfloat16"), loaded, tmp_path / "out", Silent())
    assert made.comparison.largest_difference < 1e-4
    written = load_file(tmp_path / "out" / hf.WEIGHTS)
    assert {t.dtype for t in written.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / hf.CONFIG).read_text())["dtype"] == "bfloat16"
    # Nothing happened to the model itself.
    assert torch.equal(loaded.model.embedding.weight, hf.read(tmp_path / "theirs").model.embedding.weight)


def test_numbers_too_large_for_a_format(loaded: Loaded, tmp_path: Path) -> None:
    with torch.no_grad():
        loaded.model.embedding.weight[0, 0] = 1e6
    with pytest.raises(InputError, match=r"1 tensors hold numbers too large for float16 .*embed_tokens"):
        stage.run(ExportConfig(dtype="float16"), loaded, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_biases_that_the_class_has_are_zeros_and_said(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """The shape of alexandria-9m as GPT-2: no biases of queries, keys and values."""
    from fabula.model.decoder import Decoder

    torch.manual_seed(0)
    config = tiny.model_config(
        attention=GroupedQueryAttention(n_heads=2, n_kv_heads=2, head_dim=16, out_bias=True),
        position=LearnedPositions(),
        ffn=ReluFFN(d_ff=64, bias=True),
        norm=LayerNormConfig(eps=1e-5),
        tied=False,
    )
    checkpoint = checkpoints.Checkpoint(tmp_path, {})
    loaded = Loaded(Decoder(config).eval(), config, tiny_tokenizer, checkpoint)
    made = stage.run(ExportConfig(), loaded, tmp_path / "out", Silent())
    assert made.family == "gpt2"
    assert made.notes == [
        "GPT2LMHeadModel has biases that the model lacks; written as zeros: attention.q_bias, attention.k_bias, "
        "attention.v_bias"
    ]
    back = stage.open_model(tmp_path / "out")
    assert back.config.attention.q_bias  # type: ignore[attr-defined]
    tokens = torch.arange(20).unsqueeze(0)
    assert (back.model(tokens) - loaded.model(tokens)).abs().max() < 1e-5


def test_what_has_no_twin_is_refused_with_the_fields(tmp_path: Path, loaded: Loaded) -> None:
    import dataclasses

    config = dataclasses.replace(loaded.config, position=Alibi())
    with pytest.raises(InputError, match=r"(?s)no exact twin.*qwen3: position.kind=alibi must be rope"):
        stage.run(ExportConfig(), dataclasses.replace(loaded, config=config), tmp_path / "out", Silent())
    with pytest.raises(InputError, match=r"llama: attention.qk_norm=true must be false"):
        stage.run(ExportConfig(family="llama"), loaded, tmp_path / "out", Silent())
    with pytest.raises(InputError, match="unknown family"):
        ExportConfig(family="llamma")
    assert not (tmp_path / "out").exists()


def _perturbed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] += 0.01


def _too_few(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.norm.weight"]


def _too_many(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.other"] = torch.zeros(2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_perturbed, "computes other logits"), (_too_few, "missing keys"), (_too_many, "unexpected keys")],
)
def test_what_differs_is_not_published(
    spoil: Callable[[dict[str, torch.Tensor]], None],
    said: str,
    loaded: Loaded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = checkpoints.write_tensors

    def spoilt(path: Path, made: dict[str, torch.Tensor]) -> None:
        spoil(made)
        write(path, made)

    monkeypatch.setattr(checkpoints, "write_tensors", spoilt)
    with pytest.raises(InputError, match=said):
        stage.run(ExportConfig(), loaded, tmp_path / "out", Silent())
    assert names(tmp_path) == {"theirs"}


def test_a_tokenizer_that_differs_is_not_published(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fabula.export import hf_tokenizer

    files = hf_tokenizer.files

    def spoilt(tokenizer: Tokenizer, context: int, for_pairs: bool) -> dict[str, str]:
        made = files(tokenizer, context, for_pairs)
        data = json.loads(made["tokenizer.json"])
        data["model"]["merges"].pop()
        return {**made, "tokenizer.json": json.dumps(data)}

    monkeypatch.setattr(hf_tokenizer, "files", spoilt)
    monkeypatch.setattr(hf_check, "TEXTS", (loaded.tokenizer.decode(range(6, 320)), *hf_check.TEXTS))
    with pytest.raises(InputError, match="the tokenizer that was written is not the model's"):
        stage.run(ExportConfig(), loaded, tmp_path / "out", Silent())
    assert names(tmp_path) == {"theirs"}


def test_greedy_tokens_that_differ_are_no_tie(loaded: Loaded) -> None:
    """Ours says another token than theirs, and one is far likelier: refused. Where both are as likely: a tie."""

    class Theirs:
        def generate(self, input_ids: torch.Tensor, max_new_tokens: int, **_: Any) -> torch.Tensor:
            return torch.cat((input_ids, torch.full((1, max_new_tokens), 7)), dim=1)

    prompt = [0, 50, 60]
    arguments = (loaded.model, Theirs(), loaded.tokenizer, prompt)
    with pytest.raises(InputError, match="transformers generates other tokens"):
        hf_check._same_greedy(*arguments, 1e-4)
    n, ties = hf_check._same_greedy(*arguments, 1e9)
    assert ties > 0
    assert n >= ties


def test_without_transformers_the_extra_is_named(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *rest: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return builtins.__import__(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MachineError, match=r"pip install 'fabula\[export\]'"):
        stage.run(ExportConfig(), loaded, tmp_path / "out", Silent())
    assert names(tmp_path) == {"theirs"}


def test_what_exists_is_replaced_only_if_it_is_of_the_same_kind(loaded: Loaded, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stage.run(ExportConfig(), loaded, out, Silent())  # an empty folder is in nobody's way
    with pytest.raises(InputError, match="out exists; name another folder with --out, or replace it with --force"):
        stage.run(ExportConfig(), loaded, out, Silent())
    stage.run(ExportConfig(dtype="bfloat16"), loaded, out, Silent(), replace=True)
    assert hf.read(out).dtype == "bfloat16"
    shutil.rmtree(out)
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for kind in (True, False):
        with pytest.raises(InputError, match="out exists"):
            stage.run(ExportConfig(), loaded, out, Silent(), replace=kind)
        with pytest.raises(InputError, match="out exists"):
            stage.bring(folder, out, replace=kind)
    assert names(out) == {"thesis.txt"}


# ---- import ----------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_checkpoint(folder: Path, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    made = stage.bring(folder, tmp_path / "ours")
    assert names(tmp_path / "ours") == {"config.json", "model.safetensors", "tokenizer.json", "manifest.json"}
    manifest = storage.verify(tmp_path / "ours")
    assert manifest["origin"] == {"format": "huggingface", "family": "qwen3", "dtype": "float32"}
    assert (made.checkpoint.step, made.checkpoint.bits_per_byte) == (0, None)
    loaded = checkpoints.load(tmp_path / "ours")
    assert loaded.tokenizer.fingerprint == tiny_tokenizer.fingerprint
    tokens = torch.arange(20).unsqueeze(0)
    assert torch.equal(loaded.model(tokens), hf.read(folder).model(tokens))
    assert not hf.is_folder(tmp_path / "ours")


def test_a_checkpoint_without_a_trainer_must_say_where_it_comes_from(folder: Path, tmp_path: Path) -> None:
    stage.bring(folder, tmp_path / "ours")
    manifest = storage.read_json(tmp_path / "ours" / storage.MANIFEST)
    del manifest["origin"]
    storage.seal(tmp_path / "ours", {k: v for k, v in manifest.items() if k not in ("files", "sealed")})
    with pytest.raises(DamagedError, match=r"no trainer.json in it; no optimizer.safetensors in it"):
        checkpoints.load(tmp_path / "ours")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_import_is_found(name: str, folder: Path, tmp_path: Path) -> None:
    stage.bring(folder, tmp_path / "ours")
    raw = bytearray((tmp_path / "ours" / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "ours" / name).write_bytes(bytes(raw))
    with pytest.raises(DamagedError, match=name):
        checkpoints.load(tmp_path / "ours")


# ---- the verbs -------------------------------------------------------------------------------------------------


def test_the_verbs(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    code, out, err = cli("export", tiny_run, "--to", "hf", "--out", "out/tiny", "--dtype", "bfloat16")
    assert code == 0, err
    assert "Qwen3ForCausalLM, bfloat16" in out
    assert "greedy tokens" in out
    code, out, err = cli("import", "out/tiny")
    assert code == 0, err
    assert "models/tiny" in out
    for model in ("out/tiny", "models/tiny"):
        code, out, err = cli("generate", model, "--prompt", "El", "--max-new-tokens", 4, "--json")
        assert (code, json.loads(out)["checkpoint"]) == (0, "tiny"), err
        (tmp_path / "a.txt").write_text("El conejo saltó.")
        code, out, err = cli("evaluate", model, "--on", "a.txt", "--json")
        assert (code, json.loads(out)["documents"]) == (0, 1), err
        code, out, err = cli("verify", model)
        assert code == 0, err
    code, out, err = cli("export", "models/tiny", "--to", "hf", "--out", "again", "--json")
    assert (code, json.loads(out)["dtype"]) == (0, "bfloat16"), err
    first, second = ((tmp_path / d / "model.safetensors").read_bytes() for d in ("out/tiny", "again"))
    assert first == second


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "RUN", "--to", "hf"), 2, "--out"),
        (("export", "RUN", "--to", "onnxx", "--out", "o"), 2, "to: "),
        (("export", "RUN", "--to", "hf", "--out", "o", "--dtype", "int4"), 2, "dtype"),
        (("export", "RUN", "--to", "hf", "--out", "o", "--family", "gpt3"), 2, 'did you mean "gpt2"'),
        (("export", "RUN", "--to", "hf", "--out", "o", "--family", "gpt2"), 2, "position.kind=rope must be learned"),
        (("export", "nothing", "--to", "hf", "--out", "o"), 2, "no model at nothing"),
        (("import", "nothing"), 2, "no model at nothing"),
        (("import", "RUN"), 2, "no config.json"),
        (("evaluate", "THEIRS"), 2, "has no data of its own"),
    ],
)
def test_the_verbs_refuse(
    arguments: tuple[str, ...], code: int, said: str, cli: Cli, tiny_run: Path, folder: Path, tmp_path: Path
) -> None:
    places = {"RUN": str(tiny_run), "THEIRS": str(folder)}
    found, out, err = cli(*(places.get(a, a) for a in arguments))
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert names(tmp_path) == {"theirs"}


def test_a_tokenizer_is_named(cli: Cli, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    folders.write(tmp_path / "bare")
    code, _, err = cli("import", "bare", "--out", "ours")
    assert (code, "--tokenizer PATH" in err) == (2, True)
    (tmp_path / "tok").mkdir()
    tiny_tokenizer.save(tmp_path / "tok")
    code, _, err = cli("import", "bare", "--out", "ours", "--tokenizer", "tok")
    assert code == 0, err
    code, out, _ = cli("generate", "ours", "--prompt", "El", "--max-new-tokens", 2)
    assert code == 0
    assert out.startswith("El")


@pytest.mark.parametrize("house", ["gpt2", "llama3", "smollm2", "qwen", "gpt-4o", "gemma"])
def test_tokenizers_of_other_houses_go_and_come(house: str, tmp_path: Path, tiny_texts: list[str]) -> None:
    """A folder with such a tokenizer is imported, exported, read by transformers, and imported again."""
    from tests.tokenizer.test_foreign import make

    data, special = make(house, tiny_texts)
    theirs = tmp_path / "theirs"
    folders.write(theirs, config=tiny.model_config(vocab_size=special.vocab_size))
    (theirs / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    names_of = {"end_of_document": "eos_token", "begin_of_document": "bos_token", "padding": "pad_token"}
    said = {names_of[role]: text for role, text in special.roles.items()}
    (theirs / "tokenizer_config.json").write_text(json.dumps({**said, "chat_template": "{{ messages }}"}))
    first = stage.open_model(stage.bring(theirs, tmp_path / "ours").checkpoint.path)
    stage.run(ExportConfig(), first, tmp_path / "out", Silent())
    again = stage.open_model(tmp_path / "out")
    assert again.tokenizer.special == first.tokenizer.special
    assert again.tokenizer.chat_template == "{{ messages }}"
    for text in tiny_texts[:5]:
        assert again.tokenizer.encode(text) == first.tokenizer.encode(text)
