"""A run's electricity is always accounted for, by which method is said, and nothing of it can fail the run."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fabula import pipeline, storage
from fabula.config import dump_json
from fabula.energy import meter as metering
from fabula.energy.account import FILE, Account, _Stage
from fabula.energy.config import EnergyConfig
from fabula.energy.everyday import equivalents, sentence
from fabula.energy.meter import Meter, Rapl, Used
from fabula.errors import ConfigError, InputError
from tests import tiny

OWN = EnergyConfig(codecarbon=False, country="ESP")


def work() -> int:
    """Some processor time."""
    return sum(i * i for i in range(600_000))


# ---- the meter --------------------------------------------------------------------------------------------------


def test_processor_time_times_watts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "_cores_in_a_thread", lambda: 0.5)
    spent = iter([10.0, 46.0])
    monkeypatch.setattr(metering, "_cpu_seconds", lambda: next(spent))
    meter = Meter(core_watts=20.0, rapl=tmp_path)
    meter.close()
    used = meter.read()
    assert used.cpu == pytest.approx(36 * 0.5 * 20 / 3.6e6), "36 s of a thread that is half a core of 20 W"
    assert used.gpu == 0.0
    assert used.ram > 0
    assert used.kwh == used.cpu + used.ram
    assert meter.methods["cpu"] == "estimated: processor time x 20 W a core"


def test_several_processes_are_counted_by_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is estimated of one process stands for all of them, while they do the same."""
    spent = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(metering, "_cpu_seconds", lambda: next(spent))
    meter = Meter(12.0, rapl=tmp_path)
    meter.close()
    alone = meter.read().cpu
    meter.processes = 3
    assert meter.read().cpu - alone == pytest.approx(3 * alone)


def test_the_meter_only_grows() -> None:
    meter = Meter(12.0)
    first = meter.read()
    work()
    second = meter.read()
    meter.close()
    assert second.seconds > first.seconds
    assert second.cpu >= first.cpu
    assert second.ram > first.ram


def counters(folder: Path, *joules: float, full: float = 262_143.0) -> None:
    for number, value in enumerate(joules):
        package = folder / f"intel-rapl:{number}"
        (package / "nested").mkdir(parents=True, exist_ok=True)
        (package / "energy_uj").write_text(f"{round(value * 1e6)}\n")
        (package / "max_energy_range_uj").write_text(f"{round(full * 1e6)}\n")


def test_the_processors_own_counters_are_preferred(tmp_path: Path) -> None:
    counters(tmp_path, 1000.0, 5000.0)
    part = tmp_path / "intel-rapl:0:0"  # a part of the first package: counted with it
    part.mkdir()
    (part / "energy_uj").write_text("77\n")
    meter = Meter(12.0, rapl=tmp_path)
    meter.close()
    counters(tmp_path, 1360.0, 5360.0)
    assert meter.read().cpu == pytest.approx(720 / 3.6e6)
    assert meter.methods["cpu"] == "measured by the processor (RAPL), the whole machine"


def test_a_counter_that_is_full_begins_anew(tmp_path: Path) -> None:
    counters(tmp_path, 990.0, full=1000.0)
    rapl = Rapl.find(tmp_path)
    assert rapl is not None
    counters(tmp_path, 30.0, full=1000.0)
    assert rapl.read() == pytest.approx(40.0)


def test_counters_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert Rapl.find(tmp_path) is None
    counters(tmp_path, 1.0)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("no number")
    assert Rapl.find(tmp_path) is None
    counters(tmp_path, 1.0)
    meter = Meter(12.0, rapl=tmp_path)
    meter.close()
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read().cpu >= 0.0, "taken away in the middle of a run"
    assert meter.methods["cpu"].startswith("estimated: ")


# ---- the account ------------------------------------------------------------------------------------------------


def account(folder: Path, notes: list[str] | None = None, config: EnergyConfig = OWN) -> Account:
    return Account(folder, config, (notes if notes is not None else []).append)


def test_stages_add_up_over_processes(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        open_account = account(tmp_path)
        with open_account.stage("data"):
            work()
        with open_account.stage("train"):
            work()
        open_account.close()
        seen.append(storage.read_json(tmp_path / FILE))
    first, both = seen
    assert list(both["stages"]) == ["data", "train"]
    for name in ("seconds", "kwh", "cpu_kwh", "kg_co2e"):
        assert both["total"][name] == pytest.approx(sum(stage[name] for stage in both["stages"].values()))
        assert both["stages"]["train"][name] > first["stages"]["train"][name] > 0
    total = both["total"]
    assert total["seconds"] == pytest.approx(total["codecarbon_seconds"] + total["estimated_seconds"])
    assert total["kg_co2e"] == pytest.approx(total["kwh"] * 174.1 / 1000)
    assert (both["grid"]["place"], both["grid"]["year"]) == ("Spain", 2023)
    assert both["estimate"] is True
    dump_json(both)


def test_a_stage_that_fails_is_booked_all_the_same(tmp_path: Path) -> None:
    open_account = account(tmp_path)

    def fail() -> None:
        with open_account.stage("train"):
            work()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    open_account.close()
    assert storage.read_json(tmp_path / FILE)["total"]["kwh"] > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stages": 3}', '{"stages": {"train": {"kwh": "much"}}}'])
def test_an_account_that_cannot_be_read_begins_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    open_account = account(tmp_path)
    with open_account.stage("train"):
        pass
    open_account.close()
    assert list(storage.read_json(tmp_path / FILE)["stages"]) == ["train"]


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("")
    open_account = account(place)
    with open_account.stage("train"):
        pass
    open_account.close()
    assert open_account.to_data()["stages"].keys() == {"train"}


def test_codecarbons_seconds_and_ours_make_the_stage() -> None:
    metered = Used(100.0, cpu=10.0, ram=2.0)
    assert _Stage(metered).used == metered
    mixed = _Stage(metered, Used(75.0, cpu=6.0, gpu=1.0, ram=3.0)).used
    assert mixed == Used(100.0, cpu=6.0 + 2.5, gpu=1.0, ram=3.0 + 0.5)
    late = _Stage(metered, Used(125.0, cpu=10.0)).used
    assert late == Used(100.0, cpu=8.0), "what it measured beyond the stage is not the stage's"


def test_a_codecarbon_that_raises_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "codecarbon.py").write_text("raise ImportError('built for another machine')")
    monkeypatch.syspath_prepend(str(folder))
    paths = filter(None, [str(folder), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notes: list[str] = []
    open_account = account(tmp_path, notes, EnergyConfig())
    assert open_account._codecarbon is not None
    with open_account.stage("train"):
        open_account._codecarbon.wait(30)
    open_account.close()
    assert notes == ["codecarbon: ImportError: built for another machine; emissions.json has our own estimate"]
    assert storage.read_json(tmp_path / FILE)["total"]["kwh"] > 0


@pytest.mark.skipif(importlib.util.find_spec("codecarbon") is None, reason="needs pip install 'fabula[energy]'")
def test_codecarbon_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Watched by tests/audit: it dies if it calls another machine.
    paths = filter(None, [str(tiny.AUDIT), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notes: list[str] = []
    open_account = account(tmp_path, notes, EnergyConfig(country="ESP"))
    with open_account.stage("train"):
        for _ in range(300):
            work()
            open_account._hear()
            if open_account._version:
                break
    with open_account.stage("evaluate"):
        for _ in range(60):
            work()
    open_account.close()
    made = storage.read_json(tmp_path / FILE)
    assert notes == []
    assert made["methods"]["codecarbon"].startswith("codecarbon 3.")
    total = made["total"]
    assert total["codecarbon_seconds"] > 0
    assert total["codecarbon_seconds"] + total["estimated_seconds"] == pytest.approx(total["seconds"])


def test_what_is_refused_leaves_no_trace(copied_run: Path, tmp_path: Path) -> None:
    before = (copied_run / FILE).read_bytes()
    with pytest.raises(InputError, match="would change"):
        pipeline.run(tiny.write_recipe(tmp_path), {"train.clip": 0.5}, runs=copied_run.parent)
    assert (copied_run / FILE).read_bytes() == before


# ---- the run ----------------------------------------------------------------------------------------------------


def test_every_run_has_its_account(tiny_run: Path) -> None:
    made = storage.read_json(tiny_run / FILE)
    assert list(made["stages"]) == ["tokenizer", "data", "train", "evaluate"]
    told = storage.read_json(tiny_run / "summary.json")["energy"]
    assert 0 < told["kwh"] <= made["total"]["kwh"]
    assert told["place"] == "the world, on average"
    assert "Where the electricity went" in (tiny_run / "report" / "index.html").read_text("utf-8")


def test_a_run_says_it_in_a_line(tmp_path: Path, cli: Any) -> None:
    tiny.write_recipe(tmp_path)
    code, out, err = cli("train", "tiny.toml", "--energy.country", "FRA")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("energy ")]
    assert "CO2e" in line
    assert line.endswith("by car (an estimate; electricity of France)")


@pytest.mark.parametrize(
    ("given", "said"),
    [("Spain", 'did you mean "ESP"?'), ("esp", 'did you mean "ESP"?'), ("ESPP", 'did you mean "ESP"?')],
)
def test_a_country_is_three_letters(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(ConfigError) as told:
        pipeline.load(tiny.write_recipe(tmp_path), {"energy.country": given})
    assert f"energy: country={given} must be a country's three letters" in str(told.value)
    assert said in str(told.value)


def test_everyday_things() -> None:
    """Alexandria 1.1 was said to take 19.4 Wh and 3.98 g."""
    found = {entry["name"]: entry["amount"] for entry in equivalents(0.0194, 0.00398)}
    assert found["phone charges"] == pytest.approx(0.0194 * 1000 / (4.0 * 3.85 / 0.8), rel=0.01)
    assert found["litres of water boiled"] == pytest.approx(0.0194 * 3.6e6 / (4186 * 85), rel=0.01)
    assert found["km by car"] == pytest.approx(3.98 / 175)
    assert found["hours of a lamp"] == pytest.approx(1.94)
    assert all(entry["factor"] for entry in equivalents(1, 1))
    assert sentence(0.0194, 0.00398).startswith("19.4 Wh, 3.98 g CO2e: ")
    assert sentence(0.0, 0.0) == "0 Wh, 0 g CO2e: 0 phone charges, 0 m by car"
    json.dumps(equivalents(0.0, 0.0))
