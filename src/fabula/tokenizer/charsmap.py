"""Is a table of characters of SentencePiece's ("Precompiled") sound? Its reader in Rust trusts every number in it.

The table is a double-array trie over UTF-8 bytes and a text of replacements, each ended by a zero byte: four bytes with
the trie's size, the trie (units of 32 bits), the replacements. Every unit that a text can reach is looked at here, so
that no text can lead the reader out of the table.
"""

from __future__ import annotations

import base64
import binascii

_MAX_BYTES = 4 << 20


def problem(encoded: object) -> str | None:
    """What is wrong with a `precompiled_charsmap` (base64); None when it is sound."""
    import numpy as np

    if not isinstance(encoded, str) or len(encoded) > _MAX_BYTES * 4 // 3:
        return "precompiled_charsmap is not a table of characters"
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return "precompiled_charsmap is not base64"
    size = int.from_bytes(raw[:4], "little") if len(raw) >= 4 else 0
    if size < 4 or size % 4 or 4 + size > len(raw):
        return "precompiled_charsmap is cut off"
    units = np.frombuffer(raw, dtype="<u4", offset=4, count=size // 4).astype(np.int64)
    try:
        replacements = raw[4 + size :].decode("utf-8")
    except UnicodeDecodeError:
        return "precompiled_charsmap holds text that is not UTF-8"
    starts = _starts(replacements)
    seen = np.zeros(len(units), dtype=bool)
    frontier = np.array([0], dtype=np.int64)
    labels = np.arange(1, 256, dtype=np.int64)
    while frontier.size:
        seen[frontier] = True
        unit = units[frontier]
        base = frontier ^ ((unit >> 10) << ((unit & 0x200) >> 6))
        leaves = base[(unit >> 8) & 1 == 1]
        if leaves.size:
            if leaves.max() >= len(units):
                return "precompiled_charsmap leads out of its trie"
            values = units[leaves] & 0x7FFFFFFF
            if not starts.issuperset(values.tolist()):
                return "precompiled_charsmap leads out of its replacements"
        following = (base[:, None] ^ labels).ravel()
        # The reader looks at the label of a unit before it goes on, so every one of these has to be there.
        if following.max() >= len(units):
            return "precompiled_charsmap leads out of its trie"
        wanted = np.broadcast_to(labels, (len(base), 255)).ravel()
        there = following[(units[following] & 0x800000FF) == wanted]
        frontier = np.unique(there[~seen[there]])
    return None


def _starts(replacements: str) -> set[int]:
    """The places, in bytes, at which a replacement begins that is ended by a zero byte."""
    starts, place = set(), 0
    for part in replacements.split("\0")[:-1]:
        starts.add(place)
        place += len(part.encode("utf-8")) + 1
    return starts
