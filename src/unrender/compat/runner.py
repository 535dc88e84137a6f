"""Running of a program as Python runs it: its arguments, path, main module, exit code and tracebacks are the same."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any

_OWN_FILES = (__file__, os.path.join(os.path.dirname(__file__), "__main__.py"))


def new_main_module() -> ModuleType:
    """Put a new module ``__main__`` in the place of this package's, and return it."""
    module = ModuleType("__main__")
    vars(module).update(__builtins__=builtins, __package__=None, __annotations__={}, __loader__=BuiltinImporter)
    sys.modules["__main__"] = module
    return module


def run_command(code: str, arguments: Sequence[str]) -> None:
    """Run ``python -c code arguments``."""
    sys.argv[:] = ["-c", *arguments]
    _set_first_path("")
    _run(code, "<string>", new_main_module())


def run_stdin(arguments: Sequence[str]) -> None:
    """Run ``python - arguments``, a program on standard input."""
    sys.argv[:] = ["-", *arguments]
    _set_first_path("")
    module = new_main_module()
    vars(module).update(__file__="<stdin>", __cached__=None)
    _run(sys.stdin.read(), "<stdin>", module)


def run_module(name: str, arguments: Sequence[str]) -> None:
    """Run ``python -m name arguments``. The folder that Python puts first on the path for ``-m`` is there already."""
    sys.argv[:] = ["-m", *arguments]
    new_main_module()
    _guard(lambda: runpy._run_module_as_main(name))  # pyright: ignore[reportAttributeAccessIssue]


def run_file(path: str, arguments: Sequence[str]) -> None:
    """Run ``python path arguments``: a file, or a folder or zip file with a ``__main__.py``."""
    sys.argv[:] = [path, *arguments]
    full = os.path.join(os.getcwd(), path)  # as Python does it: "./program.py" keeps its dot
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        _set_first_path(full, insert=True)
        new_main_module()
        _guard(lambda: runpy._run_module_as_main("__main__", alter_argv=False))  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        with io.open_code(full) as file:
            source = file.read()
    except OSError as error:
        print(f"{sys.executable}: can't open file {full!r}: [Errno {error.errno}] {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    module = new_main_module()
    vars(module).update(__file__=full, __cached__=None, __loader__=SourceFileLoader("__main__", full))
    _run(source, full, module)


def _set_first_path(path: str, *, insert: bool = False) -> None:
    """Replace the current folder, which ``python -m`` put first on the path; in safe-path mode it put nothing there."""
    if getattr(sys.flags, "safe_path", False):
        if insert:
            sys.path.insert(0, path)
    else:
        sys.path[0] = path


def _run(source: str | bytes, filename: str, module: ModuleType) -> None:
    def run() -> None:
        code: CodeType = compile(source, filename, "exec", dont_inherit=True)
        exec(code, vars(module))

    _guard(run)


def _guard(run: Any) -> None:
    """Call ``run()``, and print what it raises without the frames of this file.

    Python then ends as it does after any uncaught exception.
    """
    try:
        run()
    except SystemExit:
        raise
    except BaseException as error:
        error.__traceback__ = _without_own_frames(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        sys.excepthook = lambda *exception: None
        raise


def _without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename in _OWN_FILES:
        traceback = traceback.tb_next
    return traceback
