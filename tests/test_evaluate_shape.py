"""Known answers of the shape evaluation, through the files and through the command."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from judged_faces import FACES, as_prediction, some_camera, some_faces, some_photo, write_scan
from scipy.spatial.transform import Rotation

from raylib.evaluation.baselines import MeanFace
from raylib.evaluation.faces import Prediction
from raylib.evaluation.results import model_landmarks
from raylib.evaluation.shape.errors import FIGURES, landmark_nme, pose_error_deg, shape_errors
from raylib.evaluation.shape.regions import FACE_REGIONS, prior_regions, region_points
from raylib.evaluation.shape.report import summarise
from raylib.evaluation.shape.run import evaluate_shapes, shape_report
from raylib.evaluation.truth import prior_truth
from raylib.geometry.camera import Camera
from raylib.geometry.closest import surface_normals
from raylib.geometry.similarity import Alignment
from raylib.morphable.model import load_prior
from raylib.morphable.readers import load_model

ROOT = Path(__file__).parent.parent

# --- known answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "angles"),
    [(1.0, (0, 0, 0)), (0.013, (20, -70, 130)), (2.5, (-35, 10, 5))],
    ids=["itself", "small", "large"],
)
def test_a_face_scaled_turned_and_moved_is_right_in_every_figure(scale, angles):
    verts = some_faces(1)[0]
    camera = some_camera()
    truth = prior_truth("a", verts, 2000, some_photo(verts, camera))
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    moved = scale * verts @ turn.T + [40, -7, 3]
    # The camera that shows the moved face where the true one shows the true face.
    R = camera.R[0].numpy() @ turn.T
    T = scale * camera.T[0].numpy() - R @ [40, -7, 3]
    seen = Camera(torch.from_numpy(R)[None], torch.from_numpy(T)[None], camera.focal_px, camera.principal_px)
    errors = shape_errors(as_prediction(moved, camera=seen), truth, region_points(truth))
    assert errors.distances.max() < 1e-5
    assert set(errors.figures) == set(FIGURES)
    for name, value in errors.figures.items():
        if name == "surface":
            assert value == pytest.approx(1, abs=1e-4)
        else:
            assert value < (1e-3 if name.endswith("deg") else 1e-6), name
    if scale == 1:
        assert errors.distances_rigid.max() < 1e-5
    else:
        assert np.median(errors.distances_rigid) > 1


def test_a_mesh_shifted_along_its_normals_by_a_millimetre():
    verts = some_faces(1)[0]
    truth = prior_truth("a", verts, 4000)
    shifted = as_prediction(verts + surface_normals(verts, FACES))
    errors = shape_errors(shifted, truth, region_points(truth), align=False)
    assert np.median(errors.distances) == pytest.approx(1.0, rel=0.02)
    assert errors.figures["vertex_mm"] == pytest.approx(1.0, abs=1e-5)
    for name in FACE_REGIONS:
        assert errors.figures[name] == pytest.approx(1.0, rel=0.05), name  # lips touch


def test_layers_of_surface_near_the_truth_are_told_from_the_truth():
    verts = some_faces(1)[0]
    truth = prior_truth("a", verts, 2000)
    layers = [verts + step * surface_normals(verts, FACES) for step in (-2, -1, 0, 1, 2)]
    faces = np.concatenate([FACES + len(verts) * i for i in range(5)])
    one = as_prediction(verts)
    crumpled = replace(one, verts=np.concatenate(layers), faces=faces, in_prior_topology=False)
    errors = shape_errors(crumpled, truth, region_points(truth), align=False)
    assert errors.distances.max() < 1e-5
    assert errors.figures["surface"] == pytest.approx(5, rel=0.02)


@pytest.mark.slow
def test_a_plane_two_millimetres_off_reports_two_millimetres(tmp_path):
    x, y = np.meshgrid(np.linspace(-90, 90, 40), np.linspace(-110, 80, 40))
    verts = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    i = np.arange(1600).reshape(40, 40)
    a, b, c, d = i[:-1, :-1].ravel(), i[:-1, 1:].ravel(), i[1:, 1:].ravel(), i[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    marks = load_prior().mean.numpy()[load_prior().landmark_verts.numpy()] * [1, 1, 0]
    write_scan(tmp_path / "truth", "plane", verts, faces, marks)
    up = np.array([0, 0, 2.0])
    write_scan(tmp_path / "off", "plane", verts + up, faces, marks + up)
    out = tmp_path / "out"
    words = [
        "shape",
        f"--truth={tmp_path / 'truth'}",
        f"--out={out}",
        f"--results={tmp_path / 'off'}",
        "--align=false",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs/evaluate.py"), *words, "--pictures=false"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "shape.json").read_text())["methods"]["off"]
    assert figures["scan_to_mesh"]["median"]["value"] == pytest.approx(2.0, abs=1e-5)
    assert figures["scan_to_mesh"]["mean"]["value"] == pytest.approx(2.0, abs=1e-5)
    assert figures["scan_to_mesh"]["std"]["value"] < 1e-5
    assert figures["normals_deg"]["value"] < 1e-5
    assert "| off | 1 | 2.00 |" in (out / "shape.md").read_text()
    assert (out / "shape.md").read_text() == done.stdout


@pytest.mark.slow
def test_the_mean_face_on_new_ict_identities_scores_what_it_is_known_to(shared_data):
    """Neutral faces with 100 modes ~ N(0, 1): 0.97 mm median, 1.24 mean, 2.30 from vertex to vertex, 9.8 degrees."""
    ict = load_model(str(shared_data("ict/ict_facekit.npz")))
    n = 9409  # the vertices of the face come first
    g = torch.Generator().manual_seed(11)
    verts = ict.verts(torch.randn(24, ict.identity.shape[0], generator=g))[:, :n].double().numpy()
    faces = ict.faces.numpy()
    faces, mean, marks = faces[(faces < n).all(1)], ict.mean[:n].double().numpy(), ict.landmark_verts.numpy()
    truths = []
    for i, v in enumerate(verts):
        blank = prior_truth(f"{i}", load_prior().mean.numpy(), 100)
        normals = surface_normals(v, faces)
        truths.append(
            replace(
                blank,
                scan=v,
                scan_normals=normals,
                anchor=np.zeros(n, int),
                landmarks=v[marks],
                verts=v,
                faces=faces,
                in_prior_topology=False,
            )
        )

    class IctMean:
        name = "mean face"

        def __call__(self, face):
            return Prediction(mean, faces, mean[marks])

    errors = evaluate_shapes(truths, [IctMean()])
    report = summarise(errors["mean face"], errors["mean face"], 100, 0)
    assert report["scan_to_mesh"]["median"]["value"] == pytest.approx(0.97, abs=0.08)
    assert report["scan_to_mesh"]["mean"]["value"] == pytest.approx(1.24, abs=0.1)
    assert report["scan_to_mesh"]["ratio"] == {"value": 1.0, "ci95": [1.0, 1.0]}


def test_pose_error_is_the_angle_between_heads_whatever_the_models_own_frame():
    true = some_camera(20, -5, 4)
    own_frame = Rotation.from_euler("xyz", [6.6, -3, 2], degrees=True).as_matrix()
    for axis, angle in ((0, 7.0), (1, -12.0), (2, 33.0)):
        wrong = Rotation.from_rotvec(np.radians(angle) * np.eye(3)[axis]).as_matrix()
        # A model whose frame is turned sees the head as R_true own_frame; then its pose is wrong by `wrong`.
        R = torch.from_numpy(wrong @ true.R[0].numpy() @ own_frame)[None]
        predicted = Camera(R, true.T, true.focal_px, true.principal_px)
        alignment = Alignment(1.3, own_frame, np.zeros(3))
        assert pose_error_deg(predicted, alignment, true) == pytest.approx(abs(angle), abs=1e-6)


def test_landmark_error_of_a_face_moved_across_the_picture():
    verts, camera = some_faces(1)[0], some_camera(yaw=50)
    truth = prior_truth("a", verts, 500, some_photo(verts, camera))
    moved = Camera(camera.R, camera.T, camera.focal_px, camera.principal_px + torch.tensor([[3.0, 4.0]]))
    eyes = truth.landmarks[[36, 45]]
    depth = float(camera.to_camera(torch.from_numpy(eyes)[None])[0, :, 2].mean())
    across = np.linalg.norm(eyes[1] - eyes[0]) * 700 / depth
    assert landmark_nme(as_prediction(verts, camera=moved), truth) == pytest.approx(5 / across, rel=1e-9)
    # Hidden landmarks do not count, nor do those that a model lacks.
    marks = model_landmarks(load_prior(), verts)
    marks[:11] += 50
    marks[60] = np.nan
    assert landmark_nme(replace(as_prediction(verts, camera=moved), landmarks=marks), truth) == pytest.approx(
        5 / across, rel=1e-9
    )


def test_regions_lie_where_their_names_say_and_mirror_each_other():
    prior = load_prior()
    region, verts, marks = prior_regions(), prior.mean.numpy(), prior.mean.numpy()[prior.landmark_verts.numpy()]
    inside = {name: verts[region == i] for i, name in enumerate(FACE_REGIONS)}
    assert inside["forehead"][:, 1].min() > marks[45, 1]
    assert inside["mouth"][:, 1].max() < marks[33, 1]
    assert (region[prior.landmark_verts.numpy()[48:60]] == FACE_REGIONS.index("mouth")).all()
    assert (region[prior.landmark_verts.numpy()[28:36]] == FACE_REGIONS.index("nose")).all()
    assert (region[prior.landmark_verts.numpy()[36:48]] == -1).all()
    assert region[prior.landmark_verts.numpy()[8]] == -1  # the chin
    assert (region[prior.mirror_verts.numpy()] == region).mean() > 0.99
    assert min(len(v) for v in inside.values()) > 100


# --- statistics --------------------------------------------------------------------------------------------------


def test_figures_pool_all_points_and_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    truth = prior_truth("0", some_faces(1)[0], 300)
    one = shape_errors(as_prediction(truth.verts), truth, region_points(truth))
    faces = {f"{i}": rng.gamma(4, 0.25, 400).astype(np.float32) for i in range(60)}
    mine = {k: replace(one, distances=d, distances_rigid=2 * d) for k, d in faces.items()}
    base = {k: replace(one, distances=2 * d, distances_rigid=2 * d) for k, d in faces.items()}
    report = summarise(mine, base, 400, 1)
    every = np.concatenate(list(faces.values())).astype(float)
    median = report["scan_to_mesh"]["median"]
    assert median["value"] == pytest.approx(np.median(every), abs=1e-6)
    assert report["scan_to_mesh"]["std"]["value"] == pytest.approx(every.std(), rel=1e-6)
    low, high = median["ci95"]
    draws = np.random.default_rng(2).integers(60, size=(300, 60))
    stacked = np.stack(list(faces.values()))
    expected = np.quantile([np.median(stacked[d]) for d in draws], [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.01)
    # Halved on every face: the ratio has no spread at all (but for bins of 0.01 mm).
    ratio = report["scan_to_mesh"]["ratio"]
    assert ratio["value"] == pytest.approx(0.5, abs=1e-6)
    assert ratio["ci95"] == pytest.approx([0.5, 0.5], abs=0.005)
    assert report["scan_to_mesh_rigid"]["ratio"]["value"] == pytest.approx(1.0)


def test_a_method_is_compared_with_the_mean_face_on_its_own_faces():
    verts = some_faces(6)
    truths = [prior_truth(f"{i}", v, 500) for i, v in enumerate(verts)]

    class Half:
        name = "half"

        def __call__(self, face):
            if int(face.name) > 3:
                return None
            mean = load_prior().mean.double().numpy()
            return as_prediction(mean + 0.5 * (face.verts - mean))

    errors = evaluate_shapes(truths, [MeanFace(), Half()])
    report = shape_report(errors, 50, 0)
    half = report["methods"]["half"]
    assert (half["faces"], half["missing"]) == (4, 2)
    assert half["scan_to_mesh"]["ratio"]["value"] == pytest.approx(0.5, abs=0.08)
    assert half["vertex_mm"]["ratio"]["value"] == pytest.approx(0.5, abs=0.03)
    assert report["common"]["faces"] == 4
    assert report["common"]["methods"]["mean face"]["faces"] == 4
    assert report["methods"]["mean face"]["missing"] == 0


def test_a_mesh_that_cannot_be_measured_is_missing(caplog):
    verts = some_faces(3)
    truths = [prior_truth(f"{i}", v, 300) for i, v in enumerate(verts)]

    class Faulty:
        name = "faulty"

        def __call__(self, face):
            answer = as_prediction(face.verts)
            if face.name == "0":
                return replace(answer, landmarks=np.full((68, 3), np.nan))
            return replace(answer, verts=answer.verts * np.nan) if face.name == "1" else answer

    report = shape_report(evaluate_shapes(truths, [MeanFace(), Faulty()]), 10, 0)
    assert (report["methods"]["faulty"]["faces"], report["methods"]["faulty"]["missing"]) == (1, 2)
    assert "face 0 by method faulty cannot be measured: 0 of the seven landmarks" in caplog.text
    assert "face 1 by method faulty cannot be measured: it has vertices that are not finite" in caplog.text
