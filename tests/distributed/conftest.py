"""What the tests of several processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.distributed.company import CompanyServer

collect_ignore = [] if os.name == "posix" else ["test_training.py"]  # needs fork

# Steps enough to see a difference, few enough to be quick; a batch has four rows.
RUN = ("run", "tiny.toml", "--train.peer_timeout", "5")


@pytest.fixture(scope="session")
def server() -> Iterator[CompanyServer]:
    with CompanyServer() as made:
        yield made


@pytest.fixture(scope="session")
def alone(server: CompanyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    tiny.write_recipe(folder)
    process = server.run(*RUN, cwd=folder)
    assert process.code == 0, process.output
    return folder / "runs" / "tiny"
