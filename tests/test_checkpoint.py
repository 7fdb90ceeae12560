"""A checkpoint is whole or it is damaged; a model that is loaded is the model that was saved."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fabula import checkpoint, storage
from fabula.errors import DamagedError, FabulaError, InputError
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from tests import tiny


def model(seed: int = 0, **changes: object) -> Decoder:
    torch.manual_seed(seed)
    return Decoder(tiny.model_config(**changes))


def save(run: Path, step: int, tokenizer: Tokenizer, bits: float | None = None, seed: int = 0) -> checkpoint.Checkpoint:
    folder = checkpoint.RunFolder(run).checkpoints
    return checkpoint.save(
        folder, step, model(seed), tokenizer, {"x": 1}, {"m": torch.arange(3.0)}, {"bits_per_byte": bits}
    )


def test_it_comes_back_as_it_was(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    saved = save(tmp_path, 7, tiny_tokenizer, 1.5)
    assert saved.path.name == "step-000007"
    assert sorted(p.name for p in saved.path.iterdir()) == [
        *["config.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json"],
        "trainer.json",
    ]
    loaded = checkpoint.load(tmp_path)
    own = model().state_dict()
    assert set(loaded.model.state_dict()) == set(own)
    assert all(torch.equal(own[n], t) for n, t in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert loaded.config == tiny.model_config()
    assert loaded.tokenizer.fingerprint == tiny_tokenizer.fingerprint
    assert (loaded.checkpoint.step, loaded.checkpoint.bits_per_byte) == (7, 1.5)
    data, tensors = checkpoint.trainer_state(saved)
    assert data == {"x": 1}
    assert tensors["m"].tolist() == [0, 1, 2]


def test_an_untied_model_comes_back_too(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    made = model(tied=False, head_bias=True)
    checkpoint.save(tmp_path, 1, made, tiny_tokenizer, {}, {}, {})
    loaded = checkpoint.load(tmp_path / "step-000001")
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens), made.eval()(tokens))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_not_saved(tmp_path: Path, tiny_tokenizer: Tokenizer, value: float) -> None:
    made = model()
    with torch.no_grad():
        next(made.parameters())[0, 0] = value
    with pytest.raises(FabulaError, match="NaN or infinity"):
        checkpoint.save(tmp_path, 1, made, tiny_tokenizer, {}, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_best_last_and_a_step(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for step, bits in ((2, 3.0), (4, 2.0), (6, 2.0), (8, 2.5)):
        save(tmp_path, step, tiny_tokenizer, bits)
    save(tmp_path, 9, tiny_tokenizer, None)
    found = {which: checkpoint.find(tmp_path, which).step for which in ("best", "last", "step-4", "8", "step-000002")}
    assert found == {"best": 6, "last": 9, "step-4": 4, "8": 8, "step-000002": 2}
    for which in ("step-5", "bets", "", "0"):
        with pytest.raises(InputError, match="there are: best, last, steps 2, 4, 6, 8, 9"):
            checkpoint.find(tmp_path, which)


def test_without_a_score_the_last_is_the_best(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for step in (10, 2):
        save(tmp_path, step, tiny_tokenizer)
    best = checkpoint.best(tmp_path)
    assert best is not None
    assert best.step == 10


def test_steps_are_ordered_as_numbers(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step, tiny_tokenizer)
    assert [c.step for c in checkpoint.checkpoints(tmp_path)] == [5, 999_999, 1_000_000]
    newest = checkpoint.newest_sound(tmp_path, print)
    assert newest is not None
    assert newest.step == 1_000_000


def test_prune_keeps_the_best_and_at_least_two(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for step, bits in ((1, 9.0), (2, 1.0), (3, 5.0), (4, 4.0), (5, None)):
        save(tmp_path, step, tiny_tokenizer, bits)
    checkpoint.prune(tmp_path, 0)
    assert [c.step for c in checkpoint.checkpoints(tmp_path)] == [2, 4, 5]
    assert checkpoint.prune(tmp_path, 3) == []


def test_what_is_no_model(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no model at"):
        checkpoint.find(tmp_path / "none")
    with pytest.raises(InputError, match="no checkpoints here"):
        checkpoint.find(tmp_path)
    (tmp_path / "runs" / "fables").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"did you mean runs/fables\?"):
        checkpoint.find(Path("fables"))
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError):
        checkpoint.find(tmp_path / "file.txt")
    for name in ("data", "tokenizer"):
        with pytest.raises(InputError, match="neither a run folder nor a checkpoint"):
            checkpoint.load(tiny_run / name)


def test_damage_is_found_before_anything_is_loaded(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer)
    kept = tmp_path / "kept"
    shutil.copytree(saved.path, kept)
    for name in saved.manifest["files"]:
        path = saved.path / name
        content = path.read_bytes()
        for damaged in (content[:-1], content + b"x", content[:9] + bytes([content[9] ^ 4]) + content[10:], b"", None):
            path.unlink(missing_ok=True)
            if damaged is not None:
                path.write_bytes(damaged)
            for place in (tmp_path, saved.path):
                with pytest.raises(DamagedError):
                    checkpoint.load(place)
        path.write_bytes(content)
    checkpoint.load(tmp_path)


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tiny_run: Path, tmp_path: Path, place: int, bit: int) -> None:
    copy = tmp_path / "flipped"
    if not copy.exists():
        shutil.copytree(checkpoint.find(tiny_run).path, copy)
    names = sorted(p.name for p in copy.iterdir() if p.name != storage.MANIFEST)
    path = copy / names[place % len(names)]
    content = path.read_bytes()
    at = place % len(content)
    path.write_bytes(content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :])
    try:
        with pytest.raises(DamagedError):
            checkpoint.load(copy)
    finally:
        path.write_bytes(content)


def test_swapped_files_are_found(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    a, b = save(tmp_path, 1, tiny_tokenizer, seed=1), save(tmp_path, 2, tiny_tokenizer, seed=2)
    shutil.copy(a.path / checkpoint.WEIGHTS, b.path / checkpoint.WEIGHTS)
    with pytest.raises(DamagedError, match="SHA-256"):
        checkpoint.load(tmp_path, "step-2")


def test_another_tokenizer_in_its_place_is_found(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """Even when somebody made the manifest agree."""
    from fabula.tokenizer.bpe import train_bpe

    saved = save(tmp_path, 1, tiny_tokenizer)
    train_bpe(["el conejo y la zorra " * 50], 270).save(saved.path)
    manifest = {k: v for k, v in saved.manifest.items() if k != "files"}
    storage.seal(saved.path, manifest)
    with pytest.raises(DamagedError, match="not the one it was trained with"):
        checkpoint.load(saved.path)


def test_a_format_of_the_future(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer)
    manifest = {k: v for k, v in saved.manifest.items() if k != "files"}
    storage.seal(saved.path, {**manifest, "format": 2})
    with pytest.raises(DamagedError, match="format 2, this version reads 1"):
        checkpoint.load(saved.path)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    saved = save(tmp_path, 1, tiny_tokenizer)
    with pytest.raises(DamagedError, match=r"is missing"):
        checkpoint.restore_weights(model(n_layers=3), saved)
    with pytest.raises(DamagedError, match=r"has shape \(320, 32\), the model \(400, 32\)"):
        checkpoint.restore_weights(model(vocab_size=400), saved)


def test_half_written_checkpoints_do_not_exist(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    save(tmp_path, 1, tiny_tokenizer)
    later = save(tmp_path, 2, tiny_tokenizer)
    (later.path / storage.MANIFEST).unlink()
    last = checkpoint.last(tmp_path)
    assert last is not None
    assert last.step == 1
    shutil.rmtree(tmp_path / "checkpoints" / "step-000001")
    with pytest.raises(DamagedError, match="none of its 1 checkpoints is complete"):
        checkpoint.find(tmp_path)


def test_newest_sound_sets_damage_aside_and_says_so(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step, tiny_tokenizer)
    folder = tmp_path / "checkpoints"
    (folder / "step-000003" / checkpoint.CONFIG).write_text("{}")
    content = bytearray((folder / "step-000002" / checkpoint.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / "step-000002" / checkpoint.WEIGHTS).write_bytes(content)
    notes: list[str] = []
    newest = checkpoint.newest_sound(tmp_path, notes.append)
    assert newest is not None
    assert newest.step == 1
    assert len(notes) == 2
    assert "step-000003" in notes[0]
    assert sorted(p.name for p in folder.iterdir()) == ["damaged-step-000002", "damaged-step-000003", "step-000001"]
    assert checkpoint.newest_sound(tmp_path / "none", notes.append) is None


def test_the_api_loads_and_speaks(tiny_run: Path) -> None:
    import fabula

    lm = fabula.load(tiny_run)
    text = "El conejo saltó 🦊."
    assert lm.decode(lm.encode(text)) == text
    first, second = (lm.generate("El", max_new_tokens=5, seed=1) for _ in range(2))
    assert first == second
    assert "".join(lm.stream("El", max_new_tokens=5, seed=1)) == first.text
    assert lm.score(text).bytes == len(text.encode())
    assert lm.logits(lm.encode("El")).dtype == torch.float32
