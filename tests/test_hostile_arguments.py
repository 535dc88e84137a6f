"""No call with wrong arguments kills the process, touches memory of others, or is refused in another library's words."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from hostile_calls import guarded_memory
from hostile_world import generator_of, parameters_of, public_callables

HERE = Path(__file__).parent
PATIENCE = 180
"""Seconds without a new call after which a worker counts as hanging; a kernel that is compiled takes tens of seconds."""

Outcome = tuple[int, str, str]
"""Number of the call, function, and what happened."""


def environment() -> dict[str, str]:
    """Freed memory is overwritten, so that a read of it is noticed."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": paths, "MALLOC_PERTURB_": "165", "OMP_WAIT_POLICY": "PASSIVE"}


def make_calls(seed: int, calls: int, folder: Path) -> list[Outcome]:
    """Make calls 0 to ``calls`` in workers, and begin a new one behind each call that ends its process."""
    journal, errors = folder / "journal", folder / "errors"
    journal.touch()
    outcomes: list[Outcome] = []
    first = failures = 0
    while first < calls:
        command = [sys.executable, str(HERE / "hostile_calls.py"), str(seed), str(first), str(calls), str(journal)]
        with errors.open("wb") as stderr:
            worker = subprocess.Popen(command, env=environment(), stderr=stderr)
            size, since = 0, time.monotonic()
            while worker.poll() is None:
                time.sleep(0.05)
                if journal.stat().st_size != size:
                    size, since = journal.stat().st_size, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    worker.kill()
        unfinished = not journal.read_bytes().endswith(b"\n")
        if worker.returncode != 0 and not unfinished:
            failures += 1
            if failures < 3:  # the machine may have been out of memory, or too busy to load the package
                continue
            pytest.fail(f"the worker ended with {worker.returncode} between two calls:\n{errors.read_text(encoding='utf-8')[-3000:]}")
        if unfinished:
            with journal.open("a", encoding="utf-8") as file:
                file.write(f"KILLED by {worker.returncode}\n")
        lines = [line.split("\t") for line in journal.read_text(encoding="utf-8").splitlines()]
        outcomes = [(int(number), name, outcome) for number, name, outcome in lines]
        first = outcomes[-1][0] + 1
    return outcomes


def check(outcomes: list[Outcome], seed: int) -> None:
    table = Counter(outcome.split(" ")[0] for _, _, outcome in outcomes)
    print(f"{len(outcomes)} calls of {len(public_callables())} functions: {dict(table)}")
    wrong = [
        f"seed {seed}, call {number}: {name}: {outcome}" for number, name, outcome in outcomes if outcome not in ("accepted", "refused")
    ]
    assert not wrong, "\n".join(wrong)
    assert min(table["accepted"], table["refused"]) > len(outcomes) // 5, table


def test_every_parameter_of_a_public_function_has_a_generator() -> None:
    assert len(public_callables()) > 50
    for name, function in public_callables().items():
        for parameter in parameters_of(function):
            try:
                generator_of(name, parameter)
            except KeyError:
                pytest.fail(f"give hostile_world.py a value for {parameter!r} of {name}")


def test_guards_notice_a_write_beyond_a_tensor_and_fill_what_nobody_has_written() -> None:
    for pattern in (0x00, 0xFF):
        with guarded_memory(pattern) as guards:
            made, uninitialized = torch.ones(5), torch.empty(5)
        assert guards.are_whole() and made.tolist() == [1.0] * 5
        assert ctypes.string_at(uninitialized.data_ptr(), 20) == bytes([pattern]) * 20
        for place in (made.data_ptr() + 20, made.data_ptr() - 1):
            assert ctypes.string_at(place, 1) == bytes([pattern])
            ctypes.memset(place, 0x5A, 1)
            assert not guards.are_whole()
            ctypes.memset(place, pattern, 1)


@pytest.mark.cpu
def test_hundreds_of_hostile_calls_are_accepted_or_refused(tmp_path: Path) -> None:
    check(make_calls(0, 250, tmp_path), 0)


@pytest.mark.cpu
@pytest.mark.slow
def test_thousands_of_hostile_calls_are_accepted_or_refused(tmp_path: Path) -> None:
    seed, calls = (int(os.environ.get(f"UNRENDER_FUZZ_{name}", default)) for name, default in (("SEED", "1"), ("CALLS", "20000")))
    check(make_calls(seed, calls, tmp_path), seed)
