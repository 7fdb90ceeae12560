"""A recipe of pairs from its text to its report: what is made, that it goes on exactly, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fabula
from fabula import checkpoint, pipeline, storage, verify
from fabula.errors import ConfigError, DamagedError, InputError, MachineError, PromptError, Stopped
from fabula.evaluate.intrinsic import score_rows
from fabula.model.encdec import EncoderDecoder, EncoderDecoderConfig
from fabula.progress import Silent
from fabula.train.trainer import Trainer
from tests import tiny
from tests.faults.alike import assert_alike
from tests.test_pipeline import SPEED, Notes, skipped

Cli = Callable[..., tuple[int, str, str]]

# Of the 144 pairs below so many fall to validation, by the hash of their sources.
HELD_OUT = 38

WORDS = {"one": "uno", "two": "dos", "red": "rojo", "big": "gran", "cat": "gato", "dog": "perro", "sun": "sol"}

RECIPE = """
description = "the smallest translation"

[corpus]
source = "pairs.tsv"
source_field = "1"
target_field = "2"
validation = 0.2

[tokenizer]
vocab_size = 300

[model]
preset = "fabula-translate-4m"
context_length = 32
d_model = 16
encoder_layers = 1
decoder_layers = 2
dropout = 0.1
attention = { kind = "gqa", n_heads = 2, n_kv_heads = 2, head_dim = 8, scale = 1.0 }
position = { kind = "relative", n_buckets = 8, max_distance = 20 }
ffn = { kind = "geglu", d_ff = 32 }

[train]
budget = "12steps"
batch_tokens = 64
evaluation_share = 0.5
checkpoints = 3
keep = 2
log_every = 1
device = "cpu"
precision = "float32"
threads = 1

[evaluate]
translations = 12
beams = 2

[generate]
temperature = 0.0
max_new_tokens = 8
"""


def write_pairs(folder: Path, n: int = 120) -> Path:
    """Pairs of words; every fifth source comes with two translations."""
    words = list(WORDS)
    rows = []
    for i in range(n):
        chosen = [words[(i * 3 + j * (1 + i // 7)) % 7] for j in range(1 + i % 4)] + [str(i)]
        source, target = " ".join(chosen), " ".join(WORDS.get(w, w) for w in chosen)
        rows.append(f"{source}\t{target}")
        if i % 5 == 0:
            rows.append(f"{source}\t¡{target}!")
    path = folder / "pairs.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def run(folder: Path, overrides: dict[str, Any] | None = None, **more: Any) -> pipeline.RunResult:
    source = folder / "pairs.tsv"
    given = {"corpus.source": str(source if source.exists() else write_pairs(folder)), **(overrides or {})}
    return pipeline.run(tiny.write_recipe(folder, RECIPE, "small.toml"), given, runs=folder / "runs", **more)


@pytest.fixture(autouse=True)
def _fixed_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; read it, write only to a copy."""
    folder = tmp_path_factory.mktemp("translate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabula.train.speed.measure", lambda *a, **k: SPEED)
        return run(folder).folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copy(made.parents[1] / "pairs.tsv", tmp_path)
    return Path(shutil.copytree(made, tmp_path / "runs" / "small"))


# ---- what is made ------------------------------------------------------------------------------------------


def test_a_run_has_everything_in_it(made: Path) -> None:
    evaluation, summary = storage.read_json(made / "evaluation.json"), storage.read_json(made / "summary.json")
    scored, translated = evaluation["validation"], evaluation["translation"]
    assert scored["bits_per_byte"] > 0
    assert scored["documents"] == summary["data"]["validation"]["documents"] == HELD_OUT
    assert 0 <= translated["bleu"] <= 100
    assert 0 <= translated["chrf"] <= 100
    assert "version:" in translated["bleu_signature"]
    assert (translated["sources"], translated["beams"]) == (12, 2)
    assert translated["of_sources"] < HELD_OUT, "some sources have two references"
    assert translated["references"] > 12
    assert {tuple(e) for e in translated["examples"]} == {("source", "text", "references", "score", "ended")}
    assert summary["data"]["records"] == "pairs"
    assert summary["model"]["kind"] == "encoder-decoder"
    assert summary["data"]["train"]["documents"] == 144 - HELD_OUT
    lines = storage.read_json_lines(made / "metrics.jsonl")
    assert [r["step"] for r in lines if r["kind"] == "train"] == list(range(1, 13))
    assert [r["step"] for r in lines if r["kind"] == "evaluation"] == [4, 8, 12]


def test_samples_are_held_out_sources_with_their_references(made: Path) -> None:
    samples = storage.read_json_lines(made / "samples.jsonl")
    newest = [s for s in samples if s["step"] == 12]
    assert len(newest) == 6
    assert len(samples) == 18
    pairs: dict[str, list[str]] = {}
    for line in (made.parents[1] / "pairs.tsv").read_text().splitlines():
        source, target = line.split("\t")
        pairs.setdefault(source, []).append(target)
    for sample in newest:
        assert sample["kind"] == "translation"
        assert sample["references"] == pairs[sample["prompt"]]


def test_the_loss_falls(made: Path) -> None:
    lines = [r for r in storage.read_json_lines(made / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert lines[-1]["bits_per_byte"] < lines[0]["bits_per_byte"]


def test_the_report_shows_translations(made: Path) -> None:
    page = (made / "report" / "index.html").read_text()
    example = storage.read_json(made / "evaluation.json")["translation"]["examples"][0]
    assert "Held-out sources" in page
    assert "BLEU" in page
    assert f">{example['source']}</td>" in page
    assert "reference: " in page
    assert '<th scope="col">pairs</th>' in page


def test_a_checkpoint_says_its_kind_and_loads_back(made: Path) -> None:
    loaded = checkpoint.load(made)
    data = storage.read_json(loaded.checkpoint.path / checkpoint.CONFIG)
    assert data["kind"] == "encoder-decoder"
    assert isinstance(loaded.config, EncoderDecoderConfig)
    assert isinstance(loaded.model, EncoderDecoder)
    weights = checkpoint.trainer_state(loaded.checkpoint)[1]
    assert any("decoder.blocks.1.cross.q_proj.weight" in name for name in weights)
    again = checkpoint.load(made)
    given = (torch.tensor([[5, 6, 0]]), None, torch.tensor([[0, 7]]))
    assert isinstance(again.model, EncoderDecoder)
    assert torch.equal(loaded.model(*given), again.model(*given))


def test_a_kind_of_model_that_nobody_knows_is_damage(copied: Path) -> None:
    path = checkpoint.last(copied)
    assert path is not None
    file = path.path / checkpoint.CONFIG
    data = json.loads(file.read_text())
    for changed in ({**data, "kind": "oracle"}, {k: v for k, v in data.items() if k != "kind"}, [1]):
        storage.write_json(file, changed)
        with pytest.raises(DamagedError):
            checkpoint._model_config(path)


def test_verify_reads_all_of_it(made: Path) -> None:
    assert all(found.problem is None for found in verify.examine(made, lambda n: None))


# ---- the same run, however often it is stopped ---------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 7])
def test_stopped_and_resumed_it_is_the_same_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    take = Trainer.take_step

    def stepping(self: Trainer, batch: Any) -> Any:
        done = take(self, batch)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stepping)
        with pytest.raises(Stopped):
            run(tmp_path, {"corpus.source": str(made.parents[1] / "pairs.tsv")})
    newest = checkpoint.last(tmp_path / "runs" / "small")
    assert newest is not None
    assert newest.step == step
    pipeline.resume(tmp_path / "runs" / "small")
    assert_alike(tmp_path / "runs" / "small", made)


def test_a_second_time_everything_is_skipped(copied: Path, tmp_path: Path) -> None:
    result = run(tmp_path)
    assert skipped(result) == dict(tokenizer=True, data=True, train=True, evaluate=True, report=False)
    assert result.evaluation["translation"]["sources"] == 12


def test_another_search_evaluates_only(copied: Path, tmp_path: Path) -> None:
    result = run(tmp_path, {"evaluate.beams": 1, "evaluate.translations": 0})
    assert skipped(result) == dict(tokenizer=True, data=True, train=True, evaluate=False, report=False)
    found = result.evaluation["translation"]
    assert found["beams"] == 1
    assert found["sources"] == found["of_sources"]
    assert found["references"] == HELD_OUT


@pytest.mark.parametrize("micro_rows", [1, 3])
def test_micro_batches_change_nothing(made: Path, tmp_path: Path, micro_rows: int) -> None:
    shutil.copy(made.parents[1] / "pairs.tsv", tmp_path)
    plain = run(tmp_path, {"model.dropout": 0.0}, name="plain")
    parts = run(tmp_path, {"model.dropout": 0.0, "train.micro_rows": micro_rows}, name="parts")
    losses = [
        [r["loss"] for r in storage.read_json_lines(r.folder / "metrics.jsonl") if r["kind"] == "train"]
        for r in (plain, parts)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_both_optimizers_move_every_parameter(tmp_path: Path, kind: str) -> None:
    result = run(tmp_path, {"train.optimizer.kind": kind, "train.budget": "2steps", "train.checkpoints": 1})
    assert result.summary["train"]["steps"] == 2


def test_pairs_that_do_not_fit_are_told_and_left_out(tmp_path: Path) -> None:
    path = write_pairs(tmp_path)
    path.write_text(path.read_text() + "".join(f"{'cat ' * 40}{i}\tgato {i}\n" for i in range(20)))
    notes = Notes()
    result = run(tmp_path, {"train.budget": "2steps"}, progress=notes)
    told = [n for n in notes.notes if "longer than the context of 32 tokens" in n]
    assert len(told) == 2
    assert sum(int(n.split()[0]) for n in told) == 20
    assert result.evaluation["validation"]["too_long"] == int(told[1].split()[0])
    assert any("of their places are padding" in n for n in notes.notes)


# ---- using it ------------------------------------------------------------------------------------------------


def test_the_python_api(made: Path) -> None:
    lm = fabula.load(made)
    greedy = lm.generate("red cat 7", max_new_tokens=8)
    assert greedy == lm.generate("red cat 7", max_new_tokens=8, temperature=0.0)
    best = lm.generate("red cat 7", max_new_tokens=8, beams=3)
    mean = [sum(g.logprobs) / len(g.logprobs) for g in (greedy, best)]
    assert mean[1] >= mean[0] - 1e-5
    assert "".join(lm.stream("red cat 7", max_new_tokens=8)) == greedy.text
    score = lm.score("rojo gato 7", source="red cat 7")
    assert (score.bytes, score.documents) == (11, 1)
    assert score.bits_per_byte > 0
    with pytest.raises(PromptError, match=r"lm.score\(text, source=\.\.\.\)"):
        lm.score("rojo gato 7")
    with pytest.raises(PromptError, match="reads two texts"):
        lm.logits([1, 2])
    with pytest.raises(PromptError, match=r"translate its sentences one by one; it is 400 characters long"):
        lm.generate("red " * 100)


def test_a_decoder_has_no_source(tiny_run: Path) -> None:
    lm = fabula.load(tiny_run)
    with pytest.raises(PromptError, match="decoder-only"):
        lm.score("El conejo", source="The rabbit")
    one, two = (lm.generate("El", beams=n, temperature=0.0, max_new_tokens=8) for n in (1, 2))
    assert sum(two.logprobs) / len(two.ids) >= sum(one.logprobs) / len(one.ids) - 1e-4


def test_scores_of_pairs_add_up(made: Path) -> None:
    """The bytes are the targets' and every pair counts once, in whatever batches."""
    import numpy as np

    from fabula.data.pairs import PairLoader
    from fabula.data.shards import Shards
    from fabula.device import Device

    loaded, shards = checkpoint.load(made), Shards(made / "data")
    cpu = Device("cpu", "float32", 1, "a test")
    loader = PairLoader(shards.validation, 32, 0, loaded.tokenizer.special.padding)
    lengths = np.array(loaded.tokenizer.byte_lengths())
    scores = []
    for size in (1, 5, HELD_OUT):
        parts = (loader.rows_at(loader.fixed()[i : i + size]) for i in range(0, HELD_OUT, size))
        scores.append(score_rows(loaded.model, parts, lengths, cpu))
    for score in scores:
        assert (score.tokens, score.bytes) == (loader.target_tokens, loader.target_bytes)
        assert score.nats == pytest.approx(scores[0].nats, rel=1e-5)
    known = storage.read_json(made / "evaluation.json")["validation"]
    assert known["nats"] == pytest.approx(scores[0].nats, rel=1e-5)
    assert known["bytes"] == scores[0].bytes


def test_the_commands(made: Path, cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("generate", made, "--prompt", "red cat 7", "--max-new-tokens", 8)
    assert code == 0
    assert not out.startswith("red cat 7"), "the translation alone is printed"
    code, out, _ = cli("generate", made, "--prompt", "red cat 7", "--beams", 3, "--max-new-tokens", 8, "--json")
    found = json.loads(out)
    assert (found["beams"], found["temperature"]) == (3, 0.0)
    code, _, err = cli("generate", made, "--prompt", "red", "--beams", 3, "--temperature", 1)
    assert code == 2
    assert "needs temperature = 0" in err
    code, out, _ = cli("evaluate", made)
    assert code == 0
    assert "BLEU" in out
    assert "written" in out
    code, out, _ = cli("evaluate", made, "--on", made.parents[1] / "pairs.tsv", "--translations", 5, "--json")
    found = json.loads(out)
    assert found["documents"] == 144
    assert found["translation"]["sources"] == 5
    code, out, _ = cli("model", "show", made, "--json")
    assert json.loads(out)["kind"] == "encoder-decoder"
    code, out, _ = cli("model", "list", "--json")
    kinds = {row["preset"]: row["kind"] for row in json.loads(out)}
    assert kinds["nima-transformer"] == kinds["fabula-translate-4m"] == "encoder-decoder"
    assert kinds["fabula-1m"] == "decoder"
    code, out, _ = cli("model", "show", "nima-transformer")
    assert "6 + 6 of width 512" in out
    code, out, _ = cli("verify", made)
    assert code == 0


def test_a_plan_and_a_run_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    write_pairs(tmp_path)
    tiny.write_recipe(tmp_path, RECIPE, "small.toml")
    code, out, err = cli("plan", "small.toml", "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["estimate"]["steps"] == 12
    assert 32 < planned["estimate"]["tokens_per_step"] < 128, "about batch_tokens"
    code, out, err = cli("run", "small.toml")
    assert code == 0, err
    assert f"{144 - HELD_OUT} pairs" in out
    assert "chrF" in out
    assert "reference" in out


# ---- what is refused -----------------------------------------------------------------------------------------


def test_pairs_for_a_decoder_and_texts_for_a_translator_are_refused_at_once(tmp_path: Path) -> None:
    recipe = RECIPE.replace(RECIPE[RECIPE.index("[model]") : RECIPE.index("[train]")], "")
    with pytest.raises(ConfigError, match=r"the model is decoder-only: choose one that translates"):
        pipeline.run(tiny.write_recipe(tmp_path, recipe), runs=tmp_path / "runs")
    recipe = RECIPE.replace('source_field = "1"\ntarget_field = "2"\n', "")
    with pytest.raises(ConfigError, match=r"the records are no pairs: name their two fields"):
        pipeline.run(tiny.write_recipe(tmp_path, recipe), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_data_of_the_other_kind_are_refused(made: Path, tiny_data: Any, tiny_tokenizer: Any) -> None:
    from fabula.train.config import TrainConfig
    from fabula.train.material import material

    loaded = checkpoint.load(made)
    with pytest.raises(InputError, match="the records there are texts"):
        material(TrainConfig(), loaded.config, tiny_tokenizer, tiny_data, 0)


def test_sacrebleu_is_missed_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabula.evaluate.translation.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"pip install 'fabula\[evaluate\]'"):
        run(tmp_path)
    assert not (tmp_path / "runs" / "small").exists()


def test_a_file_without_the_fields_is_refused(made: Path, cli: Cli, tmp_path: Path, tiny_corpus: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    for arguments, told in (
        (("--on", tiny_corpus), "plain text has no fields"),
        (("--on", other, "--source-field", "en", "--target-field", "es"), 'no column "en"'),
    ):
        code, _, err = cli("evaluate", made, *arguments)
        assert code == 2
        assert told in err


def test_it_leaves_as_t5_and_such_a_folder_is_a_model(made: Path, cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    code, out, err = cli("export", made, "--to", "hf", "--out", "out")
    assert code == 0, err
    assert "T5ForConditionalGeneration, float32" in out
    assert "use_cache is false" in err  # two blocks write, one reads
    assert cli("import", "out", "--out", "again")[0] == 0
    pairs = made.parents[1] / "pairs.tsv"
    fields = ("--source-field", "1", "--target-field", "2", "--json")
    found = []
    for model in (made, "out", "again"):
        text = fabula.load(tmp_path / model).generate("one red cat", beams=3).text
        code, out, err = cli("evaluate", model, "--on", pairs, *fields)
        assert code == 0, err
        score = json.loads(out)
        found.append((text, score["bits_per_byte"], score["sha256"]))
    assert found[0] == found[1] == found[2]


def test_what_has_no_twin_in_t5_is_refused(made: Path, tmp_path: Path) -> None:
    from fabula.export import run as export

    loaded = fabula.checkpoint.load(made)
    assert isinstance(loaded.config, EncoderDecoderConfig)
    other = dataclasses.replace(loaded.config, placement="post", target_start="padding")
    with pytest.raises(InputError, match=r"by family:\n  t5: placement=post must be pre$"):
        export.run(export.ExportConfig(), dataclasses.replace(loaded, config=other), tmp_path / "out", Silent())
    with pytest.raises(InputError, match=r"gpt2: kind=encoder-decoder must be decoder"):
        export.run(export.ExportConfig(family="gpt2"), loaded, tmp_path / "out", Silent())


def test_a_model_may_begin_its_targets_with_padding(cli: Cli, tmp_path: Path) -> None:
    """Trained, scored, written, exported and imported with the same first id; it matters to what is computed."""
    pytest.importorskip("transformers")
    made = run(tmp_path, {"model.target_start": "padding", "model.encoder_layers": 2}).folder
    lm = fabula.load(made)
    assert isinstance(lm.model, EncoderDecoder)
    assert lm.model.config.target_start == "padding"
    assert cli("export", made, "--to", "hf", "--out", "out")[0] == 0
    again = fabula.load(tmp_path / "out")
    said = storage.read_json(tmp_path / "out" / "generation_config.json")
    assert said["decoder_start_token_id"] == said["pad_token_id"] == lm.tokenizer.special.padding
    assert "use_cache" not in said
    asked, source = "uno rojo", "one red"
    assert again.generate(source).ids == lm.generate(source).ids
    assert again.score(asked, source=source) == lm.score(asked, source=source)
    other = dataclasses.replace(lm.model.config, target_start="end_of_document")
    again.model.config = other  # type: ignore[assignment]
    assert again.score(asked, source=source).nats != lm.score(asked, source=source).nats


@pytest.mark.corpora
@pytest.mark.slow
def test_the_shipped_recipe_on_the_shared_pairs(corpora: Path, cli: Cli, tmp_path: Path) -> None:
    path = corpora / "eng-spa.tsv"
    if not path.exists():
        pytest.skip(f"no {path}")
    recipe = Path(__file__).parents[1] / "recipes" / "translate.toml"
    code, out, err = cli(
        "run", recipe, "--corpus.source", path, "--train.budget", "4steps", "--evaluate.translations", 8, "--json"
    )
    assert code == 0, err
    assert json.loads(out)["evaluation"]["translation"]["sources"] == 8
