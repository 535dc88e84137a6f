"""Recover the environment and the highlight of a glossy ring: a program written for nvdiffrast, without unrender.

    python -m unrender.compat examples/nvdiffrast_envphong.py --steps 600

The shape is known. The unknowns are an environment (a cube map) and a Phong highlight (color and exponent). Every step has a random view
and a random light. Prints the errors of the highlight; the defaults are for a quick look.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]
import torch

TRUE_PHONG = (1.0, 0.8, 0.6, 25.0)
PHONG_UNIT = (1.0, 1.0, 1.0, 10.0)


def bumpy_ring(around: int, across: int):
    """Return the vertices and triangles of a ring whose thickness varies."""
    u = np.arange(around) / around * 2 * np.pi
    v = np.arange(across) / across * 2 * np.pi
    u, v = np.meshgrid(u, v, indexing="ij")
    thickness = 0.42 + 0.06 * np.sin(3 * u) * np.cos(2 * v)
    radius = 1.0 + thickness * np.cos(v)
    points = np.stack([radius * np.cos(u), radius * np.sin(u), thickness * np.sin(v)], -1).reshape(-1, 3)
    i, j = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    a, b = i * across + j, (i + 1) % around * across + j
    c, d = (i + 1) % around * across + (j + 1) % across, i * across + (j + 1) % across
    triangles = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    return points.astype(np.float32), triangles.astype(np.int32)


def vertex_normals(points: np.ndarray, triangles: np.ndarray):
    corners = points[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(points)
    for k in range(3):
        np.add.at(normals, triangles[:, k], cross)
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def procedural_environment(size: int):
    """Return a cube map [6, size, size, 3] in [0, 1] of a sky, some stripes and a bright window."""
    along = (np.arange(size) + 0.5) / size * 2 - 1
    t, s = np.meshgrid(along, along, indexing="ij")
    one = np.ones_like(s)
    sides = [(one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one), (-s, -t, -one)]
    d = np.stack([np.stack(side, -1) for side in sides])
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    x, y, z = d[..., 0], d[..., 1], d[..., 2]
    window = np.exp(-12 * ((x - 0.6) ** 2 + (y - 0.5) ** 2 + (z - 0.6) ** 2))
    red = 0.35 + 0.25 * np.sin(5 * x) * np.cos(4 * z) + 0.4 * window
    green = 0.35 + 0.25 * y + 0.4 * window
    blue = 0.45 - 0.3 * np.sin(4 * y + 3 * x) + 0.3 * window
    return np.clip(np.stack([red, green, blue], -1), 0, 1).astype(np.float32)


def perspective(x: float, near: float, far: float):
    return np.array(
        [
            [near / x, 0, 0, 0],
            [0, near / x, 0, 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )


def random_rotation(random: np.random.Generator):
    q, r = np.linalg.qr(random.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    matrix = np.eye(4)
    matrix[:3, :3] = q
    return matrix


def render(glctx, clip_from_object, eye, light, mesh, env, phong, resolution):
    """Render [views, resolution, resolution, 3] from matrices [views, 4, 4], eyes and directions to the light [views, 3]."""
    pos, tri, normals = mesh
    pos_h = torch.cat([pos, torch.ones_like(pos[:, :1])], dim=1)
    pos_clip = torch.matmul(pos_h, clip_from_object.transpose(1, 2))
    rast, rast_db = dr.rasterize(glctx, pos_clip, tri, (resolution, resolution))

    view = torch.nn.functional.normalize(pos - eye[:, None, :], dim=-1)
    reflected = view - 2.0 * normals * torch.sum(normals * view, dim=-1, keepdim=True)
    reflected, reflected_da = dr.interpolate(reflected, rast, tri, rast_db=rast_db, diff_attrs="all")
    color = dr.texture(env[None, ...], reflected, uv_da=reflected_da, filter_mode="linear-mipmap-linear", boundary_mode="cube")

    toward_light = torch.sum(torch.nn.functional.normalize(reflected, dim=-1) * light[:, None, None, :], dim=-1, keepdim=True)
    color = color + phong[:3] * torch.clamp(toward_light, min=1e-3) ** phong[3]
    color = torch.where(rast[..., 3:] > 0, color, torch.ones_like(color))
    return dr.antialias(color, rast, pos_clip, tri)


def random_views(random: np.random.Generator, count: int):
    """Return random matrices, eyes and directions to the light, in the frame of the object."""
    camera = np.eye(4)
    camera[2, 3] = -3.8
    camera_from_object = np.stack([camera @ random_rotation(random) for _ in range(count)])
    light = random.normal(size=(count, 3))
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    return perspective(0.4, 1.0, 20.0) @ camera_from_object, np.linalg.inv(camera_from_object)[:, :3, 3], light


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--views", type=int, default=1, help="pictures per step")
    parser.add_argument("--env-size", type=int, default=32)
    parser.add_argument("--detail", type=int, default=24, help="vertices across the ring; there are three times as many around it")
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    points, triangles = bumpy_ring(3 * args.detail, args.detail)
    normals = vertex_normals(points, triangles)
    mesh = (torch.tensor(points, device=device), torch.tensor(triangles, device=device), torch.tensor(normals, device=device))
    true_env = torch.tensor(procedural_environment(args.env_size), device=device)
    true_phong = torch.tensor(TRUE_PHONG, device=device)
    unit = torch.tensor(PHONG_UNIT, device=device)
    print(f"{len(triangles)} triangles, {args.resolution} pixels squared, a cube map of 6 x {args.env_size} x {args.env_size}")

    env = torch.full_like(true_env, 0.5, requires_grad=True)
    phong = torch.rand(4, device=device, requires_grad=True)
    # beta2 is small, because the gradients of the first steps, while the environment is wrong, are far larger than all later ones.
    optimizer = torch.optim.Adam([env, phong], lr=args.lr, betas=(0.9, 0.95))
    glctx = dr.RasterizeCudaContext()
    image_loss, began = 0.0, time.time()

    for step in range(1, args.steps + 1):
        views = random_views(random, args.views)
        clip_from_object, eye, light = (torch.tensor(array, dtype=torch.float32, device=device) for array in views)
        with torch.no_grad():
            target = render(glctx, clip_from_object, eye, light, mesh, true_env, true_phong, args.resolution)
        color = render(glctx, clip_from_object, eye, light, mesh, env, phong * unit, args.resolution)
        loss = torch.mean((color - target) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        image_loss += loss.item()

        if step % 100 == 0 or step == args.steps:
            with torch.no_grad():
                found = phong * unit
                rgb_rmse = torch.sqrt(torch.mean((found[:3] - true_phong[:3]) ** 2)).item()
                exp_rel_err = (torch.abs(found[3] - true_phong[3]) / true_phong[3]).item()
            count = (step - 1) % 100 + 1
            print(
                f"step {step}: phong_rgb_rmse={rgb_rmse:.5f} phong_exp_rel_err={exp_rel_err:.5f} img_mse={image_loss / count:.2e}",
                flush=True,
            )
            image_loss = 0.0
    print(f"{time.time() - began:.1f} s")


if __name__ == "__main__":
    main()
