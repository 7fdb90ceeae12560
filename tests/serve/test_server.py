"""What else the server tells: tokens, the pages' own routes, metrics, lives of streams; and how it begins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fabula
from fabula.errors import ConfigError, InputError, MachineError
from fabula.serve import static
from fabula.serve.api import ROUTES
from fabula.serve.config import ServeConfig
from fabula.serve.metrics import Metrics
from fabula.serve.models import names
from tests import serving
from tests.serving import Asking, until


@pytest.fixture(scope="module")
def run(tiny_run: Path) -> Iterator[Asking]:
    """A server of a run with checkpoints."""
    with serving.serving(fabula.load(tiny_run), folder=str(tiny_run)) as made:
        yield made


def test_tokens_of_a_text_are_its_bytes_in_order(asking: Asking) -> None:
    text = "Ñandú <|endoftext|> 漢 🦊"
    found = asking.post("/tokenize", {"text": text}).data
    assert found["count"] == len(found["tokens"]) == len(found["pieces"])
    assert bytes(b for piece in found["pieces"] for b in piece["bytes"]).decode() == text
    assert asking.post("/detokenize", {"tokens": found["tokens"]}).data["text"] == text
    lone = asking.post("/tokenize", b'{"text": "a\\ud800"}')
    assert lone.status == 400
    assert "unicode" in lone.error["message"]


def test_tokens_of_a_conversation_have_the_templates_controls(asking: Asking) -> None:
    found = asking.post("/tokenize", {"messages": [{"role": "user", "content": "Hola"}]}).data
    said = [piece["text"] for piece in found["pieces"] if piece["control"]]
    assert said == ["<|endoftext|>", "<|user|>", "<|endofturn|>", "<|assistant|>"]


def test_a_text_is_told_token_by_token_with_what_else_was_likely(asking: Asking) -> None:
    data = {"prompt": "El", "max_tokens": 12, "seed": 3, "alternatives": 4}
    begin, *told = asking.streamed("/fabula/generate", data)
    end = told.pop()
    assert begin["kind"] == "begin"
    assert (end["finish_reason"], end["tokens"]) == ("length", 12)
    tokens = [token for event in told for token in event["tokens"]]
    text = "".join(event["text"] for event in told)
    assert bytes(b for token in tokens for b in token["bytes"]).decode("utf-8", "replace") == text
    assert text == asking.complete(**{k: v for k, v in data.items() if k != "alternatives"})["text"]
    for token in tokens:
        assert len(token["top"]) == 4
        assert token["logprob"] <= token["top"][0]["logprob"]


def test_the_history_of_a_run(run: Asking, asking: Asking) -> None:
    found = run.get("/fabula/checkpoints").data
    assert [c["step"] for c in found["checkpoints"]] == sorted(c["step"] for c in found["checkpoints"])
    assert all(c["bits_per_byte"] > 0 for c in found["checkpoints"])
    kinds = {point["kind"] for point in found["curve"]}
    assert kinds == {"train", "evaluation"}
    assert asking.get("/fabula/checkpoints").status == 404
    assert run.get("/fabula/checkpoints?model=other").error["code"] == "model_not_found"


def test_every_checkpoint_goes_on_with_the_same_beginning(run: Asking, tiny_run: Path) -> None:
    events = run.streamed("/fabula/evolution", {"prompt": "El", "max_tokens": 5, "temperature": 0})
    steps = [c["step"] for c in run.get("/fabula/checkpoints").data["checkpoints"]]
    assert [e["step"] for e in events if e["kind"] == "checkpoint"] == steps
    assert events[0] == {"kind": "begin", "checkpoints": len(steps)}
    for step in steps:
        alone = fabula.load(tiny_run, f"step-{step}").generate("El", max_new_tokens=5, temperature=0.0)
        assert "".join(e["text"] for e in events if e["kind"] == "text" and e["step"] == step) == alone.text
    assert run.post("/fabula/evolution", {"prompt": "z" * 200}).error["code"] == "context_length_exceeded"


def test_a_damaged_checkpoint_does_not_end_an_evolution(copied_run: Path) -> None:
    with serving.serving(fabula.load(copied_run), folder=str(copied_run)) as run:
        first = sorted((copied_run / "checkpoints").glob("step-*"))[0]
        weights = first / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        events = run.streamed("/fabula/evolution", {"max_tokens": 2})
        assert [e["step"] for e in events if e["kind"] == "failed"] == [int(first.name.removeprefix("step-"))]
        assert [e["kind"] for e in events].count("checkpoint") == len(list(first.parent.glob("step-*")))


def test_one_evolution_at_a_time_and_none_for_nobody(run: Asking) -> None:
    for _ in range(5):
        with run.stream("/fabula/evolution", {"max_tokens": 30}) as (_, events):
            next(events)
            assert run.post("/fabula/evolution", {}).status in (200, 429)
        until(lambda: run.server.gate.active == 0)
    until(lambda: not run.server.api._evolution._busy.locked())


def test_metrics_are_prometheus_text(asking: Asking) -> None:
    asking.complete(max_tokens=3)
    text = asking.get("/metrics").body.decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in lines)
    assert 'fabula_step_seconds_bucket{model="toy",le="+Inf"}' in text
    made = Metrics()
    made.count("fabula_requests_total", 2, route='a"b\\c\nd')
    assert r'route="a\"b\\c\nd"} 2' in made.text([])


def test_paths_made_up_by_clients_are_counted_as_one(asking: Asking) -> None:
    for number in range(5):
        asking.get(f"/made/up/{number}")
    assert "made" not in asking.get("/metrics").body.decode()


def test_head_is_get_without_a_body_and_other_methods_are_named(asking: Asking) -> None:
    found = asking.send("HEAD", "/health")
    assert (found.status, found.body) == (200, b"")
    for method in ("PUT", "DELETE", "TRACE", "PATCH", "GET"):
        refused = asking.send(method, "/v1/completions")
        assert (refused.status, refused.headers["allow"]) == (405, "POST")


def test_files_are_those_of_the_folder_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "a" / "x.js").write_text("1")
    (tmp_path / "x.py").write_text("1")
    (tmp_path / "secret.html").symlink_to("/etc/hostname")
    assert {path: kind.partition(";")[0] for path, (_, kind) in static.table(tmp_path).items()} == {
        "/": "text/html",
        "/a/x.js": "text/javascript",
    }
    assert static.table(tmp_path / "none") == {}
    assert not {route.path for route in ROUTES} & set(static.table())


def test_names_are_those_of_the_folders() -> None:
    folders = [Path(p) for p in ("runs/fables", "x/fables/", "runs/fables/checkpoints/step-000010", "a b/ñ!", "/")]
    assert names(folders) == ["fables", "fables-2", "fables-step-000010", "model", "model-2"]


def test_several_models(toy: Any, tiny_run: Path) -> None:
    from fabula.serve.run import background

    with background(ServeConfig(port=0), [toy, fabula.load(tiny_run)], [Path("toy"), tiny_run]) as server:
        asking = Asking(server)
        assert [card["id"] for card in asking.get("/v1/models").data["data"]] == ["toy", "tiny"]
        texts = {asking.complete(max_tokens=9, temperature=0, **m)["text"] for m in ({}, {"model": "tiny"})}
        assert len(texts) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": -1}, "port=-1"),
        ({"slots": 0}, "slots=0"),
        ({"queue": -1}, "queue=-1"),
        ({"connections": 0}, "connections=0"),
        ({"stall_seconds": 0.0}, "stall_seconds=0.0"),
        ({"threads": -1}, "threads=-1"),
        ({"weights": "int4", "deterministic": False}, "int4"),
        ({"weights": "int8"}, "say --fast"),
    ],
)
def test_settings_of_a_server(settings: dict[str, Any], words: str) -> None:
    from fabula.config import build

    with pytest.raises(ConfigError, match=words):
        build(ServeConfig, settings)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_fast_engine_answers_as_well(toy: Any, asking: Asking, weights: str) -> None:
    pytest.importorskip("xllamacpp")
    with serving.serving(toy, deterministic=False, weights=weights) as fast:
        assert not fast.get("/v1/models/toy").data["deterministic"]
        settings = {"max_tokens": 20, "temperature": 0, "logprobs": 1}
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(lambda _: fast.complete(**settings), range(8)))
        assert all(one["finish_reason"] == "length" for one in made)
        if weights == "float32":
            assert {one["text"] for one in made} == {asking.complete(**settings)["text"]}


def test_a_port_that_is_taken_is_said(asking: Asking, toy: Any) -> None:
    from fabula.serve.run import background

    with (
        pytest.raises(MachineError, match="cannot be had"),
        background(ServeConfig(port=asking.port), [toy], [Path("x")]),
    ):
        raise AssertionError("it was had")


def test_the_command_says_what_is_wrong_before_a_model_is_read(cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("serve", "none", "--host", "0.0.0.0")
    assert (code, "token is needed" in err) == (2, True)
    code, _, err = cli("serve", "none", "--port", "0")
    assert (code, "no model at none" in err) == (2, True)
    code, _, err = cli("serve", "none", "--slots", "0")
    assert (code, "slots=0" in err) == (2, True)
    code, _, err = cli("serve", "none", "--token-file", "missing")
    assert (code, "cannot be read" in err) == (2, True)


def test_help_needs_no_torch() -> None:
    looks = (
        "import sys; from fabula.cli.main import build_app; build_app()(['serve', '--help'], exit_on_error=False, "
        "result_action='return_value'); print([m for m in ('torch', 'uvicorn', 'pydantic') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", looks], capture_output=True, text=True, check=True, timeout=60)
    assert made.stdout.endswith("[]\n"), made.stdout[-200:]
    assert "--token-file" in made.stdout


def test_models_that_read_two_texts_are_refused(toy: Any, tmp_path: Path) -> None:
    from fabula.model.encdec import EncoderDecoder

    lm = type("Two", (), {"model": object.__new__(EncoderDecoder)})()
    from fabula.serve.models import Served

    with pytest.raises(InputError, match="encoder-decoder"):
        Served("two", lm, ServeConfig(), Metrics(), tmp_path)
