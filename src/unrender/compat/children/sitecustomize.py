"""Starts the compatibility layer in the child processes of a program run by ``python -m unrender.compat``.

Python imports a module ``sitecustomize`` when it starts, before the program. This one prepares the imports of nvdiffrast and PyTorch,
imports neither, and then runs the ``sitecustomize`` that it hides. Interpreters without ``unrender`` start unchanged.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys


def _start() -> None:
    if not os.environ.get("UNRENDER_COMPAT"):
        return
    try:
        from unrender.compat import install
    except ImportError:  # another interpreter, into which unrender is not installed
        return
    install(replace=True, cuda_on_cpu=True)


def _run_hidden() -> None:
    """Import the ``sitecustomize`` of the system, and leave ``sys.path`` as it is without this folder."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    _start()
    _run_hidden()
