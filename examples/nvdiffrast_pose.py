"""Recover the orientation of a cube from one picture: a program written for nvdiffrast, without unrender.

    python -m unrender.compat examples/nvdiffrast_pose.py --steps 1000 --seeds 10

The first half of the steps is a greedy search: it tries the best orientation so far, rotated by one of the cube's 24 symmetries and by
shrinking noise. The second half follows the gradient. Prints the error of the best orientation in degrees; the defaults are for a quick
look.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]
import torch

SIDE_COLORS = ((0.9, 0.2, 0.2), (0.2, 0.8, 0.3), (0.2, 0.3, 0.9), (0.9, 0.8, 0.2), (0.8, 0.3, 0.8), (0.2, 0.8, 0.8))


def cube():
    """Return eight shared vertices, twelve triangles, one color per side, and the triangles that index the colors."""
    points = np.array(list(itertools.product((-0.5, 0.5), repeat=3)), dtype=np.float32)
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = np.array([t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))], dtype=np.int32)
    color_triangles = np.repeat(np.arange(6), 2)[:, None].repeat(3, axis=1).astype(np.int32)
    return points, triangles, np.array(SIDE_COLORS, dtype=np.float32), color_triangles


def q_mul(p: np.ndarray, q: np.ndarray):
    w1, x1, y1, z1 = p
    w2, x2, y2, z2 = q
    return np.array(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ]
    )


def q_normalize(q: np.ndarray):
    return q / np.linalg.norm(q)


def q_angle_deg(p: np.ndarray, q: np.ndarray):
    return 2 * np.degrees(np.arccos(min(1.0, abs(float(np.dot(q_normalize(p), q_normalize(q)))))))


def symmetries_of_a_cube():
    """Return the 24 quaternions that map a cube to itself."""
    found: list[np.ndarray] = []
    for q in itertools.product((-1.0, 0.0, 1.0), repeat=4):
        count = int(np.abs(q).sum())
        if count in (1, 2, 4):
            unit = q_normalize(np.array(q))
            if all(abs(np.dot(unit, other)) < 0.99 for other in found):
                found.append(unit)
    return found


def matrix_of(q: torch.Tensor):
    w, x, y, z = (q / torch.norm(q)).unbind(0)
    zero, one = torch.zeros_like(w), torch.ones_like(w)
    rows = (
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), zero]),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), zero]),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), zero]),
        torch.stack([zero, zero, zero, one]),
    )
    return torch.stack(rows)


def clip_from_world(device: torch.device):
    x, near, far, distance = 0.4, 1.0, 20.0, 3.5
    projection = np.array(
        [
            [near / x, 0, 0, 0],
            [0, near / x, 0, 0],
            [0, 0, -(far + near) / (far - near), -2 * far * near / (far - near)],
            [0, 0, -1, 0],
        ]
    )
    camera = np.eye(4)
    camera[2, 3] = -distance
    return torch.tensor(projection @ camera, dtype=torch.float32, device=device)


def render(glctx, q, projection, pos, tri, col, col_tri, resolution):
    pos_h = torch.cat([pos, torch.ones_like(pos[:, :1])], dim=1)
    pos_clip = torch.matmul(pos_h, torch.matmul(projection, matrix_of(q)).t())[None, ...]
    rast, _ = dr.rasterize(glctx, pos_clip, tri, (resolution, resolution))
    color, _ = dr.interpolate(col[None, ...], rast, col_tri)
    return dr.antialias(color, rast, pos_clip, tri)


def loss_of(color: torch.Tensor, target: torch.Tensor):
    difference = torch.max((color - target) ** 2, dim=-1)[0]
    return torch.mean(torch.tanh(5.0 * difference))


def find_pose(seed: int, steps: int, resolution: int, log_interval: int):
    """Return the angle in degrees between the recovered orientation and the true one."""
    random = np.random.default_rng(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pos, tri, col, col_tri = (torch.tensor(array, device=device) for array in cube())
    projection = clip_from_world(device)
    glctx = dr.RasterizeCudaContext()
    symmetries = symmetries_of_a_cube()

    def picture(q):
        return render(glctx, q, projection, pos, tri, col, col_tri, resolution)

    true_q = q_normalize(random.normal(size=4))
    best_q = q_normalize(random.normal(size=4))
    best_loss = np.inf
    with torch.no_grad():
        target = picture(torch.tensor(true_q, dtype=torch.float32, device=device))

    greedy_steps = steps // 2
    q = torch.zeros(4, device=device, requires_grad=True)
    optimizer = torch.optim.Adam([q], lr=0.01)
    for step in range(steps):
        if step < greedy_steps:
            noise = 1e-4 ** (step / steps)
            shift = q_normalize((1 - noise) * np.array([1.0, 0, 0, 0]) + noise * q_normalize(random.normal(size=4)))
            candidate = q_mul(best_q, q_mul(symmetries[random.integers(24)], shift))
            with torch.no_grad():
                loss = loss_of(picture(torch.tensor(candidate, dtype=torch.float32, device=device)), target).item()
        else:
            if step == greedy_steps:
                with torch.no_grad():
                    q.copy_(torch.tensor(best_q, dtype=torch.float32))
            candidate = q.detach().cpu().numpy().copy()
            tensor_loss = loss_of(picture(q), target)
            optimizer.zero_grad()
            tensor_loss.backward()
            optimizer.step()
            with torch.no_grad():
                q /= torch.norm(q)
            loss = tensor_loss.item()
        if loss < best_loss:
            best_loss, best_q = loss, candidate
        if log_interval and (step + 1) % log_interval == 0:
            now = q_angle_deg(candidate, true_q)
            print(f"  step {step + 1}: loss={loss:.2e} error={now:.4f} best={q_angle_deg(best_q, true_q):.4f} degrees", flush=True)
    return q_angle_deg(best_q, true_q)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, starting at --seed")
    parser.add_argument("--log-interval", type=int, default=0)
    args = parser.parse_args()

    errors = []
    for seed in range(args.seed, args.seed + args.seeds):
        began = time.time()
        errors.append(find_pose(seed, args.steps, args.resolution, args.log_interval))
        print(f"seed {seed}: {errors[-1]:.4f} degrees, {time.time() - began:.1f} s", flush=True)
    found = sum(error < 0.1 for error in errors)
    print(f"{found} of {len(errors)} within 0.1 degrees, median {np.median(errors):.4f}")


if __name__ == "__main__":
    main()
