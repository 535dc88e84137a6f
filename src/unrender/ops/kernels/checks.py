"""Checks of the arguments of primitives, made before a kernel reads any memory.

A kernel trusts its arrays: with one value too few it would read foreign memory. Every public function therefore compares type, shape and
device of its tensors, which takes about a microsecond each and reads no values. Values are read only on a CPU, and only where an index is
not checked by the kernel itself. Every message has the same form: ``verb takes WANTED as name, got FOUND``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from unrender.devices import has_kernels

MOST_ELEMENTS = 2**31 - 1
"""Limit on the elements of a tensor, because kernels count them in 32 bits."""

Size: TypeAlias = "int | str | tuple[int, str]"
"""A number, the name of any number, or a number with what it counts: ``3``, ``"points"``, ``(1024, "samples")``."""

Kind = TypeVar("Kind")
Function = TypeVar("Function", bound=Callable[..., Any])

_FLOATS = (torch.float32,)
_INTEGERS = (torch.int32, torch.int64)
_FLAGS = (torch.bool,)
_LARGEST = torch.finfo(torch.float32).max
_INT32 = torch.iinfo(torch.int32)


class Arguments:
    """The checks of one call.

    The first tensor decides the device of the others, unless one is given.
    """

    __slots__ = ("device", "first", "verb")

    def __init__(self, verb: str, device: torch.device | None = None, first: str = "others") -> None:
        """Begin a call.

        Args:
            verb: the function called.
            device: device of all tensors; None takes that of the first.
            first: name of what is on that device.
        """
        self.verb, self.device, self.first = verb, device, first

    def float32(self, value: object, name: str, *shapes: Sequence[Size]) -> Tensor:
        """Return a float32 tensor of one of some shapes.

        Raises:
            ValueError: it is something else, or on another device, or has more elements than kernels can count.
        """
        return self.tensor(value, name, _FLOATS, *shapes)

    def integers(self, value: object, name: str, *shapes: Sequence[Size]) -> Tensor:
        """Return a tensor of int32 or int64; :func:`as_int32` converts it.

        Raises:
            ValueError: as :meth:`float32`.
        """
        return self.tensor(value, name, _INTEGERS, *shapes)

    def flags(self, value: object, name: str, *shapes: Sequence[Size]) -> Tensor:
        """Return a tensor of bool.

        Raises:
            ValueError: as :meth:`float32`.
        """
        return self.tensor(value, name, _FLAGS, *shapes)

    def tensor(self, value: object, name: str, dtypes: Sequence[torch.dtype], *shapes: Sequence[Size]) -> Tensor:
        """Return a tensor of one of some types and shapes.

        Raises:
            ValueError: as :meth:`float32`.
        """
        if not isinstance(value, Tensor) or value.dtype not in dtypes or value.layout is not torch.strided:
            self._refuse(value, name, dtypes, shapes)
        found = value.shape
        for shape in shapes:
            if _fits(found, shape):
                break
        else:
            self._refuse(value, name, dtypes, shapes)
        if value.device != self.device:
            self._adopt(value.device, name)
        if value.numel() > MOST_ELEMENTS:
            self.count(value.numel(), name)
        return value.resolve_neg() if value.is_neg() else value

    def count(self, elements: int, name: str) -> None:
        """Require no more elements than a kernel can count."""
        if elements > MOST_ELEMENTS:
            raise ValueError(f"{self.verb} takes fewer than 2^31 elements in {name}, got {elements}: split the call")

    def integer(self, value: object, name: str, low: int, high: int = MOST_ELEMENTS) -> int:
        """Return an integer within bounds; bool and float are refused."""
        if isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= value <= high:  # pyright: ignore[reportOperatorIssue]
            return int(value)
        bounds = f"from {low} to {high}" if high < MOST_ELEMENTS else f"of at least {low}"
        raise ValueError(f"{self.verb} takes an integer {bounds} as {name}, got {describe(value)}")

    def number(self, value: object, name: str, low: float = -math.inf, high: float = math.inf, *, infinite: bool = False) -> float:
        """Return a number within bounds as float; NaN is refused, and infinity unless ``infinite``."""
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # an integer of hundreds of digits
                number = math.inf if value > 0 else -math.inf  # pyright: ignore[reportOperatorIssue]
            if abs(number) > _LARGEST:  # infinite in float32
                number = math.copysign(math.inf, number)
            if low <= number <= high and (infinite or math.isfinite(number)):
                return number
        bounds = f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
        finite = "" if infinite or high < math.inf else "finite "
        raise ValueError(f"{self.verb} takes a {finite}number{bounds} as {name}, got {describe(value)}")

    def flag(self, value: object, name: str) -> bool:
        """Return a bool."""
        if isinstance(value, bool):
            return value
        raise ValueError(f"{self.verb} takes True or False as {name}, got {describe(value)}")

    def choice(self, value: object, name: str, options: Iterable[Kind]) -> Kind:
        """Return one of some options."""
        for option in options:
            if isinstance(value, type(option)) and value == option:
                return option
        raise ValueError(f"{self.verb} takes {' or '.join(map(repr, options))} as {name}, got {describe(value)}")

    def instance(self, value: object, name: str, kind: type[Kind]) -> Kind:
        """Return an object of a class."""
        if isinstance(value, kind):
            return value
        raise ValueError(f"{self.verb} takes a {kind.__name__} as {name}, got {describe(value)}")

    def function(self, value: Function, name: str) -> Function:
        """Return something that can be called."""
        if callable(value):
            return value
        raise ValueError(f"{self.verb} takes a function as {name}, got {describe(value)}")

    def items(self, value: object, name: str) -> list[Any]:
        """Return the items of a list or tuple, or of another collection without keys."""
        if isinstance(value, Iterable) and not isinstance(value, Tensor | np.ndarray | Mapping | str | bytes):
            return list(value)
        raise ValueError(f"{self.verb} takes a list or tuple as {name}, got {describe(value)}")

    def generator(self, value: object, name: str, device: torch.device) -> torch.Generator:
        """Return a generator of random numbers for a device."""
        generator = self.instance(value, name, torch.Generator)
        if generator.device.type != device.type:
            raise ValueError(f"{self.verb} takes a generator on {device} as {name}, got one on {generator.device}")
        return generator

    def _adopt(self, device: torch.device, name: str) -> None:
        """Take the device of the first tensor, or refuse another one."""
        if self.device is not None:
            raise ValueError(f"{self.verb} takes tensors on one device, got {self.first} on {self.device} and {name} on {device}")
        if not has_kernels(device):
            raise ValueError(f"{self.verb} takes tensors on a CPU or a CUDA device, got {name} on {device}")
        self.device, self.first = device, name

    def _refuse(self, value: object, name: str, dtypes: Sequence[torch.dtype], shapes: Sequence[Sequence[Size]]) -> NoReturn:
        types = " or ".join(map(_type_name, dtypes))
        wanted = " or ".join(f"[{', '.join(map(_size_text, shape))}]" for shape in shapes)
        advice = ""
        if isinstance(value, np.ndarray):
            advice = ": pass torch.from_numpy(...)"
        elif isinstance(value, Tensor) and value.layout is not torch.strided:
            advice = ": pass a dense tensor"
        elif isinstance(value, Tensor) and value.dtype not in dtypes:
            advice = ": convert it, or use unrender.reference for other types" if dtypes is _FLOATS else ": convert it"
        raise ValueError(f"{self.verb} takes {types} {wanted} as {name}, got {describe(value)}{advice}")


def as_int32(tensor: Tensor) -> Tensor:
    """Convert to int32; indices beyond it become the largest, which kernels refuse, instead of another valid one."""
    return tensor if tensor.dtype == torch.int32 else tensor.clamp(_INT32.min, _INT32.max).int()


def describe(value: object) -> str:
    """Describe an argument for a message: type and shape of an array, else its value or its class.

    >>> describe(torch.zeros(5, 2)), describe(np.zeros(3)), describe(0.5), describe([1])
    ('float32 [5, 2]', 'a numpy array of float64 [3]', '0.5', 'a list')
    """
    if isinstance(value, Tensor):
        kind = "" if value.layout is torch.strided else "sparse "
        return f"{kind}{_type_name(value.dtype)} [{', '.join(map(str, value.shape))}]"
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype} [{', '.join(map(str, value.shape))}]"
    if value is None or isinstance(value, numbers.Number | str):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:39]}…"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _fits(found: Sequence[int], shape: Sequence[Size]) -> bool:
    if len(found) != len(shape):
        return False
    for size, wanted in zip(found, shape, strict=True):
        if wanted.__class__ is not str and size != (wanted if wanted.__class__ is int else wanted[0]):  # pyright: ignore[reportIndexIssue]
            return False
    return True


def _size_text(size: Size) -> str:
    return f"{size[0]} {size[1]}" if isinstance(size, tuple) else str(size)


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
