"""The fault table: for each row what goes wrong and what must happen. Tests name their row; the page prints it."""

from __future__ import annotations

ROWS: dict[str, tuple[str, str]] = {
    # ---- data
    "D1": (
        "records that are not UTF-8, broken JSON, lone surrogates, a missing or foreign text field",
        "quarantined with file, line, byte and reason; the good ones tokenize as if the bad ones were not there",
    ),
    "D2": ("byte-order marks, UTF-16", "the mark is no text; UTF-16 is an error that names it"),
    "D3": ("CRLF, lone CR, U+2028 inside a text", "lines end at LF only; every text survives"),
    "D4": ("a gigantic line or document", "bounded memory, set aside, the rest is complete"),
    "D5": ("empty files, empty documents, too little text", "counted, or an error that says how much is needed"),
    "D6": ("vocabularies around 65,536", "no id is ever wrapped"),
    "D7": ("shards of another tokenizer, a patched id", "refused before the first step; named with shard and place"),
    "D8": ("shards cut, extended, zeroed, flipped", "sizes at every open, SHA-256 by `verify` and on first use"),
    "D10": ("kill -9 of the tokenizing process or its workers", "what is finished is kept; the result is the same"),
    "D11": ("1, 2 or 4 workers, files listed in another order", "byte-identical shards"),
    "D12": ("exact and edited copies over the cut into splits", "no exact copy left, 95 % of edited ones found"),
    # ---- tokenizer
    "T1": ("training on nothing, one letter, binary", "a clear error, or a smaller vocabulary and a notice"),
    "T2": ("any text, any ids", "decode(encode(x)) is x; ids decode to their bytes"),
    "T3": ("damaged and hostile tokenizer files", "a clear error, the process lives"),
    "T4": ("one long piece without a break", "time stays in proportion"),
    "T5": ("control tokens written into text", "never a control id"),
    "T6": ("1, 2 or 4 threads", "the same tokenizer file"),
    # ---- training
    "R1": (
        "NaN or infinity in loss, gradient or weights",
        "not applied, noted, never saved; three stop the run",
    ),
    "R2": ("a loss spike", "skipped if asked for, and no lock-out afterwards"),
    "R3": ("rows without a prediction", "they count nothing; no NaN"),
    "R4": ("out of memory", "fewer rows at once, the same step; at one row an error with the numbers"),
    "R5": ("the loader is stuck or fails", "noticed in ten seconds, no row lost or repeated"),
    "R6": ("SIGINT, SIGTERM, SIGUSR1 in every phase", "saved, exit 130 or 143, resumes bit-identical"),
    "R7": ("kill -9 of a training process at random moments", "resumes; final weights are bit-identical"),
    "R8": ("stopped and resumed in every pattern", "weights, optimizer, generators, samples and metrics are equal"),
    "R9": ("changed settings on resume", "refused with what differs"),
    "R10": ("two processes on one run", "the second stops at once, naming the first; a killed holder frees it"),
    # ---- checkpoint
    "C1": ("death at every point and every system call of a save", "the newest complete one loads, bit-exact"),
    "C2": ("power loss: unsynced bytes lost or torn, names reordered", "what was called saved is there"),
    "C3": ("disk full, input/output errors, no permission at every call", "the older checkpoint loads; exit 3"),
    "C4": ("the newest checkpoint is damaged", "found; the one before is used, loudly"),
    "C5": ("retention among bad checkpoints", "a good one is always left"),
    "C6": ("hostile files in a checkpoint", "nothing is run, nothing crashes"),
    "C7": ("missing, extra or misshapen tensors", "an error that lists them"),
    # ---- server
    "S1": ("malformed JSON, NaN, 1e999, wrong types, unknown and doubled keys", "400 in OpenAI's form, never 500"),
    "S2": ("large bodies and heads, deep nesting, slow and idle clients", "refused or cut off; memory stays flat"),
    "S3": ("settings out of range", "400 with the limit; temperature 0 is greedy"),
    "S4": ("prompts at and beyond the context", "400 with both numbers, never shortened; lengths are exact"),
    "S5": ("ten times as many requests as there is room for", "refused at once with Retry-After; the others complete"),
    "S6": ("clients that leave at any moment, streaming or not", "their texts end, nothing is left of them"),
    "S7": ("readers that take nothing", "a bounded buffer, dropped in the end; the others go on"),
    "S8": ("many requests with different settings at once", "each is what it is alone, token by token"),
    "S9": ("characters and stop sequences over several tokens", "no wrong character, no leaked or missed stop"),
    "S10": ("NaN in logits, an exception in one request or in a step", "that request fails, the others go on"),
    "S11": ("SIGTERM under load", "new requests get 503, streams finish or are told, exit 0"),
    "S12": ("no token or a wrong one, on every route", "401 everywhere but health and static files"),
    "S13": ("other web pages, DNS rebinding", "refused; no CORS header is ever sent"),
    "S14": ("paths in names, templates in requests", "names are looked up in a table; templates are refused"),
    "S15": ("markup in texts and names", "nothing that is answered can be run by a browser"),
    "S16": ("long use, with clients that leave", "memory and descriptors do not grow"),
    # ---- command line
    "U1": ("unknown keys, wrong types, contradictions, NaN", "all problems at once, exit 2, nothing is made"),
    "U2": ("hostile recipe files", "refused at once"),
    "U3": ("too little disk or memory", "said before the run; the estimate is near what is used"),
    "U4": ("Ctrl-C, closed pipes, odd locales and paths", "no traceback, the right exit code"),
    "U5": ("terminal escapes and markup in texts", "shown, never sent"),
    # ---- security
    "X1": ("pickle from a file", "not in the code; an audit of the whole test suite sees none"),
    "X2": ("code in a model's or a text's folder", "never run"),
    "X3": ("unasked use of the network", "an audit of the whole test suite sees none"),
}
