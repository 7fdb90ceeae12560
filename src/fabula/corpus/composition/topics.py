"""What are the documents about? Clusters of TF-IDF vectors, named by the words that set them apart.

Words that four of five documents have, and function words, are left out. The vectors are reduced to 50 dimensions by
latent semantic analysis (Deerwester et al. 1990) and cut into clusters by k-means; k is the least of a few whose mean
silhouette (Rousseeuw 1987) is nearly the best. A cluster's name is the words whose mean weight in it is furthest above
their mean weight everywhere. A corpus of several languages is cut one by one, else the clusters would be the languages.

Everything runs on one thread from a fixed seed, so that the same documents give the same topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fabula.config import Data
from fabula.corpus.words import EMPTY_WORDS
from fabula.errors import require_extra

LEAST_DOCUMENTS = 8
_LEAST_LANGUAGE = 20
_LEAST_SHARE = 0.1
_SIZES = (3, 4, 6, 8, 10, 12, 16)
_PER_TOPIC = 4  # documents at least, on average
_WORDS = 8
_EXAMPLES = 2
_SHOWN = 140
_SEED = 0
_FEATURES = 20_000
_DIMENSIONS = 50
# Not less: the words of a topic that most documents are about stand in most documents.
_COMMON = 0.8
_SILHOUETTE = 2000  # documents that it is taken over
_NEARLY = 0.97


def topics(
    texts: Sequence[str], documents: Sequence[Sequence[str]], languages: Sequence[str], sizes: Sequence[int]
) -> list[Data]:
    """The topics of documents, the largest first; MachineError when scikit-learn is missing.

    `documents` are the words of the texts, `languages` their codes ("" where unknown), `sizes` their bytes. Of each
    topic: its words, language ("" in a corpus of one), share of documents and of bytes, the beginnings of two documents
    near its middle. [] when there are fewer than 8 documents, or when they have no words in common.
    """
    try:
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise require_extra("scikit-learn", "corpus", "finding topics") from None
    found: list[Data] = []
    whole = max(1, sum(sizes))
    with threadpool_limits(limits=1):
        for language, members in _groups(languages):
            for part in _clusters([documents[i] for i in members]):
                own = [members[i] for i in part["members"]]
                found.append(
                    {
                        "words": part["words"],
                        "language": language,
                        "documents": len(own),
                        "share": len(own) / len(texts),
                        "bytes_share": sum(sizes[i] for i in own) / whole,
                        "examples": [_beginning(texts[members[i]]) for i in part["nearest"]],
                    }
                )
    return sorted(found, key=lambda topic: (-topic["documents"], topic["words"]))


def _groups(languages: Sequence[str]) -> list[tuple[str, list[int]]]:
    """The documents of each language with enough of them; all together, without a name, where that is one language."""
    members: dict[str, list[int]] = {}
    for i, code in enumerate(languages):
        members.setdefault(code, []).append(i)
    large = {
        code: own
        for code, own in members.items()
        if len(own) >= max(_LEAST_LANGUAGE, _LEAST_SHARE * len(languages)) and code
    }
    if len(large) < 2:
        return [("", list(range(len(languages))))]
    return sorted(large.items())


def _clusters(documents: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import silhouette_score
    from sklearn.preprocessing import normalize

    n = len(documents)
    if n < LEAST_DOCUMENTS:
        return []
    vectorizer = TfidfVectorizer(
        analyzer=_content, min_df=2, max_df=_COMMON, max_features=_FEATURES, sublinear_tf=True, dtype=np.float32
    )
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError:
        return []  # no word stands in two documents and not in nearly all
    dimensions = min(_DIMENSIONS, n - 1, weights.shape[1] - 1)
    if dimensions < 2:
        return []
    # The vectors of documents without any of these words are zero and stay so.
    vectors = normalize(TruncatedSVD(dimensions, random_state=_SEED).fit_transform(weights).astype(np.float64))
    tried: list[tuple[float, Any]] = []
    for k in _SIZES:
        if k * _PER_TOPIC > n:
            break
        made = KMeans(k, n_init=4, random_state=_SEED).fit(vectors)
        if len(set(made.labels_.tolist())) < 2:
            continue
        chosen = None if n <= _SILHOUETTE else _SILHOUETTE
        score = float(silhouette_score(vectors, made.labels_, sample_size=chosen, random_state=_SEED))
        tried.append((score, made))
    if not tried:
        tried.append((0.0, KMeans(2, n_init=4, random_state=_SEED).fit(vectors)))
    enough = _NEARLY * max(score for score, _ in tried)
    best = next(made for score, made in tried if score >= enough)
    labels, centres = best.labels_, best.cluster_centers_
    names = vectorizer.get_feature_names_out()
    mean = np.asarray(weights.mean(axis=0)).ravel()
    found = []
    for label in sorted(set(labels.tolist())):
        members = np.flatnonzero(labels == label)
        above = np.asarray(weights[members].mean(axis=0)).ravel() - mean
        top = np.lexsort((np.arange(len(above)), -above))[:_WORDS]
        near = np.argsort(-(vectors[members] @ centres[label]), kind="stable")[:_EXAMPLES]
        found.append(
            {
                "words": [str(names[i]) for i in top if above[i] > 0],
                "members": members.tolist(),
                "nearest": [int(members[i]) for i in near],
            }
        )
    return found


def _content(words: Sequence[str]) -> list[str]:
    """The words that may say what a text is about, without the English genitive."""
    bare = (word.removesuffix("'s").removesuffix("’s") for word in words)
    return [word for word in bare if len(word) > 2 and not word[0].isdigit() and word not in EMPTY_WORDS]


def _beginning(text: str) -> str:
    line = " ".join(text[: 4 * _SHOWN].split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1].rsplit(" ", 1)[0] + " …"
