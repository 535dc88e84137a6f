"""Structs that bundle kernel arguments: a batch of samples, a grid, a view."""

from __future__ import annotations

from typing import Any

import warp as wp
from torch import Tensor

from unrender.ops.kernels.checks import MOST_ELEMENTS


def filled(kind: Any, **values: Tensor | int | float) -> Any:
    """Return an instance of a Warp struct with all its fields set.

    Packing a struct takes as long as passing its tensors one by one, so reuse a struct for several kernels. It stores the addresses, shapes
    and strides of its tensors, and keeps them alive.

    Args:
        kind: the class that ``wp.struct`` made.
        values: one for each field: a tensor of the array's type and number of dimensions, or a number.

    Raises:
        TypeError: a tensor is not of the type of its field.
        ValueError: a tensor has more elements than kernels can count.
    """
    instance = kind()
    fields = instance.__ctype__()
    for name, value in values.items():
        if isinstance(value, Tensor):
            declared = kind.vars[name].type
            if wp.dtype_from_torch(value.dtype) is not declared.dtype or value.ndim != declared.ndim:
                raise TypeError(
                    f"{kind.key}.{name} takes {declared.ndim} dimensions of {declared.dtype.__name__}, got {value.ndim} of {value.dtype}"
                )
            if value.numel() > MOST_ELEMENTS:
                raise ValueError(f"{kind.key}.{name} takes fewer than 2^31 elements, got shape {tuple(value.shape)}")
            instance.__dict__[name] = value
            setattr(fields, name, wp.from_torch(value.detach(), requires_grad=False, return_ctype=True))
        else:
            setattr(fields, name, value)
    return instance
