"""C++ bodies of kernels, kept in header files beside the modules that use them.

Lines ``// section: NAME`` cut a header into sections; above the first one is a comment for readers. Inside a section a line
``// use: OTHER`` is replaced by the text of another section, so shared fragments are written once.
``// use: OTHER with A=1 B=k`` defines the macros ``A`` and ``B`` (no spaces in their values) around that text and undefines them after it.
``// use: kernels.OTHER`` uses a section of ``ops/kernels/shared.h``, which several families of kernels share.
:func:`native_sections` returns the expanded text of each section, for :func:`warp.func_native`.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

_SECTION = re.compile(r"^// section: (\w+)\n", re.MULTILINE)
_USE = re.compile(r"^[ \t]*// use: ([\w.]+)((?: with(?: \w+=\S+)+)?)\n", re.MULTILINE)
_ANY_USE = re.compile(r"^[ \t]*// use:.*\n?", re.MULTILINE)
_SHARED = Path(__file__).with_name("shared.h")


def native_sections(module_file: str, header: str) -> SimpleNamespace:
    """Read the C++ sections of a header, with every ``// use:`` line replaced by the section it names.

    Args:
        module_file: ``__file__`` of the calling module.
        header: file name of the header beside it.

    Returns:
        The text of each section as an attribute of its name.

    Raises:
        ValueError: when a name is defined twice, unknown, or uses itself, or a ``// use:`` line is malformed.
    """
    own = _read(Path(module_file).with_name(header))
    written = {f"kernels.{name}": body for name, body in _read(_SHARED).items()} | own

    def expand(name: str, trail: tuple[str, ...]) -> str:
        if name not in written or name in trail:
            reason = "uses itself" if name in trail else "is not defined"
            raise ValueError(f"{header}: the section {name} {reason} ({' -> '.join((*trail, name))})")
        return _USE.sub(lambda use: _with_macros(expand(use[1], (*trail, name)), use[2]), written[name])

    sections = {name: "\n" + expand(name, ()) for name in own}
    for name, text in sections.items():
        malformed = _ANY_USE.search(text)
        if malformed:
            raise ValueError(f"{header}: the section {name} has a line that cannot be read: {malformed[0].strip()}")
    return SimpleNamespace(**sections)


def _read(path: Path) -> dict[str, str]:
    """Return the text of each section of a header as it is written there."""
    parts = _SECTION.split(path.read_text(encoding="utf-8"))
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) < len(names):
        raise ValueError(f"{path.name} defines a section twice: {sorted(name for name in set(names) if names.count(name) > 1)}")
    return dict(zip(names, bodies, strict=True))


def _with_macros(text: str, clause: str) -> str:
    """Wrap a text in the macros that `` with A=1 B=k`` asks for."""
    macros = [definition.partition("=") for definition in clause.split()[1:]]
    define = "".join(f"#define {name} {value}\n" for name, _, value in macros)
    forget = "".join(f"#undef {name}\n" for name, _, _ in macros)
    return define + text + forget
