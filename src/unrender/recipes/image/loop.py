"""The scene and the training loop of ``image``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unrender.fields.fourier import basic_frequencies, fourier_features, gaussian_frequencies, positional_frequencies
from unrender.fields.perceptron import Perceptron
from unrender.losses.photometric import mse
from unrender.ops.encodings import Adam, hash_encode
from unrender.recipes.clock import Clock
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state
from unrender.recipes.image.config import FourierSettings, ImageConfig
from unrender.recipes.inputs import Picture
from unrender.render.scene import PictureScene, picture_points
from unrender.words import CoordinateEncoding

_TABLE_RATE = 10.0
"""Learning rate of a hash grid, as a multiple of that of the perceptron."""

_MEASURED_EVERY = 25
"""Steps between two measurements of held-out pixels."""


def frequencies_of(kind: CoordinateEncoding, settings: FourierSettings, generator: torch.Generator) -> Float[Tensor, "rows 2"]:
    """Return the frequencies of an encoding of the plane; none for those that have none."""
    rows = settings.frequencies
    if kind == "basic":
        return basic_frequencies(2)
    if kind == "positional":
        return positional_frequencies(rows, 2, settings.octaves)
    return gaussian_frequencies(rows, 2, settings.sigma, generator) if kind == "gaussian" else torch.zeros(0, 2)


class ImageScene(PictureScene):
    """A picture as a perceptron of encoded coordinates."""

    def __init__(self, config: ImageConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        encoding = config.encoding
        frequencies = frequencies_of(encoding, config.fourier, generator)
        self.register_buffer("frequencies", frequencies)
        self.grid = config.hash.grid() if encoding == "hash" else None
        self.table = None if self.grid is None else nn.Parameter(self.grid.initial_table(generator))
        inputs = self.grid.columns if self.grid is not None else max(2, 2 * len(frequencies))
        self.network = Perceptron((inputs, *config.hidden, 3), generator)

    def encode(self, points: Float[Tensor, "points 2"]) -> Float[Tensor, "points columns"]:
        """Encode points of the plane."""
        if self.grid is not None and self.table is not None:
            return hash_encode(torch.cat([points, torch.zeros_like(points[:, :1])], dim=1), self.table, self.grid)
        frequencies = self.get_buffer("frequencies")
        return fourier_features(points, frequencies) if len(frequencies) else points

    def of_features(self, features: Float[Tensor, "points columns"]) -> Float[Tensor, "points 3"]:
        """Compute colors from encoded points."""
        return torch.sigmoid(self.network(features))

    def color(self, points: Float[Tensor, "points 2"]) -> Float[Tensor, "points 3"]:
        return self.of_features(self.encode(points))


def load_scene(config: ImageConfig, tensors: Mapping[str, Tensor], device: torch.device) -> ImageScene:
    """Rebuild the scene of a snapshot."""
    scene = ImageScene(config, generator=torch.Generator())
    scene.load_state_dict(scene_state(tensors))
    return scene.to(device)


def fit(
    picture: Picture,
    config: ImageConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit a perceptron to the pixels of a picture in even rows and columns.

    Raises:
        ValueError: the picture has no pixel in an odd row and column, so none is held out.
    """
    height, width = picture.linear.shape[:2]
    if height < 2 or width < 2:
        raise ValueError(f"the picture {picture.name} has {width} x {height} pixels; it must have at least 2 x 2, to hold some out")
    points, colors = picture_points(height, width).to(device), picture.srgb.reshape(-1, 3).to(device)
    fitted, held_out = (where.reshape(-1).nonzero()[:, 0].to(device) for where in (picture.is_fitted, picture.is_held_out))
    batch, rate = config.batch, config.learning_rate
    held_out = held_out[:: -(-len(held_out) // batch)]
    generator = torch.Generator(device).manual_seed(seed)
    scene = ImageScene(config, generator=torch.Generator().manual_seed(seed)).to(device)
    groups = [{"params": list(scene.network.parameters()), "lr": rate}]
    groups += [] if scene.table is None else [{"params": [scene.table], "lr": _TABLE_RATE * rate}]
    clock = Clock(config.steps, config.max_seconds)
    fitting = Fitting(scene, Adam(groups, lr=rate, betas=(0.9, 0.999), eps=1e-8), clock, observer, generator=generator)
    if resume is not None:
        fitting.restore(resume)
    encoded = _Encoded(scene, points, fitted) if len(fitted) <= batch else None

    for step in fitting:
        if encoded is not None:
            color, truth = scene.of_features(encoded.features()), colors[fitted]
        else:
            drawn = fitted[torch.randint(len(fitted), (batch,), generator=generator, device=device)]
            color, truth = scene.color(points[drawn]), colors[drawn]
        loss = mse(color, truth)
        measured = _error(scene, points, colors, held_out) if step % _MEASURED_EVERY == 0 else None
        fitting.take_step({"rgb": loss}, error=loss, held_out_error=measured)
    return fitting.result(torch.eye(4, dtype=torch.float64))


class _Encoded:
    """The features of all fitted pixels, computed once unless they are unknowns."""

    def __init__(self, scene: ImageScene, points: Float[Tensor, "points 2"], places: Int[Tensor, " places"]) -> None:
        self._scene, self._points = scene, points[places]
        self._kept = scene.encode(self._points) if scene.table is None else None

    def features(self) -> Float[Tensor, "places columns"]:
        return self._scene.encode(self._points) if self._kept is None else self._kept


@torch.no_grad()
def _error(
    scene: ImageScene, points: Float[Tensor, "points 2"], colors: Float[Tensor, "points 3"], places: Int[Tensor, " places"]
) -> Float[Tensor, ""]:
    return mse(scene.color(points[places]), colors[places])
