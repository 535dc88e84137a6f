"""Run a program written for nvdiffrast, unchanged: ``python -m unrender.compat PROGRAM.py ARGUMENTS``.

On a machine without CUDA, the tensors that it puts on a GPU stay on the CPU.
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
        print(f"{program} does not exist", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch reads it on import; threads that spin slow down all others
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
