"""Damaged and hostile captures: every one is refused in a sentence, or accepted with numbers that can be used.

The captures are made by ``hostile_captures.py``, in processes of their own with little memory and time.
"""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from camera_formats import WRITERS

SCRIPT = Path(__file__).with_name("hostile_captures.py")
OTHER_FORMATS = Path(__file__).with_name("hostile_formats.py")
SOURCES = Path(__file__).parents[1] / "src"
RIGHT = ("refused", "noted", "accepted")


def campaign(first: int, last: int, script: Path = SCRIPT) -> list[list[object]]:
    """Load the captures of some seeds; a process that ends early is started again behind the seed at which it did."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_WAIT_POLICY": "PASSIVE"}
    results: list[list[object]] = []
    at = first
    while at < last:
        count = min(5000, last - at)
        done = subprocess.run(
            [sys.executable, str(script), str(at), str(count)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        results += [line for line in lines if isinstance(line[0], int)]
        at = int(str(results[-1][0])) + 1 if results else at
        if done.returncode not in (0, 3):
            results.append([at, "?", "?", "DIED", done.stderr[-300:], 0.0])
            at += 1
    return results


def report(results: list[list[object]]) -> str:
    """Tabulate how many captures of each mutation were refused, repaired with a note, or accepted."""
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for _, _, kind, outcome, *_ in results:
        table[str(kind)][str(outcome)] += 1
    rows = [f"{'mutation':24}" + "".join(f"{name:>10}" for name in (*RIGHT, "wrong"))]
    for kind, counts in sorted(table.items()):
        wrong = counts.total() - sum(counts[name] for name in RIGHT)
        rows.append(f"{kind:24}" + "".join(f"{count:10,}" for count in (*(counts[name] for name in RIGHT), wrong)))
    return "\n".join(rows)


def check(results: list[list[object]], wanted: int) -> None:
    print(report(results))
    assert [line for line in results if line[3] not in RIGHT] == []
    assert len(results) == wanted
    kinds = {str(line[2]).split()[0] for line in results}
    assert kinds >= {"JSON", "npz", "image", "another", "files", "names", "stray", "points", "option", "bin", "txt", "npy"}
    assert {line[3] for line in results} == set(RIGHT)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc")
def test_hostile_captures_are_refused_in_a_sentence_or_can_be_used() -> None:
    check(campaign(0, 150) + campaign(200_000, 200_250), 400)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc")
def test_damaged_files_of_other_formats_are_refused_in_a_sentence_or_can_be_used() -> None:
    check_other_formats(campaign(0, 200, OTHER_FORMATS), 200)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc")
def test_ten_thousand_damaged_files_of_other_formats() -> None:
    check_other_formats(campaign(1000, 11_000, OTHER_FORMATS), 10_000)


def check_other_formats(results: list[list[object]], wanted: int) -> None:
    print(report(results))
    assert [line for line in results if line[3] not in RIGHT] == []
    assert len(results) == wanted
    assert {line[3] for line in results} == set(RIGHT)
    assert {line[1] for line in results} == set(WRITERS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [103_448, 105_586, 154_305, 156_406])
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc")
def test_captures_that_were_wrong_once(seed: int) -> None:
    """A note with a line break, a path of 3,000 folders, a matrix at the edge of being singular, and a last row of 1e-39."""
    assert campaign(seed, seed + 1)[0][3] in RIGHT


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory with RLIMIT_AS and reads /proc")
def test_two_hundred_thousand_hostile_captures() -> None:
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(lambda first: campaign(first, first + 50_000), (100_000, 150_000, 200_000, 250_000)))
    check([line for part in parts for line in part], 200_000)
