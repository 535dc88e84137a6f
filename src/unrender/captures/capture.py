"""A capture: posed photos in a normalized world, and the similarity back to their source frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.errors import CaptureError as CaptureError
from unrender.captures.images import Images
from unrender.color import linear_from_srgb
from unrender.printing import counted, picture_html, sheet, shortened, size_range
from unrender.words import CameraAxes, SplitName


@dataclass(frozen=True)
class Split:
    """The views that are fitted, those that are held out, and the rule that decides."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    rule: str
    """One sentence, for example "every 8th view, sorted by file name, is held out"."""
    given: bool = False
    """Whether the files of the capture or the name of a rule prescribe it, as for benchmarks."""

    @property
    def evaluated(self) -> SplitName:
        """The views that are evaluated: the held-out ones, or the fitted ones if there are none."""
        return "test" if self.test else "train"

    def views(self, name: SplitName) -> tuple[int, ...]:
        """Return the fitted or the held-out views."""
        return self.train if name == "train" else self.test


@dataclass(frozen=True)
class KnownScene:
    """The scene that the photos of a capture were rendered of, in files beside them."""

    mesh: Path
    """With its material, in the frame of the poses."""
    environment: Path | None = None
    """The light, a lat-long picture in that frame, which is +Z up."""


@dataclass(frozen=True)
class Capture:
    """Posed photos of one scene. The world is right-handed, +Z up, and scaled so that the region of interest fills [-1, 1]³."""

    name: str
    photos: Images
    """RGBA of each view, uint8: sRGB with straight alpha (color is not multiplied by it). Alpha is the mask: 255 where the object is, 0
    where it is not, between on its edge; 255 everywhere if the capture has no masks."""
    has_masks: bool
    """Whether alpha comes from masks or from an alpha channel."""
    cameras: Cameras
    names: tuple[str, ...]
    split: Split
    source_from_world: Float[Tensor, "4 4"]
    """Similarity from the normalized world to the frame of the input poses (float64)."""
    up: tuple[float, float, float] | None = None
    """The upward direction in the frame of the input poses, a unit vector, which is +Z of the world; None if it is unknown."""
    unbounded: bool = False
    """Whether the photos show surroundings beyond [-1, 1]³ and no mask separates them."""
    ignored: Images | None = None
    """True at pixels to exclude from fits, because something moved there."""
    normals: Images | None = None
    """Optional prior (float32 x 3): unit surface normals in the world frame, zero where unknown."""
    normal_files: tuple[Path | None, ...] = ()
    """Images of the true normals that the capture brings, one for each view or None; read when a scene is evaluated."""
    truth: KnownScene | None = None
    """The scene that the photos were rendered of; read when a fit is evaluated."""
    true_poses: Float[Tensor, "views 4 4"] | None = None
    """``world_from_camera`` without the errors of the poses in ``cameras``, if the capture brings them for a comparison."""
    points: Float[Tensor, "points 3"] | None = None
    """Optional surface points from structure from motion, in the world frame."""
    copies: tuple[tuple[int, int], ...] = ()
    """Views whose photo is the same file, or a copy of the file, of an earlier view, with that view."""
    camera_axes: CameraAxes | None = None
    """The axes of the cameras in the files, from which the poses were converted; None if there were no files."""
    fingerprint: str = ""
    """Hash of the input files; a run resumes only on the same capture."""
    notes: tuple[str, ...] = field(default=())
    """Sentences that describe what the reader did: distortion, normalization, missing masks."""

    def __repr__(self) -> str:
        split = f"{len(self.split.train)} fitted, {len(self.split.test)} held out"
        masks = f"with{'' if self.has_masks else 'out'} masks{', unbounded' if self.unbounded else ''}"
        views = f"{counted(len(self.names), 'view')} of {size_range(self.cameras.sizes)}"
        return shortened(f"Capture({self.name[:60]!r}: {views}, {split}, {masks})")

    def _repr_html_(self) -> str | None:
        """Return a contact sheet of some views for a notebook."""
        count = len(self.names)
        if count == 0:
            return None
        some = range(0, count, -(-count // 12))
        return picture_html(sheet([self.photos[view][..., :3] for view in some]), repr(self), largest_side=576)

    @classmethod
    def from_tensors(
        cls,
        images: UInt8[Tensor, "views height width 3"] | Sequence[UInt8[Tensor, "_ _ 3"]],
        cameras: Cameras,
        *,
        masks: UInt8[Tensor, "views height width"] | Sequence[UInt8[Tensor, "_ _"]] | None = None,
        split: Split | None = None,
        name: str = "capture",
        names: Sequence[str] | None = None,
        source_from_world: Float[Tensor, "4 4"] | None = None,
        unbounded: bool = False,
        fingerprint: str = "",
        notes: tuple[str, ...] = (),
    ) -> Capture:
        """Make a capture of sRGB photos and cameras in a normalized world.

        Args:
            images: a stack, or a list if sizes differ.
            cameras: of the photos, with the region of interest in [-1, 1]³ and +Z up.
            masks: 255 where the object is.
            split: by default all views are fitted.
            name: name of the capture.
            names: names of the views, by default ``000.png`` and so on.
            source_from_world: by default the identity.
            unbounded: whether the photos show surroundings beyond [-1, 1]³.
            fingerprint: identifies the capture when a run resumes.
            notes: sentences for the report.

        Raises:
            ValueError: images, masks and cameras differ in number or size.

        >>> cameras = Cameras.alike(torch.eye(4)[None], torch.tensor([[40.0, 40.0, 4.0, 3.0]]), None, 8, 6)
        >>> capture = Capture.from_tensors(torch.full((1, 6, 8, 3), 51, dtype=torch.uint8), cameras)
        >>> capture.has_masks, capture.color(0)[0, 0].tolist(), float(capture.alpha(0).mean())
        (False, [0.20000000298023224, 0.20000000298023224, 0.20000000298023224], 1.0)
        """
        views = len(images)
        if views != len(cameras) or (masks is not None and len(masks) != views):
            counts = f"{views} images, {len(cameras)} cameras" + ("" if masks is None else f" and {len(masks)} masks")
            raise ValueError(f"a capture takes one image and one camera for each view, got {counts}")
        photos = Images.empty(cameras.sizes, (4,), torch.uint8)
        for view, (width, height) in enumerate(cameras.sizes.tolist()):
            shapes = {tuple(images[view].shape[:2]), (height, width)}
            shapes |= set() if masks is None else {tuple(masks[view].shape)}
            if len(shapes) > 1:
                raise ValueError(f"the image, mask and camera of view {view} differ in height and width: {sorted(shapes)}")
            photos[view][..., :3] = images[view]
            photos[view][..., 3] = 255 if masks is None else masks[view]
        return cls(
            name=name,
            photos=photos.to(images[0].device if views else "cpu"),
            has_masks=masks is not None,
            cameras=cameras,
            names=tuple(f"{view:03d}.png" for view in range(views)) if names is None else tuple(names),
            split=Split(tuple(range(views)), (), "all views are fitted, none is held out") if split is None else split,
            source_from_world=torch.eye(4, dtype=torch.float64) if source_from_world is None else source_from_world,
            unbounded=unbounded,
            fingerprint=fingerprint,
            notes=notes,
        )

    def __len__(self) -> int:
        return len(self.photos)

    def to(self, device: torch.device | str) -> Capture:
        """Move photos, cameras and priors to a device; the similarity, and photos on disk, stay where they are."""
        return replace(
            self,
            photos=self.photos.to(device),
            cameras=self.cameras.to(device),
            ignored=None if self.ignored is None else self.ignored.to(device),
            normals=None if self.normals is None else self.normals.to(device),
            points=None if self.points is None else self.points.to(device),
        )

    def color(self, view: int, *, linear: bool = False) -> Float[Tensor, "height width 3"]:
        """Return a photo as float32 in [0, 1], straight alpha: sRGB values, or linear light with ``linear``."""
        srgb = self.photos[view][..., :3].float() / 255
        self.photos.release(view)
        return linear_from_srgb(srgb) if linear else srgb

    def alpha(self, view: int) -> Float[Tensor, "height width"]:
        """Return a mask as float32 in [0, 1]; ones if the capture has no masks."""
        return self.mask(view).float() / 255

    def mask(self, view: int) -> UInt8[Tensor, "height width"]:
        """Return a mask, a view of the storage; 255 everywhere if the capture has no masks."""
        return self.photos[view][..., 3]
