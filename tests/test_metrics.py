"""Distances of a reconstruction from a scan: exactness, invariance, known offsets."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from raylib.geometry.closest import MeshSurface, surface_normals
from raylib.geometry.landmarks68 import ALIGNMENT_LANDMARKS
from raylib.geometry.similarity import Alignment, similarity
from raylib.metrics.scan_error import angles_deg, refine_alignment, scan_error


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


def closest_by_sampling_edges_and_foot(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Distances (n, f) of points from triangles by linear algebra of its own: the best of foot and edges."""
    out = np.full((len(points), len(triangles)), np.inf)
    for j, (a, b, c) in enumerate(triangles):
        for p, q in ((a, b), (b, c), (c, a)):
            length2 = (q - p) @ (q - p)
            t = np.clip((points - p) @ (q - p) / length2, 0, 1) if length2 > 0 else np.zeros(len(points))
            out[:, j] = np.minimum(out[:, j], np.linalg.norm(p + t[:, None] * (q - p) - points, axis=1))
        sides = np.stack([b - a, c - a], axis=1)
        if np.linalg.matrix_rank(sides) == 2:
            share = np.linalg.lstsq(sides, (points - a).T, rcond=None)[0]
            foot = a + (sides @ share).T
            inside = (share >= 0).all(0) & (share.sum(0) <= 1)
            out[inside, j] = np.minimum(out[inside, j], np.linalg.norm(foot - points, axis=1)[inside])
    return out


def test_closest_point_of_a_mesh_equals_the_search_over_all_triangles():
    verts, faces = bumpy_sheet(12)
    # One triangle much larger than the rest, whose centroid is far from most of its surface; a needle; two without
    # area, one of them a single point.
    verts = np.concatenate([verts, [[-400.0, -300, 60], [400, -300, 60], [0, 700, 60], [10, 20, 90], [30, 60, 270]]])
    special = [[144, 145, 146], [3, 4, 147], [147, 148, 148], [147, 147, 147], [3, 15, 15]]
    faces = np.concatenate([faces, special])
    points = np.random.default_rng(1).uniform(-120, 120, (200, 3))
    points[:20] = verts[[*range(15), 144, 145, 146, 147, 148]]  # on the surface
    expected = closest_by_sampling_edges_and_foot(points, verts[faces]).min(1)
    surface = MeshSurface(verts, faces)
    found = surface.closest(points)
    np.testing.assert_allclose(found.distance, expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(found.point - points, axis=1), expected, atol=1e-9)
    assert found.bary.min() >= 0
    np.testing.assert_allclose(found.bary.sum(1), 1, atol=1e-12)
    # A hint, right or wrong, changes nothing.
    for near in (found.face, np.zeros(200, dtype=int)):
        np.testing.assert_allclose(surface.closest(points, near).distance, expected, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 17])
def test_meshes_of_few_triangles(count):
    triangles = np.random.default_rng(count).normal(size=(count, 3, 3))
    points = np.random.default_rng(0).normal(size=(50, 3)) * 2
    surface = MeshSurface(triangles.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3))
    expected = closest_by_sampling_edges_and_foot(points, triangles).min(1)
    np.testing.assert_allclose(surface.distance(points), expected, atol=1e-12)


def test_distances_agree_with_trimesh():
    verts, faces = bumpy_sheet()
    points = verts[::3] + np.random.default_rng(6).normal(size=verts[::3].shape) * 8
    mesh = trimesh.Trimesh(verts, faces, process=False)
    expected = trimesh.proximity.closest_point(mesh, points)[1]
    assert np.abs(MeshSurface(verts, faces).distance(points) - expected).max() < 1e-5


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
    assert error.alignment.scale == pytest.approx(100)


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
    refined = np.linalg.norm(error.alignment.apply(verts) - verts, axis=1).mean()
    assert refined < 0.02 * np.linalg.norm(scale * verts @ R.T + T - verts, axis=1).mean()


def test_without_scale_a_wrong_size_counts():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    R = Rotation.from_euler("xyz", [20, 10, -40], degrees=True).as_matrix()
    moved, moved_marks = verts @ R.T + [3, 4, 5], marks @ R.T + [3, 4, 5]
    assert scan_error(moved, faces, moved_marks, verts, marks, with_scale=False).distances.max() < 1e-6
    large = scan_error(1.05 * moved, faces, 1.05 * moved_marks, verts, marks, with_scale=False)
    assert large.alignment.scale == 1
    assert large.median > 0.5
    assert scan_error(1.05 * moved, faces, 1.05 * moved_marks, verts, marks).distances.max() < 1e-6


def test_refining_finds_the_least_squared_distance():
    """No small motion of what was found is better, and thousands of plain closest-point steps end there too."""
    verts, faces = bumpy_sheet()
    scan = verts[::3] + 1.5 * np.sin(verts[::3][:, [1, 2, 0]] / 17)
    surface = MeshSurface(verts, faces)
    start = Alignment(0.97, Rotation.from_euler("xyz", [3, -4, 5], degrees=True).as_matrix(), np.array([2.0, -3, 1]))

    def cost(alignment: Alignment) -> float:
        return float(((alignment.scale * surface.distance(alignment.undo(scan))) ** 2).mean())

    plain = start
    for _ in range(1500):
        plain = Alignment.of_points(surface.closest(plain.undo(scan)).point, scan)
    assert cost(refine_alignment(surface, start, scan)) < 1.002 * cost(plain)


def test_too_few_landmarks_are_an_error():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    few = np.full((68, 3), np.nan)
    few[[36, 39, 42]] = marks[[36, 39, 42]]
    with pytest.raises(ValueError, match="3 of the seven landmarks are on both sides, expected at least 4"):
        scan_error(verts, faces, few, verts, marks)
    few[45] = marks[45]
    assert scan_error(verts, faces, few, verts, marks).median < 1e-6


def test_a_scan_far_from_its_nose_tip_is_an_error():
    verts, faces = bumpy_sheet()
    marks = pick_landmarks(verts)
    with pytest.raises(ValueError, match="no scan point lies within 95 mm of the nose tip"):
        scan_error(verts, faces, marks, verts + 1000, marks)


def test_normals_and_their_angles():
    verts, faces = bumpy_sheet()
    surface = MeshSurface(verts, faces)
    np.testing.assert_allclose(surface.normals_at(surface.closest(verts)), surface_normals(verts, faces), atol=1e-6)
    assert (surface_normals(verts * [1, 1, 0], faces) == [0, 0, 1]).all()
    a = np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 1]])
    b = np.array([[0.0, 1, 0], [-1, 0, 0], [0, np.sin(1e-5), np.cos(1e-5)]])
    np.testing.assert_allclose(angles_deg(a, b), [90, 180, np.degrees(1e-5)], rtol=1e-9)
