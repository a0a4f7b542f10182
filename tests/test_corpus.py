"""The corpus is invented: no quote of it may be a real sentence, or most of one."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from models.text import words

ROOT = Path(__file__).parent.parent
REAL = ROOT.parent / "shared" / "data" / "real"
RUN = 5


def runs(text: str) -> set[tuple[str, ...]]:
    own = words(text)
    return {tuple(own[start : start + RUN]) for start in range(len(own) - RUN + 1)}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"there are no real sentences at {REAL} to compare with")
def test_no_quote_shares_its_words_with_a_real_sentence() -> None:
    """Half of a quote and five runs from one real sentence would be a copy; a stock phrase is shorter."""
    homes = defaultdict(set)
    for path in sorted(REAL.glob("*.jsonl")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            for run in runs(json.loads(line)["text"]):
                homes[run].add(f"{path.name}:{number}")
    copies = []
    for path in sorted((ROOT / "training" / "corpus").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            own = runs(row["text"])
            shared: dict[str, int] = defaultdict(int)
            for run in own:
                for home in homes.get(run, ()):
                    shared[home] += 1
            copies += [(row["id"], home) for home, count in shared.items() if count >= 5 and count >= len(own) / 2]
    assert copies == []
