"""What the pages of `/` need of the server: their files as they stand, texts by ids, an end at every control token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fabula.serve import static

if TYPE_CHECKING:
    from tests.serving import Asking


def written(asking: Asking, **said: Any) -> list[dict[str, Any]]:
    """The tokens of a text."""
    events = asking.streamed("/fabula/generate", {"max_tokens": 8, "seed": 1, **said})
    return [token for event in events if event["kind"] == "tokens" for token in event["tokens"]]


def test_every_file_is_given_out_and_asked_for_anew(asking: Asking) -> None:
    files = static.table()
    assert files["/"][1].startswith("text/html")
    assert len(files) == sum(path.is_file() for path in static.FOLDER.iterdir())
    for path, (body, kind) in files.items():
        heard = asking.get(path)
        assert (heard.status, heard.body, heard.headers["content-type"]) == (200, body, kind)
        # A browser may not put files of two versions together.
        assert heard.headers["cache-control"] == "no-cache"


def test_ids_go_on_as_their_text_does(asking: Asking) -> None:
    text = "El conejo ñ"
    ids = asking.post("/tokenize", {"text": text}).data["tokens"]
    alone = written(asking, prompt=text)
    assert written(asking, prompt=ids) == alone
    # From a token in the middle on, the next one is as likely as it was.
    ahead = written(asking, prompt=[*ids, *(token["id"] for token in alone[:4])], temperature=0, alternatives=1)
    assert ahead[0]["top"][0]["id"] == alone[4]["top"][0]["id"]
    # The same ids read as one prompt and written one by one: the last bits differ on some processors (decision 0020).
    assert ahead[0]["top"][0]["logprob"] == pytest.approx(alone[4]["top"][0]["logprob"], rel=1e-6)
    # Read again they are the same to the bit.
    again = written(asking, prompt=[*ids, *(token["id"] for token in alone[:4])], temperature=0, alternatives=1)
    assert again[0]["top"] == ahead[0]["top"]


def test_a_text_ends_with_whichever_control_token_comes(asking: Asking) -> None:
    tokenizer = asking.server.table.of(None).tokenizer
    for number in sorted(tokenizer.controls):
        made = written(asking, prompt="El", logit_bias={str(number): 100})
        assert [(token["id"], token["control"]) for token in made] == [(number, True)]
        refused = asking.post("/fabula/generate", {"prompt": [5, number]})
        assert refused.status == 400
        assert "control token" in refused.error["message"]
