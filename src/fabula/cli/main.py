"""The command `fabula`: a table of verbs, each imported only when it is used; errors become one message and an exit
code.

Exit codes: 0 done, 1 training diverged or a fault of ours, 2 bad input, 3 environment, 4 damaged artefact, 130 and 143
stopped by a signal. `--debug` shows the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, UnusedCliTokensError

from fabula import __version__, faults
from fabula.cli import console, overrides
from fabula.cli.console import say
from fabula.distributed.launch import Launch
from fabula.errors import FabulaError, InputError

# verb -> where it is, and the sentence that help shows for it (help must not import the verbs)
_VERBS = {
    "run": ("fabula.cli.recipes:run", "Every stage of a recipe: from text to a trained model and its report."),
    "plan": (
        "fabula.cli.recipes:plan",
        "What a recipe would take here: parameters, FLOPs, steps, time; trains nothing.",
    ),
    "train": ("fabula.cli.recipes:train", "The stages of a recipe up to the trained model."),
    "resume": ("fabula.cli.recipes:resume", "Continue a stopped run from its newest checkpoint."),
    "evaluate": ("fabula.cli.models:evaluate", "Bits per byte and perplexity of a model on a text."),
    "generate": ("fabula.cli.generate:generate", "Continue prompts, streamed or many at once."),
    "chat": ("fabula.cli.chat:chat", "Talk with a model, or write a story together."),
    "export": (
        "fabula.cli.exchange:export",
        "Write a model for another tool (Hugging Face), reloaded there and compared first.",
    ),
    "import": ("fabula.cli.exchange:import_", "Make a checkpoint of a model in Hugging Face's format."),
    "serve": ("fabula.cli.serve:serve", "Serve models over HTTP, with OpenAI's routes."),
    "report": ("fabula.cli.models:report", "Write the HTML report of a run."),
    "compare": ("fabula.cli.compare:compare", "Variants of a recipe, trained alike, side by side."),
    "corpus": ("fabula.cli.corpus:corpus", "Look at a corpus before it is used."),
    "tokenizer": ("fabula.cli.tokenizer:tokenizer", "Train a tokenizer, and see how it cuts a text."),
    "data": ("fabula.cli.data:data", "Turn a corpus into shards of ids, and look at them."),
    "model": ("fabula.cli.parts:model", "List presets, show a model's layers and prices."),
    "verify": ("fabula.cli.verify:verify", "Hash everything of a run, a checkpoint or shards and compare."),
    "doctor": ("fabula.cli.doctor:doctor", "What this machine and this installation can do."),
}


# Verbs that several processes do together.
_TOGETHER = ("run", "train", "resume")


def build_app() -> App:
    """The parser with all verbs."""
    app = App(
        name="fabula",
        help="From a folder of text to a small language model that is trained, measured and explained.",
        version=__version__,
        suppress_keyboard_interrupt=False,  # a second Ctrl-C is told below, with its exit code
        help_epilogue="A recipe's settings are given as --section.name VALUE, for example --train.budget 10m. "
        "`fabula run --help` lists them.",
    )
    for verb, (where, sentence) in _VERBS.items():
        app.command(where, name=verb, help=sentence)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    console.speak_utf8()
    code = _run(given, debug)
    if code and os.environ.get("RANK"):
        # An exchange with other processes that will never come may hang inside torch, which would wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(given: list[str], debug: bool) -> int:
    try:
        faults.arm(os.environ.get("FABULA_FAULTS", ""))
        if given and given[0] in _VERBS and given[0] not in _TOGETHER and Launch.read(os.environ) is not None:
            raise InputError(f"{given[0]} is done by one process: start it without torchrun")
        build_app()(overrides.gather(given), exit_on_error=False, print_error=False, result_action="return_value")
    except FabulaError as error:
        if debug:
            raise
        rank = os.environ.get("RANK", "0")
        if not error.told:
            say(f"fabula: {error}" if rank == "0" else f"fabula (rank {rank}): {error}")
        return error.exit_code
    except CycloptsError as error:
        if debug:
            raise
        say(f"fabula: {_plain(error)}")
        return 2
    except KeyboardInterrupt:
        if debug:
            raise
        say("fabula: interrupted")
        return 130
    except SystemExit:
        # rich, which draws the help, leaves like this when whoever read it has gone.
        return 0
    except BrokenPipeError:
        # Whoever read our output has gone (`fabula ... | head`): not an error, and nothing more can be printed.
        sys.stderr.close()
        return 0
    except MemoryError:
        if debug:
            raise
        say("fabula: out of memory; use a smaller model or batch (--train.batch_tokens, --train.micro_rows)")
        return 3
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            say(f"fabula: {error}; free some space or check the disk")
            return 3
        say(
            f"fabula: {type(error).__name__}: {error}\n"
            "This is a fault of fabula, not of your input; the same command with --debug shows where it happened."
        )
        return 1
    return 0


def _plain(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        word = error.unused_tokens[0]
        return f'"{word}" belongs to nothing: an option takes one value, quoted if it has spaces (see --help)'
    if '"--set"' in text or "option: --set" in text:
        return "this command takes no settings of a recipe (--section.name VALUE); see --help"
    return text if "--help" in text else f"{text} (see --help)"
