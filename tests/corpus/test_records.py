"""Records: conversations and preferences in the forms people publish them in, and what is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabula.config import build
from fabula.corpus.document import Document, Quarantined
from fabula.corpus.readers import Reading
from fabula.corpus.records import Conversation, Kind, Preference, Turn, Useless, as_text, detect, record_of
from fabula.corpus.run import Corpus, CorpusConfig, Funnel
from fabula.corpus.sources import find
from fabula.corpus.survey import survey
from fabula.errors import ConfigError, SourceError

ASK, SAY = Turn("user", "¿Cuántos?"), Turn("assistant", "Tres.")
SYSTEM = Turn("system", "Be brief.")


def record(value: Any, kind: Kind = "conversations") -> Any:
    return record_of(value, Reading(records=kind), "here")


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **settings: Any) -> tuple[list[Any], list[Quarantined]]:
    bad: list[Quarantined] = []
    (source,) = find(str(path), Reading(**settings), "auto", 0, 0)
    return list(source.records(bad.append)), bad


# ---- forms ---------------------------------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "¿Cuántos?"}, {"role": "assistant", "content": "Tres."}]
PARTS = {"role": "user", "content": [{"type": "text", "text": "¿Cuán"}, {"type": "text", "text": "tos?"}]}
SHAREGPT = [{"from": "human", "value": "¿Cuántos?"}, {"from": "gpt", "value": "Tres."}]


@pytest.mark.parametrize(
    ("value", "turns"),
    [
        ({"messages": MESSAGES}, (ASK, SAY)),
        ({"messages": [{"role": "developer", "content": "Be brief."}, *MESSAGES]}, (SYSTEM, ASK, SAY)),
        ({"conversations": SHAREGPT}, (ASK, SAY)),
        ({"conversations": SHAREGPT, "system": "Be brief."}, (SYSTEM, ASK, SAY)),
        ({"conversations": SHAREGPT * 2, "system": None}, (ASK, SAY, ASK, SAY)),
        ({"instruction": "¿Cuántos?", "input": "", "output": "Tres."}, (ASK, SAY)),
        ({"instruction": "¿Cuántos?", "input": None, "output": "Tres."}, (ASK, SAY)),
        (
            {"instruction": "Count.", "input": "a b c", "output": "Tres."},
            (Turn("user", "Count.\n\na b c"), SAY),
        ),
        (
            {"instruction": "¿Cuántos?", "output": "Tres.", "history": [["Hi", "Ho"]], "system": "Be brief."},
            (SYSTEM, Turn("user", "Hi"), Turn("assistant", "Ho"), ASK, SAY),
        ),
        ({"prompt": "¿Cuántos?", "completion": "Tres."}, (ASK, SAY)),
        ({"prompt": MESSAGES[:1], "completion": MESSAGES[1:]}, (ASK, SAY)),
        (
{"messages": [PARTS, MESSAGES[1]]},
            (ASK, SAY),
        ),
        (
            {"messages": [*MESSAGES, {"role": "tool", "content": "3"}, *MESSAGES[1:]]},
            (ASK, SAY, Turn("tool", "3"), SAY),
        ),
        # A table gives every message all the fields that any has.
        ({"messages": [{"role": None, "content": None, **turn} for turn in SHAREGPT]}, (ASK, SAY)),
    ],
)  # fmt: skip
def test_conversations(value: dict[str, Any], turns: tuple[Turn, ...]) -> None:
    assert record(value) == Conversation(turns, "here")


OTHER = Turn("assistant", "Cinco.")
WORSE = {"from": "gpt", "value": "Cinco."}
WORSE_MESSAGE = {"role": "assistant", "content": "Cinco."}
WORSE_MESSAGES = [MESSAGES[0], WORSE_MESSAGE]


@pytest.mark.parametrize(
    ("value", "prompt"),
    [
        ({"instruction": "¿Cuántos?", "input": "", "chosen": "Tres.", "rejected": "Cinco."}, (ASK,)),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": WORSE}, (ASK,)),
        ({"conversations": [*SHAREGPT, SHAREGPT[0]], "chosen": SHAREGPT[1], "rejected": WORSE}, (ASK, SAY, ASK)),
        ({"prompt": "¿Cuántos?", "chosen": "Tres.", "rejected": "Cinco."}, (ASK,)),
        ({"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": [WORSE_MESSAGE]}, (ASK,)),
        # The prompt stands in the answers as well, or only there; other fields may hold the better answer again.
        ({"prompt": "¿Cuántos?", "chosen": MESSAGES, "rejected": WORSE_MESSAGES, "messages": MESSAGES}, (ASK,)),
        ({"chosen": MESSAGES, "rejected": WORSE_MESSAGES}, (ASK,)),
        ({"chosen": MESSAGES * 2, "rejected": [*MESSAGES, MESSAGES[0], WORSE_MESSAGE]}, (ASK, SAY, ASK)),
    ],
)  # fmt: skip
def test_preferences(value: dict[str, Any], prompt: tuple[Turn, ...]) -> None:
    assert record(value, "preferences") == Preference(prompt, (SAY,), (OTHER,), "here")


@pytest.mark.parametrize(
    ("value", "reason", "useless"),
    [
        ({"messages": MESSAGES[:1]}, "the last of 1 turns is the user's", False),
        ({"messages": [MESSAGES[1]]}, "turn 1 is the assistant's and is the first; expected: system or user", False),
        ({"messages": [*MESSAGES[:1], *MESSAGES]}, "turn 2 is the user's and follows the user's", False),
        ({"messages": [*MESSAGES, {"role": "system", "content": "x"}]}, "turn 3 is the system's", False),
        ({"messages": [{"role": "narrator", "content": "x"}]}, 'of the role "narrator", which is none of', False),
        ({"messages": [{"role": "user"}]}, "message 1 of messages, the user's, holds null, not text", False),
        ({"messages": [{"content": "x"}]}, "neither role and content nor from and value, but content", False),
        ({"messages": "x"}, 'the field "messages" holds text, not a list', False),
        ({"messages": ["x"]}, "message 1 of messages is text, not an object", False),
        ({"messages": []}, 'the field "messages" holds no message', True),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": " \n"}]}, "the assistant's, is empty", True),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "holds a list, not text", False),
        ({"instruction": "x", "output": ""}, 'the field "output" is empty', True),
        ({"instruction": "x", "output": "\udc80"}, 'the field "output" has a lone surrogate U+DC80', False),
        ({"instruction": "x", "input": 3, "output": "y"}, 'the field "input" holds a number', False),
        ({"instruction": "x"}, 'no field "output"; the record has: instruction', False),
        ({"instruction": "x", "output": "y", "history": ["z"]}, "must be a list of [question, answer]", False),
        ({"question": "x"}, "no conversation: the record has question", False),
        ([1], "expected an object, got a list", False),
    ],
)
def test_what_is_no_conversation(value: Any, reason: str, useless: bool) -> None:
    found = record(value)
    assert reason in found
    assert isinstance(found, Useless) is useless


@pytest.mark.parametrize(
    ("value", "reason", "useless"),
    [
        ({"prompt": "x", "chosen": "y", "rejected": "y"}, "chosen and rejected are the same", True),
        ({"chosen": MESSAGES, "rejected": MESSAGES}, "chosen and rejected are the same", True),
        ({"prompt": "x", "chosen": "", "rejected": "y"}, 'the field "chosen" is empty', True),
        ({"chosen": "y", "rejected": "z"}, "no prompt: neither a field of that name", False),
        (
            {"conversations": SHAREGPT, "chosen": "y", "rejected": "z"},
            "the prompt ends with the assistant's turn",
            False,
        ),
        (
            {"prompt": "x", "chosen": MESSAGES[:1], "rejected": "z"},
            "turn 2 is the user's and follows the user's",
            False,
        ),
        ({"prompt": "x", "chosen": "y"}, 'the field "rejected" holds null, not a list of messages', False),
    ],
)
def test_what_is_no_preference(value: Any, reason: str, useless: bool) -> None:
    found = record(value, "preferences")
    assert reason in found
    assert isinstance(found, Useless) is useless


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["user", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "conversations",
                    "role",
                    "content",
                    "from",
                    "value",
                    "prompt",
                    "chosen",
                    "rejected",
                    "history",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_value_is_a_record_or_a_reason(value: Any) -> None:
    for kind in ("conversations", "preferences", "documents"):
        assert record(value, kind)  # neither empty nor an exception


# ---- detection -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["text", "messages"], "documents"),
        (["messages"], "conversations"),
        (["conversations", "chosen", "rejected"], "preferences"),
        (["id", "instruction", "output"], "conversations"),
        (["prompt", "completion"], "conversations"),
        (["prompt", "chosen", "rejected"], "preferences"),
        (["instruction"], "documents"),
        ([], "documents"),
    ],
)
def test_the_kind_is_known_by_the_fields(names: list[str], kind: str) -> None:
    assert detect(names, "text")[0] == kind


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file_holds_conversations(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows = [{"id": i, "instruction": f"Count {i}.", "input": "", "output": f"{i}!"} for i in range(3)]
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif suffix == ".jsonl":
        write(path, *rows)
    else:
        separator = "," if suffix == ".csv" else "\t"
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    found, bad = read(path)
    assert [r.turns for r in found] == [(Turn("user", f"Count {i}."), Turn("assistant", f"{i}!")) for i in range(3)]
    assert not bad


def test_parquet_of_messages_with_a_bad_one(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": MESSAGES}, {"messages": MESSAGES[:1]}]), path)
    found, bad = read(path)
    assert [r.turns for r in found] == [(ASK, SAY)]
    assert [(b.line, b.byte, b.useless) for b in bad] == [(2, None, False)]


def test_the_user_has_the_last_word(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"instruction": "¿Cuántos?", "output": "Tres."})
    found, _ = read(path, records="documents", text_field="output")
    assert found == [Document("Tres.", "a.jsonl, line 1")]
    found, _ = read(path, text_field="output")
    assert isinstance(found[0], Document)
    plain = tmp_path / "a.txt"
    plain.write_text("x")
    with pytest.raises(SourceError, match="plain text has no fields, and preferences need them"):
        read(plain, records="preferences")
    with pytest.raises(ConfigError, match=r"records.*contradicts"):
        build(CorpusConfig, {"records": "conversations", "source_field": "a", "target_field": "b"})
    with pytest.raises(ConfigError, match="a pair has two texts"):
        build(CorpusConfig, {"records": "pairs"})


# ---- in a corpus ---------------------------------------------------------------------------------------------


def test_a_conversation_is_text_too_and_split_by_its_question(tmp_path: Path) -> None:
    rows = [{"instruction": f"Count {i // 2}.", "output": f"{i}!"} for i in range(200)]
    corpus = Corpus(CorpusConfig(source=str(write(tmp_path / "a.jsonl", *rows)), validation=0.3))
    funnel, typed = Funnel(), Funnel()
    as_documents = list(corpus.documents(funnel))
    as_records = list(corpus.records(typed))
    assert as_documents[0][1].text == "User: Count 0.\n\nAssistant: 0!"
    assert [d.text for _, d in as_documents] == [as_text(r.turns) for _, r in as_records]  # type: ignore[union-attr]
    assert [split for split, _ in as_documents] == [split for split, _ in as_records]
    assert funnel.to_data() == typed.to_data()
    # Both answers to a question are on one side.
    assert all(as_documents[i][0] == as_documents[i + 1][0] for i in range(0, 200, 2))
    assert "their question" in " ".join(corpus.notes())


def test_preferences_are_not_text(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "y", "rejected": "n"} for i in range(50)]
    corpus = Corpus(CorpusConfig(source=str(write(tmp_path / "a.jsonl", *rows)), validation=0.3))
    with pytest.raises(SourceError, match=r"a model would learn both as text.*--corpus.records documents"):
        list(corpus.documents(Funnel()))
    assert sum(1 for _ in corpus.records(Funnel())) == 50


def test_useless_records_are_set_aside_but_no_damage(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "y", "rejected": "n"} for i in range(30)]
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "chosen": "y", "rejected": "y"}, *rows)
    seen: list[Quarantined] = []
    funnel = Funnel(sink=seen.append)
    kept = list(Corpus(CorpusConfig(source=str(path), validation=0.3)).records(funnel))
    assert (len(kept), funnel.useless, funnel.quarantined, funnel.records) == (30, 1, 0, 31)
    assert (seen[0].line, seen[0].reason) == (1, "chosen and rejected are the same")
    write(path, {"prompt": "x", "chosen": "y"}, *rows)
    with pytest.raises(SourceError, match=r"1 of 31 records.*line 1.*\"rejected\" holds null"):
        list(Corpus(CorpusConfig(source=str(path), validation=0.3)).records(Funnel()))


def test_the_survey_shows_turns(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    rows = [{"messages": MESSAGES}, *({"instruction": f"{i}?", "output": f"{i}!"} for i in range(20))]
    path = write(tmp_path / "a.jsonl", *[{"messages": [{"role": "user", "content": r["instruction"]},
        {"role": "assistant", "content": r["output"]}]} if "instruction" in r else r for r in rows])  # fmt: skip
    found = survey(CorpusConfig(source=str(path), validation=0.3))
    assert found["records"] == {"conversations": 21}
    assert found["turns"] == 42
    assert found["first"][0]["turns"] == [{"role": t.role, "content": t.content} for t in (ASK, SAY)]
    code, out, _ = cli("corpus", "show", path, "--corpus.validation", "0.3")
    assert code == 0
    assert "conversations    21, 2.0 turns on average" in out
    assert "user: ¿Cuántos?\nassistant: Tres." in out
    prefer = write(tmp_path / "b.jsonl", *({"prompt": f"{i}?", "chosen": "y", "rejected": "n"} for i in range(20)))
    code, out, _ = cli("corpus", "show", prefer, "--corpus.validation", "0.3")
    assert code == 0
    assert "user: 0?\n+ assistant: y\n- assistant: n" in out


@pytest.mark.corpora
@pytest.mark.parametrize(
    ("name", "kind", "read_ones", "useless"),
    [
        ("sft-alpaca-en", Conversation, 700, 0),
        ("sft-simple-en", Conversation, 800, 0),
        ("sft-qa-es", Conversation, 1013, 0),
        ("preference-en", Preference, 794, 6),
        ("preference-chat-en", Preference, 300, 0),
    ],
)
def test_the_shared_corpora_are_read_completely(
    corpora: Path, name: str, kind: type, read_ones: int, useless: int
) -> None:
    found, bad = read(corpora / f"{name}.jsonl")
    assert {type(r) for r in found} == {kind}
    assert (len(found), len(bad)) == (read_ones, useless)
    assert all(b.useless for b in bad)


def test_pairs_are_shown_without_a_model_in_the_way(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"word {i}\tpalabra {i}\n" for i in range(30)))
    fields = ("--corpus.source_field", "1", "--corpus.target_field", "2")
    code, out, err = cli("corpus", "show", path, *fields, "--corpus.validation", "0.3", "--corpus.licence", "CC0")
    assert code == 0, err
    assert "pairs            30" in out
    assert "word 0\n→ palabra 0" in out
    assert "licence: CC0 (corpus.licence)" in out
