"""Standard output and standard error: code pages that lack characters, and results as JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def replace_unknown_characters() -> None:
    """Replace characters that the code page of a terminal or pipe lacks, instead of failing at them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_error(sentence: str) -> None:
    """Print one line to standard error, unless nobody listens."""
    try:
        print(f"unrender: error: {sentence}", file=sys.stderr, flush=True)
    except (OSError, ValueError):  # a closed pipe
        pass


def print_json(results: Mapping[str, Any]) -> None:
    """Print results as one JSON object in ASCII, so that every code page can hold it."""
    print(json.dumps(results, indent=2, allow_nan=False), flush=True)


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    """Exit code."""
    results: Mapping[str, Any] = field(default_factory=dict)
    """What ``--json`` prints."""
