"""The only room that writes artefacts.

A file is written under a temporary name, flushed to the disk, and renamed to its final name; the folder that holds the
name is flushed too. A folder (checkpoint, shards, tokenizer) is built under a temporary name with a manifest of sizes
and SHA-256, and appears under its final name in one rename: complete or absent, never half. What it costs: one fsync a
file (milliseconds here). What processes that died left behind is removed by `sweep`.
"""

from fabula.storage.disk import free_bytes, make_folders, require_space
from fabula.storage.files import (
    append_json_line,
    append_line,
    cut_json_lines,
    hash_data,
    hash_file,
    last_json_lines,
    open_replacing,
    read_json,
    read_json_lines,
    replacing,
    sync,
    write_bytes,
    write_json,
    write_json_lines,
    write_text,
)
from fabula.storage.folders import ACCOUNT, Unfinished, publish, publish_in_lives, remove, seal, set_aside, share, sweep
from fabula.storage.lock import LOCK, Holder, check_held, holder, lock, refuse_if_held
from fabula.storage.verification import MANIFEST, Known, examine, verify

__all__ = [
    "ACCOUNT",
    "LOCK",
    "MANIFEST",
    "Holder",
    "Known",
    "Unfinished",
    "append_json_line",
    "append_line",
    "check_held",
    "cut_json_lines",
    "examine",
    "free_bytes",
    "hash_data",
    "hash_file",
    "holder",
    "last_json_lines",
    "lock",
    "make_folders",
    "open_replacing",
    "publish",
    "publish_in_lives",
    "read_json",
    "read_json_lines",
    "refuse_if_held",
    "remove",
    "replacing",
    "require_space",
    "seal",
    "set_aside",
    "share",
    "sweep",
    "sync",
    "verify",
    "write_bytes",
    "write_json",
    "write_json_lines",
    "write_text",
]
