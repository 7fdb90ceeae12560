"""Which two tokens does each token of a BPE come from, and may an encoder find them by their bytes alone?

A merge joins two neighbours that it names. tiktoken joins any two neighbours whose bytes together are a token, the
lowest rank (= id) first. Both give the same ids of every text if every token is made by one merge, ids grow with the
merges, and each merge (P, Q) names the very parts into which all the merges before it cut the bytes of PQ when these
stand alone (`stands`). Why:

1. The merges are applied one after the other, each from left to right wherever its pair stands. So if a stretch of text
   has an edge on its left and on its right that no merge so far has crossed, the merges have done inside it what they
   do to the stretch alone. (In a run of one token the pairs are counted from the left. Were the run to reach over the
   left edge by an odd number, or be left over by one at the right, a merge would have crossed the edge.)
2. Take two neighbours whose bytes together are the token s, when the merges before that of s have been applied. By 1
   they are the parts of s alone, which are (P, Q). There is no second way to s, so finding s by its bytes and finding
   the pair (P, Q) are the same; and after the merge of s, two neighbours never make s again.

What a trainer learns is always like this: it saw (P, Q) as the parts of s in a text. Therefore the list of merges that
it wrote is all that `tokenizers` needs to give tiktoken's ids, and a token has no second split that could tie with it.
A file from elsewhere is looked at, merge by merge, before an encoder is trusted with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Pair = tuple[int, int]


def stands(left: int, right: int, parts: Mapping[int, Pair], made: Mapping[Pair, int]) -> bool:
    """Whether the cut between two tokens stays when the merges that there are go over the bytes of both.

    So the ids of two texts, the first ending and the second beginning with these tokens, are those of the whole.
    `parts` has the two tokens behind each token that was merged, `made` is the same the other way round; the number of
    a token is its rank. Time runs backwards here: the token beside the cut that was made last falls into its parts.
    """
    end, closed = 1 << 62, False  # a merge over the cut counts up to this rank, which itself counts only if `closed`
    while True:
        merged = made.get((left, right))
        if merged is not None and (merged < end or (closed and merged == end)):
            return False
        if left > right and left in parts:
            # x x | x: counted from the left, the merge that made the left token came first.
            end, closed, left = left, False, parts[left][1]
        elif right in parts:
            # x | x x: here the first two are joined, over the cut.
            end, closed, right = right, True, parts[right][0]
        elif left in parts:
            end, closed, left = left, False, parts[left][1]
        else:
            return True


def pairs_of(tokens: Sequence[bytes], first: int) -> list[Pair]:
    """The merges by which a trainer came to `tokens[first:]`; the number of a token is its place in the list.

    ValueError when a token is not made of two before it.
    """
    number = {token: place for place, token in enumerate(tokens[:first])}
    find = number.get
    parts: dict[int, Pair] = {}
    made: dict[Pair, int] = {}
    for place, token in enumerate(tokens[first:], first):
        # Most right parts are short.
        for cut in range(len(token) - 1, 0, -1):
            left = find(token[:cut])
            if left is None:
                continue
            right = find(token[cut:])
            if right is not None and stands(left, right, parts, made):
                parts[place] = pair = left, right
                made[pair] = number[token] = place
                break
        else:
            raise ValueError(f"token {place} ({token!r}) is not made of two tokens before it")
    return list(parts.values())


def by_bytes(pairs: Sequence[Pair], numbers: Sequence[int]) -> tuple[dict[int, Pair], dict[Pair, int]] | None:
    """`parts` and `made` of merges that an encoder may find by bytes, None of others.

    `pairs[i]` are the numbers of the two tokens that are merged into `numbers[i]`.
    """
    parts: dict[int, Pair] = {}
    made: dict[Pair, int] = {}
    before = -1
    for pair, number in zip(pairs, numbers, strict=True):
        # Numbers that grow, and parts below what is made of them: so every token is made once, after its parts.
        if number <= before or max(pair) >= number or not stands(*pair, parts, made):
            return None
        parts[number], made[pair], before = pair, number, number
    return parts, made
