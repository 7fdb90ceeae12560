"""How fast is the generator of fables? Documents a second of one core, for each language.

python benchmarks/fables.py
"""

from __future__ import annotations

import time

from fabula.corpus.fables import LANGUAGES, Fables


def main() -> None:
    count = 10_000
    for language in LANGUAGES:
        fables = Fables(language, seed=0)
        fables[0]
        started = time.process_time()
        size = sum(len(fable.text.encode("utf-8")) for fable in fables.take(count))
        seconds = time.process_time() - started
        print(f"{language}: {count / seconds:,.0f} documents/s, {size / seconds / 1e6:.1f} MB/s of processor time")


if __name__ == "__main__":
    main()
