"""Run a chat template: Jinja in an immutable sandbox, with the origin of every character kept.

As a process of its own, `python -m fabula.tokenizer.sandbox`, for templates that others wrote: started, fed and killed
by `chat.py`. It reads a line of JSON for each request and writes one for each answer.

    at its start  it writes {"started": true}
    first line    {"source": the template, "date": [year, month, day] or null}
    its answer    {"marks": whether it has {% generation %}} or {"problem": what is wrong with the template}
    a request     {"variables": {...}, "own": the names of those that count as the template's}
    its answer    {"text": ..., "runs": [[characters, flags, message], ...]} or {"problem": ...} or {"refused": ...}

What a template has is what `transformers` gives it: loop controls, {% generation %}, raise_exception, a `tojson` that
escapes nothing for HTML, blocks trimmed. Missing are `strftime_now` (a date would make the ids depend on the day; one
that is fixed can be given), and what is random.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, LoopControlExtension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fabula.tokenizer.origin import Run, Traced, generated, joined, own, runs_of, said_by

# The longest text that a template may write, and the memory of its process.
MOST_CHARACTERS = 16 << 20
MOST_MEMORY = 1 << 30
_MOST_RANGE = 10_000


class Refused(Exception):
    """The template says that it does not take these messages."""


class Broken(Exception):
    """The template does not work."""


class _Code(CodeGenerator):
    """Marks what stands in the template itself; everything else is met only when it runs."""

    def _output_const_repr(self, group: Any) -> str:
        return f"environment.own({''.join(group)!r})"

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        self.write(_marked(node.as_const(frame.eval_ctx)))

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(f"environment.own({node.data!r})")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def _marked(value: Any) -> str:
    """The source of a constant whose texts are marked, also those inside lists."""
    if isinstance(value, str):
        return f"environment.own({str(value)!r})"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_marked(part) for part in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)" if value else "()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_marked(key)}: {_marked(part)}" for key, part in value.items()) + "}"
    return str(value) if isinstance(value, float) else repr(value)


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: what stands inside is what the assistant is to produce."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        self.environment.extend(has_generation=True)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return generated(caller())


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without autoescape, files, randomness and dates, whose texts are traced."""

    code_generator_class = _Code
    intercepted_binops = frozenset(["*", "**"])

    def __init__(self, date: datetime.date | None) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension])
        self.own = own
        self.concat = _concat  # type: ignore[method-assign]
        self.filters |= {"tojson": _tojson, "join": _join, "safe": lambda text: text}
        for name in ("random", "pprint"):
            del self.filters[name]
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "range": _range, "namespace": _Names, "dict": _Dict()}
        if date is not None:
            self.globals["strftime_now"] = lambda form: date.strftime(str(form))

    def getattr(self, obj: Any, attribute: str) -> Any:
        if attribute.startswith("_") and not (isinstance(obj, dict) and attribute in obj):
            return self.unsafe_undefined(obj, attribute)
        return super().getattr(obj, attribute)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """What reaches for the inside of an object is stopped at once, not when it is used."""
        kind = "text" if isinstance(obj, str) else type(obj).__name__
        raise jinja2.exceptions.SecurityError(f"access to {attribute!r} of a {kind} is not allowed")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products that would fill the memory are stopped."""
        if operator == "**" and not (abs(left) <= 1 << 31 and abs(right) <= 64):
            raise OverflowError("a power this large")
        for one, other in ((left, right), (right, left)):
            if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > MOST_CHARACTERS:
                raise OverflowError("a text this long")
        return super().call_binop(context, operator, left, right)


class _Names(jinja2.utils.Namespace):
    """A namespace whose names may not begin with an underscore."""

    def __init__(*arguments: Any, **names: Any) -> None:
        self, *rest = arguments
        for name in dict(*rest, **names):
            _Names._check(name)
        jinja2.utils.Namespace.__init__(self, *rest, **names)

    def __setitem__(self, name: str, value: Any) -> None:
        _Names._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: object) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no name {name!r}")


class _Dict:
    """`dict(...)`, without the attributes of the class."""

    def __call__(self, *arguments: Any, **names: Any) -> dict[Any, Any]:
        return dict(*arguments, **names)


def _concat(parts: Any) -> Traced:
    kept, size = [], 0
    for part in parts:
        kept.append(part if isinstance(part, str) else str(part))
        size += len(kept[-1])
        if size > MOST_CHARACTERS:
            raise OverflowError(f"a text of more than {MOST_CHARACTERS:,} characters")
    return joined(kept)


@jinja2.pass_eval_context
def _join(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(context.environment, attribute), value)
    parts: list[str] = []
    for part in value:
        parts += [str(d), str(part)] if parts else [str(part)]
    return _concat(parts)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _range(*limits: int) -> range:
    made = range(*limits)
    if len(made) > _MOST_RANGE:
        raise OverflowError(f"a range of more than {_MOST_RANGE:,} numbers")
    return made


def _refuse(message: Any) -> None:
    raise Refused(str(message))


class Rendering:
    """A template that is ready to run, here and now: only for those that we wrote, or in a process that can be killed.

    Broken when it is no template.
    """

    def __init__(self, source: str, date: datetime.date | None = None) -> None:
        sandbox = _Sandbox(date)
        try:
            self._template = sandbox.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise Broken(f"line {error.lineno}: {error.message}") from None
        except (RecursionError, OverflowError, MemoryError, SyntaxError, ValueError) as error:
            raise Broken(_said(error)) from None
        self.marks: bool = getattr(sandbox, "has_generation", False)

    def render(self, variables: dict[str, Any], owned: list[str]) -> tuple[str, tuple[Run, ...]]:
        """The text and the origin of its characters. Refused when the template says so, Broken when it fails."""
        given = {name: own(value) if name in owned else value for name, value in variables.items()}
        given["messages"] = [_traced(message, place) for place, message in enumerate(given.get("messages", ()))]
        try:
            text = self._template.render(**given)
        except (Refused, KeyboardInterrupt):
            raise
        except Exception as error:
            raise Broken(_said(error)) from None
        return str.__str__(text), runs_of(text)


def _traced(message: Any, place: int) -> Any:
    """A message whose texts, where the assistant says them, know in which message."""
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return message
    return {name: value if name == "role" else _said_in(value, place) for name, value in message.items()}


def _said_in(value: Any, place: int) -> Any:
    if isinstance(value, str):
        return said_by(value, place)
    if isinstance(value, list):
        return [_said_in(part, place) for part in value]
    if isinstance(value, dict):
        return {name: _said_in(part, place) for name, part in value.items()}
    return value


def _said(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    line = (str(error).splitlines() or [""])[0]
    if isinstance(error, OverflowError):
        return f"it makes {line}" if line.startswith("a ") else f"it counts too far ({line})"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


# ---- the process -----------------------------------------------------------------------------------------------


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are none."""

    def answer(data: dict[str, Any]) -> None:
        answers.write(json.dumps(data) + "\n")
        answers.flush()

    answer({"started": True})
    first = json.loads(requests.readline())
    try:
        date = datetime.date(*first["date"]) if first["date"] else None
        rendering = Rendering(first["source"], date)
    except Broken as error:
        answer({"problem": str(error)})
        return
    answer({"marks": rendering.marks})
    for line in requests:
        request = json.loads(line)
        try:
            text, runs = rendering.render(request["variables"], request["own"])
        except Refused as error:
            answer({"refused": str(error)[:1000]})
        except Broken as error:
            answer({"problem": str(error)[:1000]})
        else:
            answer({"text": text, "runs": runs})


def _less_memory() -> None:
    """Let this process have no more than it needs, where the system can say so."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for limit, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        if hard == resource.RLIM_INFINITY or hard > most:
            resource.setrlimit(limit, (most, hard))


if __name__ == "__main__":
    _less_memory()
    serve(sys.stdin, sys.stdout)
