from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mixed_captures import mixed_cameras, mixed_capture, seen
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.images import Images
from unrender.captures.undistortion import undistorted


@pytest.fixture(scope="module")
def capture() -> Capture:
    cameras = mixed_cameras()
    distortion = cameras.distortion.clone()
    distortion[0, :2] = torch.tensor([-0.28, 0.11])  # of a barrel lens, whose photo does not reach the corners of the pinhole
    distortion[2, 0] = 0.2
    return mixed_capture(replace(cameras, distortion=distortion))


def test_photos_agree_with_what_the_pinholes_see(capture: Capture) -> None:
    straight = undistorted(capture)
    assert straight.ignored is not None and not straight.cameras.has_distortion
    assert torch.equal(straight.cameras.sizes, capture.cameras.sizes)
    for view in range(len(capture)):
        color, opacity = seen(straight.cameras.image_rays(view))
        height, width = straight.photos[view].shape[:2]
        color, opacity = color.reshape(height, width, 3), opacity.reshape(height, width)
        counted = ~straight.ignored[view]
        assert float(counted.float().mean()) > 0.5
        whole = counted & (straight.mask(view) == 255)
        assert float((opacity[whole] == 1).float().mean()) > 0.99
        assert float((straight.color(view) - color)[whole].abs().max()) < 0.06
        assert float((straight.color(view) - color)[whole].abs().mean()) < 4e-3
        assert float((straight.alpha(view) - opacity)[counted].abs().mean()) < 0.02


def test_triangles_can_be_projected_afterwards(capture: Capture) -> None:
    with pytest.raises(ValueError, match="undistort"):
        capture.cameras.clip_from_camera(0.1, 10.0)
    cameras = undistorted(capture).cameras
    clip = cameras.clip_from_camera(0.1, 10.0)
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    x, y, _, w = cameras.clip_positions(points, 0.1, 10.0).unbind(-1)
    assert clip.shape == (6, 4, 4)
    for view, (width, height) in enumerate(cameras.sizes.tolist()):
        pixels, _ = cameras.project(points, view)
        found = torch.stack((width * (x / w + 1)[view] / 2, height * (y / w + 1)[view] / 2), -1)
        torch.testing.assert_close(found, pixels, atol=1e-3, rtol=0)


def test_colors_hidden_behind_transparency_do_not_bleed(capture: Capture) -> None:
    loud = Images.of([photo.clone() for photo in capture.photos])
    for photo in loud:
        photo[photo[..., 3] == 0] = torch.tensor([255, 0, 255, 0], dtype=torch.uint8)
    here, there = undistorted(capture), undistorted(replace(capture, photos=loud))
    for view in range(len(capture)):
        shown = here.mask(view) > 0
        assert torch.equal(here.photos[view][shown], there.photos[view][shown])


def test_ignored_pixels_and_normals_move_with_the_photo(capture: Capture) -> None:
    sizes = capture.cameras.sizes.tolist()
    ignored = Images.of([torch.zeros(height, width, dtype=torch.bool) for width, height in sizes])
    ignored[1][20, 15] = True
    normals = Images.of([torch.tensor([0.0, 0.6, 0.8]).expand(height, width, 3).clone() for width, height in sizes])
    straight = undistorted(replace(capture, ignored=ignored, normals=normals))
    before = undistorted(capture)
    assert straight.ignored is not None and before.ignored is not None and straight.normals is not None
    added = (straight.ignored[1] & ~before.ignored[1]).nonzero()
    assert 1 <= len(added) <= 9 and float((added.float().mean(0) - torch.tensor([20.0, 15.0])).abs().max()) < 1.5
    known = straight.normals[0].norm(dim=-1) > 0
    assert torch.equal(known, ~before.ignored[0])
    torch.testing.assert_close(straight.normals[0][known][0], torch.tensor([0.0, 0.6, 0.8]))


def test_a_capture_without_distortion_is_returned_as_it_is() -> None:
    cameras = mixed_cameras()
    plain = mixed_capture(replace(cameras, distortion=torch.zeros_like(cameras.distortion), fisheye=torch.zeros_like(cameras.fisheye)))
    assert undistorted(plain) is plain


def test_half_a_turn_of_view_is_refused() -> None:
    cameras = mixed_cameras()
    intrinsics = cameras.intrinsics.clone()
    intrinsics[3, :2] = 40 / torch.pi / 1.1  # equidistant: half a turn is π f pixels wide
    wide = replace(mixed_capture(), cameras=replace(cameras, intrinsics=intrinsics, distortion=torch.zeros_like(cameras.distortion)))
    with pytest.raises(CaptureError, match="003.png sees 180 degrees or more"):
        undistorted(wide)
