"""Resampling of photos to pinhole cameras, for methods that rasterize; methods along rays follow the lens instead."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.images import Images, in_threads


def undistorted(capture: Capture) -> Capture:
    """Resample a capture to pinhole cameras with the same sizes, focal lengths and principal points.

    Colors are interpolated bilinearly and weighted by alpha; priors take the nearest pixel. Pixels outside the photo are ignored. The scale
    at the center is kept, so content beyond the pinhole image's border is lost. A capture without distortion is returned unchanged.

    Raises:
        CaptureError: a view sees 180 degrees or more, which no pinhole does.
    """
    cameras = capture.cameras
    if not cameras.has_distortion:
        return capture
    for view in range(len(cameras)):
        _check_field_of_view(cameras[view], capture.names[view])
    straight = replace(cameras, distortion=torch.zeros_like(cameras.distortion), fisheye=torch.zeros_like(cameras.fisheye))
    photos = Images.empty(cameras.sizes, (4,), torch.uint8, on_disk=capture.photos.on_disk)
    ignored = Images.empty(cameras.sizes, (), torch.bool, on_disk=capture.photos.on_disk)
    normals = None
    if capture.normals is not None:
        normals = Images.empty(cameras.sizes, (3,), torch.float32, on_disk=capture.normals.on_disk)

    def resample(view: int) -> bool:
        grid, reached = _where_pinhole_pixels_lie(cameras, straight, view)
        photos[view].copy_(_photo(capture.photos[view], grid))
        left_out = ~reached
        if capture.ignored is not None:
            left_out = left_out | (_sampled(capture.ignored[view][..., None].float(), grid, "bilinear")[..., 0] > 0)
        ignored[view].copy_(left_out)
        if normals is not None and capture.normals is not None:
            normals[view].copy_(_sampled(capture.normals[view], grid, "nearest") * reached[..., None])
        return bool(left_out.any())

    some_are_left_out = any(in_threads(resample, range(len(capture))))
    device = capture.photos.pixels.device
    note = "photos were resampled to pinhole cameras without lens distortion"
    return replace(
        capture,
        photos=photos.to(device),
        cameras=straight,
        ignored=ignored.to(device) if some_are_left_out else None,
        normals=None if normals is None else normals.to(device),
        normal_files=(),  # they show what the lens shows
        notes=(*capture.notes, note),
    )


def _check_field_of_view(camera: Cameras, name: str) -> None:
    """Reject a view whose border is 90 degrees or more from the optical axis.

    The border is checked along the row and column of the principal point.
    """
    width, height = camera.sizes[0].tolist()
    cx, cy = camera.intrinsics[0, 2:].tolist()
    border = torch.tensor([[0.0, cy], [width, cy], [cx, 0.0], [cx, height]]).to(camera.intrinsics)
    ahead = camera.rays(torch.zeros(4, dtype=torch.int64, device=border.device), border).directions @ camera.world_from_camera[0, :3, 2]
    if float(ahead.min()) <= 0:
        raise CaptureError(f"{name} sees 180 degrees or more, which no pinhole does; crop it, or use a recipe that follows rays")


def _where_pinhole_pixels_lie(
    cameras: Cameras, straight: Cameras, view: int
) -> tuple[Float[Tensor, "1 height width 2"], Bool[Tensor, "height width"]]:
    """Return the photo position of each pinhole pixel, for ``grid_sample``, and which pixels the photo covers."""
    width, height = cameras.sizes[view].tolist()
    rays = straight.image_rays(view)
    pixels, _ = cameras.project(rays.origins + rays.directions, view)
    size = torch.tensor([width, height]).to(pixels)
    reached = ((pixels >= 0.5) & (pixels <= size - 0.5)).all(-1)
    return (2 * pixels / size - 1).reshape(1, height, width, 2), reached.reshape(height, width)


def _photo(rgba: Tensor, grid: Float[Tensor, "1 height width 2"]) -> Float[Tensor, "height width 4"]:
    """Interpolate colors weighted by alpha, Σ w α c / Σ w α, or unweighted if all are transparent."""
    values = rgba.to(grid.dtype)
    plain = _sampled(values, grid, "bilinear")
    weighted = _sampled(values[..., :3] * values[..., 3:], grid, "bilinear")
    alpha = plain[..., 3:]
    color = torch.where(alpha > 0, weighted / alpha.clamp_min(1e-3), plain[..., :3])
    return torch.cat((color, alpha), -1).round().clamp(0, 255)


def _sampled(image: Float[Tensor, "height width channels"], grid: Float[Tensor, "1 height width 2"], mode: str) -> Tensor:
    values = image.permute(2, 0, 1)[None].to(grid.dtype)
    return F.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)[0].permute(1, 2, 0)
