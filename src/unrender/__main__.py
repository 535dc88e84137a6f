"""``python -m unrender``: the same as the command ``unrender``."""

from __future__ import annotations

from unrender.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
