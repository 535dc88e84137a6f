"""``python -m unrender.compat PROGRAM.py ARGUMENTS``: runs a program written for nvdiffrast, as it is.

On a machine without CUDA, what the program wants to have on a GPU is on the CPU.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
from pathlib import Path

from unrender.compat import install


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print("usage: python -m unrender.compat PROGRAM.py [ARGUMENTS]", file=sys.stderr)
        return 2
    program = Path(sys.argv[1])
    if not program.is_file():
        print(f"there is no program {program}", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when PyTorch is loaded; waiting by spinning takes busy cores from the others
    import torch

    from unrender.compat.devices import EverythingOnCpu

    install()
    sys.argv = sys.argv[1:]
    sys.path[0] = str(program.resolve().parent)
    with contextlib.nullcontext() if torch.cuda.is_available() else EverythingOnCpu():
        runpy.run_path(str(program), run_name="__main__")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
