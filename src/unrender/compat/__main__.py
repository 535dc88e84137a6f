"""Run a program written for nvdiffrast, tiny-cuda-nn or nerfacc, unchanged: ``python -m unrender.compat PROGRAM.py ARGUMENTS``.

On a machine without CUDA, what it puts on a GPU stays on the CPU. Processes that it starts run in the same way.
"""

from __future__ import annotations

import os
import sys

from unrender.compat import install, pass_to_children, runner

USAGE = """\
usage: python -m unrender.compat [--strict] [--no-cuda] PROGRAM.py [ARGUMENTS]
       python -m unrender.compat [--strict] [--no-cuda] -m MODULE [ARGUMENTS]
       python -m unrender.compat [--strict] [--no-cuda] -c CODE [ARGUMENTS]

Run a program written for nvdiffrast, tiny-cuda-nn or nerfacc and a GPU, unchanged, on this machine.

  --strict   refuse what nvdiffrast refuses: other types than float32, mip levels of odd sides
  --no-cuda  let torch.cuda.is_available() be False, for programs that have their own way without a GPU
"""


def main() -> int:
    arguments = sys.argv[1:]
    options = []
    while arguments and arguments[0] in ("--strict", "--no-cuda"):
        options.append(arguments.pop(0).removeprefix("--"))
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    takes_value = bool(arguments) and arguments[0] in ("-m", "-c")
    if not arguments or (arguments[0].startswith("-") and arguments[0] != "-" and not takes_value) or (takes_value and len(arguments) < 2):
        print(USAGE, end="", file=sys.stderr)
        return 2
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch reads it on import; threads that spin slow down all others
    pass_to_children(*options)
    install(replace=True, cuda_on_cpu=True)
    if arguments[0] == "-m":
        runner.run_module(arguments[1], arguments[2:])
    elif arguments[0] == "-c":
        runner.run_command(arguments[1], arguments[2:])
    elif arguments[0] == "-":
        runner.run_stdin(arguments[1:])
    else:
        runner.run_file(arguments[0], arguments[1:])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
