"""Distances of a reconstruction from a scan: exactness, invariance, known offsets."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from raylib.canonical import similarity
from raylib.metrics import ALIGNMENT_LANDMARKS, MeshSurface, closest_on_triangles, scan_error


def bumpy_sheet(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A face-sized relief without symmetry: (n*n, 3) vertices, millimetres, and its triangles."""
    x, y = np.meshgrid(np.linspace(-80, 80, n), np.linspace(-100, 100, n))
    z = 45 * np.exp(-(x**2 + y**2) / 900) - (x / 15) ** 2 - (y / 18) ** 2 + 6 * np.sin(x / 14 + 0.3) * np.cos(y / 21)
    verts = np.stack([x, y, z], -1).reshape(-1, 3)
    i = np.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, 1:].ravel(), i[1:, :-1].ravel()
    return verts, np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def pick_landmarks(verts: np.ndarray) -> np.ndarray:
    marks = verts[np.random.default_rng(5).integers(0, len(verts), 68)].copy()
    marks[30] = verts[verts[:, 2].argmax()]
    return marks


def test_closest_point_beats_every_sampled_point_of_the_triangle():
    rng = np.random.default_rng(0)
    triangles, points = rng.normal(size=(300, 3, 3)), rng.normal(size=(300, 3)) * 2
    found = closest_on_triangles(points, triangles)
    w = rng.dirichlet([0.5, 0.5, 0.5], size=4000)
    sampled = np.einsum("sk,tkc->tsc", w, triangles)
    best = np.linalg.norm(sampled - points[:, None], axis=2).min(1)
    distance = np.linalg.norm(found - points, axis=1)
    assert (distance <= best + 1e-12).all()
    assert np.abs(distance - best).max() < 0.1
    # The found point lies in its triangle: its barycentric coordinates are a convex combination.
    A = np.concatenate([triangles.transpose(0, 2, 1), np.ones((300, 1, 3))], 1)
    for m, p in zip(A, found, strict=True):
        bary = np.linalg.lstsq(m, np.append(p, 1), rcond=None)[0]
        assert bary.min() > -1e-9
        np.testing.assert_allclose(m @ bary, np.append(p, 1), atol=1e-9)


def test_closest_point_of_a_mesh_equals_the_search_over_all_triangles():
    verts, faces = bumpy_sheet(12)
    # One triangle much larger than the rest, whose centroid is far from most of its surface.
    verts = np.concatenate([verts, [[-400.0, -300, 60], [400, -300, 60], [0, 700, 60]]])
    faces = np.concatenate([faces, [[144, 145, 146]]])
    points = np.random.default_rng(1).uniform(-120, 120, (200, 3))
    every = closest_on_triangles(points[:, None], verts[faces][None])
    expected = np.linalg.norm(every - points[:, None], axis=2).min(1)
    np.testing.assert_allclose(MeshSurface(verts, faces).distance(points), expected, atol=1e-9)


def test_plane_at_two_millimetres_reports_two_millimetres():
    verts, faces = bumpy_sheet()
    flat = verts * [1, 1, 0]
    np.testing.assert_allclose(MeshSurface(flat, faces).distance(flat + np.array([0, 0, 2.0])), 2.0, atol=1e-12)


def test_similarity_recovers_the_transform():
    rng = np.random.default_rng(2)
    points = rng.normal(size=(7, 3))
    R = Rotation.random(random_state=3).as_matrix()
    scale, R_found, T = similarity(points, 1.7 * points @ R.T + [1, 2, 3])
    assert scale == pytest.approx(1.7)
    np.testing.assert_allclose(R_found, R, atol=1e-12)
    np.testing.assert_allclose(T, [1, 2, 3], atol=1e-12)


def test_a_face_is_at_distance_zero_of_itself_however_turned_and_scaled():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    R = Rotation.from_euler("xyz", [30, -50, 70], degrees=True).as_matrix()
    error = scan_error(0.01 * verts @ R.T + [5, 6, 7], faces, 0.01 * marks @ R.T + [5, 6, 7], verts, marks)
    assert error.distances.max() < 1e-6
    assert error.scale == pytest.approx(100)


def test_error_does_not_depend_on_the_frame_of_the_reconstruction():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    wrong = verts + 2 * np.sin(verts[:, [1, 2, 0]] / 17)
    wrong_marks = marks + 2 * np.sin(marks[:, [1, 2, 0]] / 17)
    R = Rotation.from_euler("xyz", [10, 20, -15], degrees=True).as_matrix()
    here = scan_error(wrong, faces, wrong_marks, verts, marks)
    there = scan_error(3 * wrong @ R.T - 9, faces, 3 * wrong_marks @ R.T - 9, verts, marks)
    np.testing.assert_allclose(there.distances, here.distances, atol=1e-6)
    assert 0.1 < here.median < here.mean + here.std


def test_only_the_face_within_reach_of_the_nose_counts():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    far = np.array([[0.0, 96.0, 0.0], [0.0, 0.0, -96.0]]) + marks[30]
    error = scan_error(verts, faces, marks, np.concatenate([verts, far]), marks)
    reachable = np.linalg.norm(verts - marks[30], axis=1) <= 95
    assert len(error.distances) == reachable.sum()


def test_icp_mends_wrong_landmarks():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    shifted = marks + np.random.default_rng(4).normal(size=(68, 3)) * 2
    error = scan_error(verts, faces, shifted, verts, marks)
    seven = list(ALIGNMENT_LANDMARKS)
    scale, R, T = similarity(shifted[seven], marks[seven])
    refined = np.linalg.norm(error.scale * verts @ error.R.T + error.T - verts, axis=1).mean()
    assert refined < 0.3 * np.linalg.norm(scale * verts @ R.T + T - verts, axis=1).mean()
