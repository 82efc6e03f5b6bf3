"""Closest points of a mesh against trimesh: agreement and time, alternately in one process on one thread.

    python tests/benchmarks/bench_closest.py

The mesh is the shipped prior's mean face (4096 triangles); the points lie around it, as a scan's do. trimesh answers
with a tree of triangles of the rtree library. Times hold the preparation of the mesh.
"""

from __future__ import annotations

import time

import numpy as np
import torch
import trimesh

from raylib.geometry.closest import MeshSurface
from raylib.morphable.model import load_prior


def main() -> None:
    torch.set_num_threads(1)
    prior = load_prior()
    verts, faces = prior.mean.double().numpy(), prior.faces.numpy()
    rng = np.random.default_rng(0)
    print("| points | ours, ms | trimesh, ms | times | largest difference, mm |\n|---|---|---|---|---|")
    for count in (1000, 10_000, 50_000):
        points = verts[rng.integers(0, len(verts), count)] + rng.normal(size=(count, 3)) * 2
        MeshSurface(verts, faces).distance(points[:10])
        ours, theirs = [], []
        for _ in range(5):
            start = time.process_time()
            mine = MeshSurface(verts, faces).distance(points)
            ours.append(time.process_time() - start)
            start = time.process_time()
            mesh = trimesh.Trimesh(verts, faces, process=False)
            other = trimesh.proximity.closest_point(mesh, points)[1]
            theirs.append(time.process_time() - start)
        a, b = 1e3 * min(ours), 1e3 * min(theirs)
        print(f"| {count} | {a:.1f} | {b:.1f} | {b / a:.0f} | {np.abs(mine - other).max():.1e} |")


if __name__ == "__main__":
    main()
