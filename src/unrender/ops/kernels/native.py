"""C++ bodies of kernels, kept in header files beside the modules that use them.

A header is cut into sections by lines ``// section: NAME``; what stands above the first one is a comment for readers. Inside a section a
line ``// use: NAME`` stands for the text of another section, so that shared fragments are written once and their place can be seen.
:func:`native_sections` returns the finished text of each section, as :func:`warp.func_native` takes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_SECTION = re.compile(r"^// section: (\w+)\n", re.MULTILINE)
_USE = re.compile(r"^[ \t]*// use: (\w+)\n", re.MULTILINE)


def native_sections(module_file: str, header: str) -> Mapping[str, str]:
    """Read the C++ sections of a header, with every ``// use:`` line replaced by the section it names.

    Args:
        module_file: ``__file__`` of the calling module.
        header: file name of the header beside it.

    Returns:
        The text of each section by its name.

    Raises:
        ValueError: when a name is defined twice, unknown, or uses itself.
    """
    parts = _SECTION.split(Path(module_file).with_name(header).read_text(encoding="utf-8"))
    names, bodies = parts[1::2], parts[2::2]
    if len(set(names)) < len(names):
        raise ValueError(f"{header} defines a section twice: {sorted(name for name in set(names) if names.count(name) > 1)}")
    written = dict(zip(names, bodies, strict=True))

    def expand(name: str, trail: tuple[str, ...]) -> str:
        if name not in written or name in trail:
            reason = "uses itself" if name in trail else "is not defined"
            raise ValueError(f"{header}: the section {name} {reason} ({' -> '.join((*trail, name))})")
        return _USE.sub(lambda found: expand(found[1], (*trail, name)), written[name])

    return MappingProxyType({name: "\n" + expand(name, ()) for name in names})
