"""Arguments of kernels as bytes, and structs that bundle some of them: a batch of samples, a grid, a view.

A kernel on a CPU takes its arguments as one C struct. What changes from launch to launch are addresses and numbers, so they are packed by
Python's ``struct``, which takes microseconds where the checks and conversions of Warp take tens of them.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from functools import cache
from typing import Any

import warp as wp
from torch import Tensor

from unrender.ops.kernels.checks import MOST_ELEMENTS


def packer(fields: Sequence[tuple[int, Any]], size: int) -> struct.Struct:
    """Return what packs a C struct: numbers as they are, everything else as bytes.

    Args:
        fields: offset and ctypes type of each field, in order.
        size: of the struct.
    """
    text, reached = "", 0
    for offset, kind in fields:
        length = ctypes.sizeof(kind)
        code = getattr(kind, "_type_", None)
        text += f"{offset - reached}x{code if isinstance(code, str) else f'{length}s'}"
        reached = offset + length
    return struct.Struct(f"@{text}{size - reached}x")


class _OneArray:
    """A struct that shows how Warp describes an array."""

    array: wp.array(dtype=wp.float32)  # pyright: ignore[reportInvalidTypeForm]


_ARRAY_TYPE: Any = next(kind for _, kind, *_ in wp.struct(_OneArray).ctype._fields_)
_ROW = _ARRAY_TYPE.shape.size
_ROWS = tuple(struct.Struct(f"{dimensions}i{_ROW - 4 * dimensions}x") for dimensions in range(_ROW // 4 + 1))
"""What packs shape or strides of an array, by the number of its dimensions."""
_ARRAY = packer([(getattr(_ARRAY_TYPE, name).offset, kind) for name, kind in _ARRAY_TYPE._fields_], ctypes.sizeof(_ARRAY_TYPE))


def packed(value: Any) -> Any:
    """Return an argument or a field of a struct for packing: numbers as they are, others as bytes.

    The bytes of a tensor are Warp's description of it: its address, shape and strides. They do not keep it alive.

    Raises:
        ValueError: the strides of a tensor, in bytes, exceed int32, in which Warp describes them.
    """
    if isinstance(value, Tensor):
        size, dimensions = value.element_size(), value.ndim
        row = _ROWS[dimensions]
        try:
            shape, strides = row.pack(*value.shape), row.pack(*[size * step for step in value.stride()])
        except struct.error:
            found = f"shape {tuple(value.shape)} and strides {value.stride()} of {value.dtype}"
            raise ValueError(f"a kernel takes tensors whose rows are less than 2^31 bytes apart, got {found}: split the call") from None
        return _ARRAY.pack(value.data_ptr(), 0, shape, strides, dimensions, 0)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Filled):
        return value.packed
    return bytes(value if isinstance(value, ctypes.Array) else value.__ctype__())  # a vector, else an array or a struct of Warp


class _Layout:
    """The fields of a struct."""

    def __init__(self, kind: Any) -> None:
        self.key = kind.key
        self.fields = [(name, variable.type) for name, variable in kind.vars.items()]
        types = [(getattr(kind.ctype, name).offset, field) for name, field in kind.ctype._fields_]
        assert [name for name, _ in self.fields] == [name for name, _ in kind.ctype._fields_]
        self.pack = packer(types, ctypes.sizeof(kind.ctype)).pack

    def packed(self, values: dict[str, Any]) -> bytes:
        """Return the struct with these values."""
        if len(values) != len(self.fields):
            raise TypeError(f"{self.key} takes {', '.join(name for name, _ in self.fields)}, got {', '.join(values)}")
        parts = []
        for name, declared in self.fields:
            value = values[name]
            if isinstance(value, Tensor):
                if wp.dtype_from_torch(value.dtype) is not declared.dtype or value.ndim != declared.ndim:
                    wanted = f"{declared.ndim} dimensions of {declared.dtype.__name__}"
                    raise TypeError(f"{self.key}.{name} takes {wanted}, got {value.ndim} of {value.dtype}")
                if value.numel() > MOST_ELEMENTS:
                    raise ValueError(f"{self.key}.{name} takes fewer than 2^31 elements, got shape {tuple(value.shape)}")
            parts.append(packed(value))
        return self.pack(*parts)


@cache
def _layout_of(kind: Any) -> _Layout:
    return _Layout(kind)


class Filled:
    """A struct with all its fields set. It keeps its tensors alive."""

    def __init__(self, kind: Any, values: dict[str, Any]) -> None:
        self.kind, self._values, self._instance = kind, values, None
        self.packed = _layout_of(kind).packed(values)
        """The struct as a kernel takes it."""

    def instance(self) -> Any:
        """Return the instance of the struct that Warp itself takes, made once."""
        if self._instance is None:
            self._instance = self.kind()
            for name, value in self._values.items():
                given = wp.from_torch(value.detach(), requires_grad=False) if isinstance(value, Tensor) else value
                setattr(self._instance, name, given)
        return self._instance


def filled(kind: Any, **values: Any) -> Filled:
    """Return a Warp struct with all its fields set.

    Reuse a struct for several kernels. It stores the addresses, shapes and strides of its tensors.

    Args:
        kind: the class that ``wp.struct`` made.
        values: one for each field: a tensor of the array's type and number of dimensions, a number, or a Warp vector.

    Raises:
        TypeError: a tensor is not of the type of its field, or there is not one value for each field.
        ValueError: a tensor has more elements than kernels can count.
    """
    return Filled(kind, values)
