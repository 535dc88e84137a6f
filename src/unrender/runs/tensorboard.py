"""Curves of a fit for TensorBoard; needs the package ``tensorboard``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from unrender.recipes.fitting import Progress

MISSING = 'TensorBoard is not installed, so no curves are written for it; install it with: pip install "unrender[tensorboard]"'


def is_installed() -> bool:
    """Tell whether curves can be written."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoard:
    """An observer that writes PSNR, loss terms and counts of a fit as event files."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __call__(self, progress: Progress) -> None:
        values = {f"loss/{name}": value for name, value in progress.losses.items()}
        values |= {f"count/{name}": float(value) for name, value in progress.counts.items()}
        values |= {"seconds": progress.seconds, **({} if progress.psnr is None else {"psnr": progress.psnr})}
        values |= {} if progress.held_out_psnr is None else {"held_out_psnr": progress.held_out_psnr}
        prefix = f"{progress.phase}/".lstrip("/").replace(" ", "_")
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}{name}", value, progress.step)
        self._writer.flush()
