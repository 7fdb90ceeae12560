"""What the tests share. Everything here is tiny; session fixtures are read, never written (copy them)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import tiny
from tests.audit import watching

watching.install()  # before anything of ours is imported by a test

pytest_plugins = ["tests.faults.tally", "tests.serving"]

settings.register_profile(
    "fabula", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("fabula")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
    # Its unpickler of "weights only" raises no audit event; nothing of ours may come near it.
    torch.load = torch.serialization.load = watching.no_torch_load


@pytest.fixture(scope="session", autouse=True)
def _watched_to_the_end() -> Iterator[None]:
    """What is done while the last fixtures are taken down counts too."""
    yield
    watching.fail_if_seen()


@pytest.fixture(autouse=True)
def _watched(_watched_to_the_end: None) -> Iterator[None]:
    """A test fails in which anything was unpickled or called out, also where the exception was swallowed."""
    yield
    watching.fail_if_seen()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder of the shared texts; tests that need it carry the marker `corpora`."""
    given = os.environ.get("FABULA_CORPORA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "corpora"
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder}; set FABULA_CORPORA to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def tiny_texts() -> list[str]:
    """Sixty fables."""
    from fabula.corpus.fables import Fables

    fables = Fables("es", 0)
    return [fables[i].text for i in range(60)]


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_texts: list[str]):  # type: ignore[no-untyped-def]
    """A tokenizer of 320 tokens."""
    from fabula.tokenizer.bpe import train_bpe

    return train_bpe(tiny_texts, tiny.VOCABULARY)


@pytest.fixture
def tiny_corpus(tmp_path: Path, tiny_texts: list[str]) -> Path:
    """A text file of sixty fables with the marker between them."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n<|endoftext|>\n".join(tiny_texts) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer):  # type: ignore[no-untyped-def]
    """Prepared shards of sixty fables."""
    from fabula.corpus.run import CorpusConfig
    from fabula.corpus.run import run as open_corpus
    from fabula.data.run import DataConfig, run
    from fabula.progress import Silent, StopFlag

    folder = tmp_path_factory.mktemp("tiny-data") / "data"
    corpus = open_corpus(CorpusConfig(source="fables:es", documents=60, validation=0.2))
    return run(DataConfig(), corpus, tiny_tokenizer, folder, Silent(), StopFlag())


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of 24 steps with everything in it. Read it; write only to a copy (`copied_run`)."""
    from fabula import pipeline

    folder = tmp_path_factory.mktemp("tiny-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fabula.train.speed._SECONDS", (0.0, 0.05))
        made = pipeline.run(tiny.write_recipe(folder), runs=folder / "runs")
    return made.folder


@pytest.fixture
def copied_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_run` to damage or to go on with."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "tiny"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure this machine for an instant only."""
    monkeypatch.setattr("fabula.train.speed._SECONDS", (0.0, 0.05))


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, quick: None
) -> Callable[..., tuple[int, str, str]]:
    """Call `fabula` inside this process, in tmp_path: (exit code, stdout, stderr)."""
    from fabula.cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run
