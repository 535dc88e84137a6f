"""The child process that calls pycolmap: ``python solver.py JOB.json``.

It is run as a script and imports nothing of this package, so that PyTorch's libraries and those of pycolmap never share a process. The
parent watches the database, the file ``progress`` and the exit code. The process ends without the destructors of pycolmap, which may abort,
and as soon as its parent has ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

_SEED = 0
_NONE = 2**64 - 1
_OTHER_FOCALS = (0.8, 1.25)
"""Factors of the focal lengths with which a model is refined again, to learn how well they are determined."""


def extract(
    *,
    database: str,
    images: str,
    masks: str | None,
    groups: Sequence[tuple[str, Sequence[str]]],
    max_side: int,
    max_features: int,
    peak: float,
    affine: bool,
) -> None:
    """Detect features, one camera for each group of photos; photos that have features already are skipped.

    Args:
        database: to write to.
        images: the folder of photos.
        masks: a folder of masks.
        groups: the parameters of a lens, empty if they are unknown, and the photos that it took.
        max_side: longer side of the pictures in which features are detected.
        max_features: of a photo.
        peak: least contrast of a feature.
        affine: whether to adapt features to slanted surfaces.
    """
    for camera, names in groups:
        reading = pycolmap.ImageReaderOptions(camera_model="SIMPLE_RADIAL", camera_params=camera)
        if masks is not None:
            reading.mask_path = masks
        features = pycolmap.FeatureExtractionOptions(max_image_size=max_side, use_gpu=False)
        features.sift.max_num_features = max_features
        features.sift.peak_threshold = peak
        features.sift.estimate_affine_shape = affine
        pycolmap.extract_features(
            database,
            images,
            image_names=names,
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reading,
            extraction_options=features,
            device=pycolmap.Device.cpu,
        )


def verification() -> pycolmap.TwoViewGeometryOptions:
    """Return the options of two-view geometry, with a fixed seed."""
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = _SEED
    return options


def match(*, database: str, pairs: str | None, guided: bool) -> None:
    """Match and verify the listed pairs, or all; those in the database already are skipped."""
    options = pycolmap.FeatureMatchingOptions(use_gpu=False, guided_matching=guided)
    if pairs is None:
        pycolmap.match_exhaustive(database, options, verification_options=verification(), device=pycolmap.Device.cpu)
        return
    listed = pycolmap.ImportedPairingOptions(match_list_path=pairs)
    pycolmap.match_image_pairs(database, options, listed, verification(), device=pycolmap.Device.cpu)


def verify(*, database: str) -> None:
    """Verify the matches in the database again."""
    pycolmap.geometric_verification(database, two_view_geometry_options=verification())


def reconstruct(*, database: str, images: str, models: str, progress: str, relaxed: bool, hold_focal: bool, views_per_lens: int) -> None:
    """Solve poses, lenses and points incrementally, and write the largest model.

    Args:
        database: with features and verified matches.
        images: the folder of photos.
        models: folder for the models.
        progress: file for the number of photos that are registered.
        relaxed: whether to accept weak matches.
        hold_focal: whether to keep the focal lengths of the database.
        views_per_lens: photos that a lens needs before a second coefficient of distortion is refined.
    """
    options = pycolmap.IncrementalPipelineOptions(min_model_size=3, max_num_models=10, random_seed=_SEED)
    options.mapper.random_seed = options.triangulation.random_seed = _SEED
    if relaxed:
        options.mapper.init_min_num_inliers, options.mapper.init_min_tri_angle = 50, 6.0
        options.mapper.abs_pose_min_num_inliers, options.mapper.abs_pose_min_inlier_ratio = 15, 0.15
    options.ba_refine_focal_length = not hold_focal
    registered = 0

    def begin() -> None:
        nonlocal registered
        registered = 2
        Path(progress).write_text(str(registered))

    def advance() -> None:
        nonlocal registered
        registered += 1
        Path(progress).write_text(str(registered))

    solved = pycolmap.incremental_mapping(
        database,
        images,
        models,
        options,
        initial_image_pair_callback=begin,
        next_image_callback=advance,
    )
    if not solved:
        return
    largest = max(solved.values(), key=lambda model: (model.num_reg_images(), model.num_points3D()))
    refine_lenses(largest, views_per_lens, hold_focal=hold_focal)
    export(largest, Path(models))


def refine_lenses(model: pycolmap.Reconstruction, views_per_lens: int, *, hold_focal: bool) -> None:
    """Refine a second coefficient of distortion of the lenses that many photos share.

    Focal lengths across and down stay equal: a ring of cameras that all look down by the same angle does not determine their ratio.
    """
    views = [image.camera_id for image in model.images.values() if image.has_pose]
    shared = [number for number in model.cameras if views.count(number) >= views_per_lens]
    for number in shared:
        camera = model.cameras[number]
        focal, center_x, center_y, radial = camera.params
        camera.model = pycolmap.CameraModelId.RADIAL
        camera.params = [focal, center_x, center_y, radial, 0.0]
    if shared:
        pycolmap.bundle_adjustment(model, pycolmap.BundleAdjustmentOptions(print_summary=False, refine_focal_length=not hold_focal))
        model.update_point_3d_errors()


def rise_with_other_focals(model: pycolmap.Reconstruction) -> float:
    """Return the least share by which the mean error rises with focal lengths a quarter more or a fifth less."""
    if not model.num_points3D():
        return float("nan")
    before = model.compute_mean_reprojection_error()
    after = []
    for factor in _OTHER_FOCALS:
        other = pycolmap.Reconstruction(model)
        for camera in other.cameras.values():
            camera.params = [factor * camera.params[0], *camera.params[1:]]
        pycolmap.bundle_adjustment(other, pycolmap.BundleAdjustmentOptions(print_summary=False, refine_focal_length=False))
        other.update_point_3d_errors()
        after.append(other.compute_mean_reprojection_error())
    return float(min(after) / max(before, 1e-6) - 1)


def lens(camera: pycolmap.Camera) -> list[float]:
    """Return fx, fy, cx, cy, k1, k2, p1, p2 of a camera."""
    focal, center_x, center_y, *radial = camera.params
    first, second = (*radial, 0.0)[:2]
    return [focal, focal, center_x, center_y, first, second, 0.0, 0.0]


def export(model: pycolmap.Reconstruction, folder: Path) -> None:
    """Write a model as COLMAP's binary files into ``folder/largest`` and as ``folder/solution.npz``."""
    (folder / "largest").mkdir(exist_ok=True)
    model.write(folder / "largest")
    images = sorted((image for image in model.images.values() if image.has_pose), key=lambda image: image.name)
    cameras = sorted(model.cameras)
    points = sorted(model.points3D)
    row = {number: index for index, number in enumerate(points)}
    observed = []
    for index, image in enumerate(images):
        for feature, point in enumerate(image.points2D):
            if point.point3D_id != _NONE:
                observed.append((index, row[point.point3D_id], feature, *point.xy))
    table = np.array(observed, dtype=np.float64).reshape(-1, 5)
    partial = folder / "partial.npz"
    np.savez(
        partial,
        names=np.array([image.name for image in images]),
        camera_from_world=np.array([np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for image in images]),
        lens_of_view=np.array([cameras.index(image.camera_id) for image in images], dtype=np.int64),
        lenses=np.array([lens(model.cameras[number]) for number in cameras]),
        sizes=np.array([[model.cameras[number].width, model.cameras[number].height] for number in cameras], dtype=np.int64),
        points=np.array([model.points3D[number].xyz for number in points]).reshape(-1, 3),
        colors=np.array([model.points3D[number].color for number in points], dtype=np.uint8).reshape(-1, 3),
        observations=table[:, :3].astype(np.int64),
        pixels=table[:, 3:],
        focal_rise=np.array(rise_with_other_focals(model)),
    )
    os.replace(partial, folder / "solution.npz")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Run the job that a file describes."""
    task, job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pycolmap.set_random_seed(_SEED)
    {"extract": extract, "match": match, "verify": verify, "reconstruct": reconstruct}[task](**job)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
