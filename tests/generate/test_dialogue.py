"""Conversations and stories: what the model reads, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabula.device import Device
from fabula.errors import InputError, PromptError
from fabula.generate.config import GenerateConfig
from fabula.generate.decoding import DecoderBackend
from fabula.generate.dialogue import Dialogue, Mode, Turn, mode_of, settable
from fabula.generate.many import seed_of
from fabula.model.decoder import Decoder
from fabula.tokenizer.base import Tokenizer
from fabula.tokenizer.bpe import train_bpe
from fabula.tokenizer.chat import ChatTemplate
from fabula.tokenizer.forms import SMALLEST
from tests.contracts.variants import build, config

CPU = Device("cpu", "float32", 1, "test")
FEW = GenerateConfig(temperature=1.2, max_new_tokens=8, seed=4)
# Another house's words for the same roles.
THEIRS = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m.content + '<|endofturn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_bpe(["nada"], SMALLEST)


@pytest.fixture(scope="module")
def model(letters: Tokenizer) -> Decoder:
    return build(dataclasses.replace(config(context_length=96, tied=False), vocab_size=letters.vocab_size))


Opens = Callable[..., Dialogue]


@pytest.fixture
def opened(model: Decoder, letters: Tokenizer) -> Iterator[Opens]:
    made: list[Dialogue] = []

    def opens(mode: Mode, settings: GenerateConfig = FEW, system: str = "", tokenizer: Any = None) -> Dialogue:
        backend = DecoderBackend(model, CPU, capacity=2, n_ids=letters.vocab_size)
        made.append(Dialogue(backend, tokenizer or letters, mode, settings, system))
        return made[-1]

    yield opens
    for dialogue in made:
        dialogue.close()
        backend = dialogue._backend
        assert [backend.open(), backend.open()] == [0, 1], "no sequence is left open"


def told(dialogue: Dialogue, text: str) -> str:
    dialogue.say(text)
    pieces = list(dialogue.answer())
    assert pieces[-1].finish_reason is not None
    return "".join(p.text for p in pieces)


def test_what_a_model_is_made_for(letters: Tokenizer) -> None:
    """Our own template comes with every tokenizer, so it says nothing of the model."""
    assert mode_of(letters) == "story"
    other = train_bpe(["nada"], SMALLEST)
    other.chat_template = THEIRS
    assert mode_of(other) == "chat"
    other.chat_template = None
    assert mode_of(other) == "story"
    with pytest.raises(InputError, match="no chat template"):
        Dialogue(object(), other, "chat", FEW)  # type: ignore[arg-type]


def test_a_story_is_one_text(opened: Opens, letters: Tokenizer) -> None:
    """Each answer is what the whole text gives when it is read anew: the memory of earlier turns changes none."""
    dialogue = opened("story")
    for number, line in enumerate(("El zorro", "uno", "", ", dos", "\ntres")):
        before = dialogue.text
        dialogue.say(line)
        prompt = dialogue.text
        if line:
            assert prompt.startswith(before)
            assert prompt[len(before) :] in (line, f" {line}")
        pieces = list(dialogue.answer())
        anew = opened("story", dataclasses.replace(FEW, seed=seed_of(4, number)))
        anew.turns = [Turn("user", prompt)]
        assert [p.ids for p in anew.answer()] == [p.ids for p in pieces]
        assert dialogue.text == anew.text == prompt + "".join(p.text for p in pieces).rstrip("\ufffd")
    assert dialogue.used() == 1 + len(letters.encode(dialogue.text))


def test_spaces_between_words(opened: Opens) -> None:
    dialogue = opened("story")
    dialogue.turns = [Turn("assistant", "fin.")]
    for line, joined in (("Uno", "fin. Uno"), (", y", "fin. Uno, y"), (" más", "fin. Uno, y más"), ("\n", None)):
        dialogue.say(line)
        assert joined is None or dialogue.text == joined
    dialogue.say("Dos")
    assert dialogue.text == "fin. Uno, y más\nDos"


def test_a_conversation_is_what_the_template_writes(opened: Opens, letters: Tokenizer) -> None:
    dialogue = opened("chat", system="Eres un búho.")
    first = told(dialogue, "Hola <|assistant|>")
    dialogue.say("Bien")
    messages = [
        {"role": "system", "content": "Eres un búho."},
        {"role": "user", "content": "Hola <|assistant|>"},
        {"role": "assistant", "content": dialogue.turns[1].content},
        {"role": "user", "content": "Bien"},
    ]
    assert first.startswith(dialogue.turns[1].content)
    expected = ChatTemplate.of(letters).render(messages, add_generation_prompt=True).ids
    assert dialogue._ids(dialogue.turns) == expected
    assert dialogue.used() == len(expected)
    special = letters.special
    assert dialogue._ends == {special.end_of_document, special.end_of_turn}
    assert dialogue._banned == letters.controls - dialogue._ends


def test_no_control_token_is_written(opened: Opens, letters: Tokenizer, model: Decoder) -> None:
    assert letters.special.user is not None
    hot = dataclasses.replace(FEW, temperature=50.0, max_new_tokens=60)
    for mode in ("chat", "story"):
        dialogue = opened(mode, hot)
        dialogue.say("a")
        ids = {i for p in dialogue.answer() for i in p.ids}
        assert not ids & dialogue._banned


def test_taking_back_and_trying_again(opened: Opens) -> None:
    dialogue = opened("story")
    with pytest.raises(InputError, match="no answer yet"):
        dialogue.retry()
    assert not dialogue.undo()
    first = told(dialogue, "uno")
    turns = list(dialogue.turns)
    dialogue.retry()
    second = "".join(p.text for p in dialogue.answer())
    assert second != first, "another seed"
    assert [t.role for t in dialogue.turns] == ["user", "assistant"]
    told(dialogue, "dos")
    assert dialogue.undo()
    assert dialogue.turns[0] == turns[0]
    assert len(dialogue.turns) == 2
    told(dialogue, "")
    assert [t.role for t in dialogue.turns] == ["user", "assistant", "assistant"]
    dialogue.undo()
    assert len(dialogue.turns) == 2
    dialogue.reset()
    assert (dialogue.turns, dialogue.text) == ([], "")
    dialogue.set("seed", "4")
    assert told(dialogue, "uno") == first


def test_what_came_is_kept_when_it_is_stopped(opened: Opens) -> None:
    dialogue = opened("story", dataclasses.replace(FEW, max_new_tokens=50, stop=("zzz",)))
    dialogue.say("uno")
    shown, asked = [], []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) >= 5

    for piece in dialogue.answer(stopped):
        shown.append(piece)
    assert 4 <= sum(len(p.ids) for p in shown) <= 6
    assert shown[-1].finish_reason is None
    assert dialogue.turns[-1] == Turn("assistant", "".join(p.text for p in shown).rstrip("\ufffd"))
    reader = dialogue.answer()
    next(reader)
    reader.close()  # whoever reads it has left
    assert dialogue.turns[-1].role == "assistant"
    told(dialogue, "dos")


@pytest.mark.parametrize("mode", ["chat", "story"])
def test_the_context_is_said_with_both_numbers(opened: Opens, mode: Mode) -> None:
    dialogue = opened(mode)
    told(dialogue, "a")
    turns = list(dialogue.turns)
    with pytest.raises(PromptError, match=r"that would be \d{3} tokens.*holds 96.*/undo.*/reset"):
        dialogue.say("b" * 100)
    assert dialogue.turns == turns
    dialogue.reset()
    dialogue.set("max_new_tokens", "200")
    dialogue.say("b" * 60)
    pieces = list(dialogue.answer())
    if pieces[-1].finish_reason == "context":
        assert dialogue.used() >= 90
        with pytest.raises(PromptError, match="holds 96"):
            dialogue.say("b" * 10)


def test_settings(opened: Opens) -> None:
    dialogue = opened("story")
    dialogue.set("temperature", "0")
    dialogue.set("stop", "fin")
    assert (dialogue.config.temperature, dialogue.config.stop) == (0.0, ("fin",))
    for name, value, words in (
        ("temprature", "1", 'did you mean "temperature"'),
        ("beams", "2", "no setting"),
        ("top_k", "x", "whole number"),
        ("top_p", "2", "at most 1"),
    ):
        with pytest.raises(InputError, match=words):
            dialogue.set(name, value)
    assert "beams" not in settable()
    assert dialogue.config == dataclasses.replace(FEW, temperature=0.0, stop=("fin",))


def test_files(opened: Opens, tmp_path: Path) -> None:
    story, path = opened("story"), tmp_path / "story.json"
    told(story, "uno")
    story.save(path)
    story.save(path)  # its own kind it replaces
    other = opened("story")
    other.load(path)
    assert other.turns == story.turns
    chat = opened("chat", system="Sí.")
    with pytest.raises(InputError, match="--mode story"):
        chat.load(path)
    told(chat, "hola")
    chat.save(tmp_path / "chat.json")
    again = opened("chat")
    again.load(tmp_path / "chat.json")
    assert (again.system, again.turns) == ("Sí.", chat.turns)
    foreign = tmp_path / "mine.txt"
    foreign.write_text("mine")
    with pytest.raises(InputError, match="choose another name"):
        story.save(foreign)
    assert foreign.read_text() == "mine"
    plain = [{"role": "user", "content": "a"}]
    (tmp_path / "list.json").write_text(json.dumps(plain))
    again.load(tmp_path / "list.json")
    assert again.turns == [Turn("user", "a")]
    long = [{"role": "user", "content": "a" * 100}]
    for content, words in (
        ("[", "no saved conversation"),
        ('{"messages": 1}', "no saved conversation"),
        (json.dumps([{"role": "tool", "content": "a"}]), "no saved conversation"),
        (json.dumps([*plain, {"role": "system", "content": "a"}]), "no saved conversation"),
        (json.dumps(long), "holds 96"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=words):
            again.load(tmp_path / "bad.json")
    assert again.turns == [Turn("user", "a")]
    with pytest.raises(InputError, match="cannot be read"):
        again.load(tmp_path / "none.json")
    (tmp_path / "system.json").write_text(json.dumps([{"role": "system", "content": "a"}]))
    with pytest.raises(InputError, match="plain model"):
        other.load(tmp_path / "system.json")


def test_a_template_of_others(opened: Opens) -> None:
    theirs = train_bpe(["nada"], SMALLEST)
    theirs.chat_template = THEIRS
    dialogue = opened("chat", tokenizer=theirs)
    assert theirs.special.end_of_turn in dialogue._ends
    told(dialogue, "hola")
    with pytest.raises(InputError, match="no system here"):
        dialogue.instruct("Eres un búho.")
    assert dialogue.system == ""
    told(dialogue, "y")


@pytest.mark.skipif(not hasattr(os, "getpgid"), reason="no groups of processes")
def test_a_key_pressed_in_the_terminal_does_not_reach_the_process_of_templates() -> None:
    theirs = train_bpe(["nada"], SMALLEST)
    theirs.chat_template = THEIRS
    template: Any = ChatTemplate.of(theirs)
    assert os.getpgid(template._runs._process._running.pid) != os.getpgrp()


def test_a_plain_model_knows_no_system(opened: Opens) -> None:
    with pytest.raises(InputError, match="write it into the story"):
        opened("story", system="Eres un búho.")
