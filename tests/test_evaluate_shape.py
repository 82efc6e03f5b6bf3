"""Known answers of the shape evaluation, through the files and through the command."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from raylib.camera import Camera, rotation_from_euler_deg
from raylib.config import EvaluateShapeConfig
from raylib.errors import ConfigError
from raylib.evaluation.baselines import EosBaseline, LandmarkBaseline, LandmarkSource, MeanFace
from raylib.evaluation.faces import Prediction, TruePhoto
from raylib.evaluation.regions import FACE_REGIONS, prior_regions, region_points
from raylib.evaluation.results import ResultsFolder, model_landmarks, points_under
from raylib.evaluation.run_shape import evaluate_shapes, run_shape, shape_report
from raylib.evaluation.scans import LANDMARK_NAMES
from raylib.evaluation.shape import FIGURES, landmark_nme, pose_error_deg, shape_errors
from raylib.evaluation.shape_report import summarise
from raylib.evaluation.truth import known_faces, prior_truth
from raylib.metrics import Alignment, surface_normals
from raylib.model_files import load_model
from raylib.morphable import load_prior

ROOT = Path(__file__).parent.parent
FACES = load_prior().faces.numpy()


def some_faces(n: int, seed: int = 0) -> np.ndarray:
    """Vertices of random faces of the prior, millimetres."""
    prior = load_prior()
    g = torch.Generator().manual_seed(seed)
    return prior.verts(torch.randn(n, prior.identity.shape[0], generator=g)).double().numpy()


def some_camera(yaw: float = 20.0, pitch: float = -5.0, roll: float = 4.0) -> Camera:
    R = rotation_from_euler_deg(torch.tensor([[yaw, pitch, roll]], dtype=torch.float64))
    T, focal = torch.tensor([[5.0, -20.0, 700.0]]).double(), torch.tensor([700.0]).double()
    return Camera(R, T, focal, torch.tensor([[128.0, 120.0]]).double())


def some_photo(verts: np.ndarray, camera: Camera) -> TruePhoto:
    marks = model_landmarks(load_prior(), verts)
    px = camera.project(torch.from_numpy(marks)[None])[0].numpy()
    return TruePhoto(np.zeros((256, 256, 3), np.uint8), camera, px, np.arange(68) > 10)


def as_prediction(verts: np.ndarray, **more) -> Prediction:
    return Prediction(verts, FACES, model_landmarks(load_prior(), verts), in_prior_topology=True, **more)


def write_scan(folder: Path, name: str, verts: np.ndarray, faces: np.ndarray, marks: np.ndarray, extra: str = ""):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in verts] + [f"f {a} {b} {c}" for a, b, c in faces + 1]
    (folder / f"{name}.obj").write_text("\n".join(lines))
    text = [f"{n} {marks[i, 0]:.9f} {marks[i, 1]:.9f} {marks[i, 2]:.9f}" for n, i in LANDMARK_NAMES.items()]
    (folder / f"{name}.landmarks").write_text("\n".join([extra, *text]))


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


# --- files -------------------------------------------------------------------------------------------------------


def test_scans_in_metres_or_without_a_nose_tip_are_the_same_faces(tmp_path):
    verts = some_faces(1)[0]
    marks = model_landmarks(load_prior(), verts)
    write_scan(tmp_path / "mm", "a", verts, FACES, marks)
    write_scan(tmp_path / "m", "sub", verts / 1000, FACES, marks / 1000, "# head\nunit m\n")
    file = tmp_path / "m" / "sub.landmarks"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if "nose_tip" not in line))
    (here,), (there,) = known_faces(str(tmp_path / "mm"), 100), known_faces(str(tmp_path / "m"), 100)
    np.testing.assert_allclose(here.scan, there.scan, atol=1e-4)
    np.testing.assert_allclose(here.landmarks[33], there.landmarks[33], atol=1e-4)
    assert np.linalg.norm(here.landmarks[30] - there.landmarks[30]) < 5
    assert (here.name, there.name) == ("a", "sub")
    np.testing.assert_allclose(here.landmarks[30], marks[30], atol=1e-6)


def test_a_scan_without_triangles_is_a_cloud_of_points(tmp_path):
    import trimesh

    verts = some_faces(1)[0]
    write_scan(tmp_path, "a", verts, FACES, model_landmarks(load_prior(), verts))
    (tmp_path / "a.obj").unlink()
    trimesh.PointCloud(verts).export(tmp_path / "a.ply")
    (face,) = known_faces(str(tmp_path), 100)
    assert (len(face.faces), face.scan_normals) == (0, None)
    errors = shape_errors(as_prediction(verts), face, region_points(face))
    assert errors.distances.max() < 1e-3
    assert np.isnan(errors.figures["normals_deg"])
    assert np.isnan(errors.figures["vertex_mm"])


def test_anchors_of_a_scan_name_places_of_the_face(tmp_path):
    verts = some_faces(1)[0]
    write_scan(tmp_path, "a", verts[:, [2, 0, 1]], FACES, model_landmarks(load_prior(), verts[:, [2, 0, 1]]))
    (face,) = known_faces(str(tmp_path), 100)
    prior = load_prior().mean.numpy()
    near = np.linalg.norm(prior - prior[load_prior().landmark_verts[30]], axis=1) < 80
    apart = np.linalg.norm(prior[face.anchor] - prior, axis=1)[near]
    assert np.median(apart) < 4
    own = region_points(face)
    for i, name in enumerate(FACE_REGIONS):
        assert np.isin(own[name], np.flatnonzero(prior_regions() == i)).mean() > 0.8, name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nose_bas 1 2 3", "is 'nose_bas 1 2 3', expected 'unit mm|cm|m'"),
        ("nose_base 1 2", "expected 'unit mm|cm|m', 'image FILE' or one of right_eye_outer"),
        ("unit inch", "is 'unit inch'"),
        ("mouth_left nan nan nan", "has no finite mouth_left, expected the seven landmarks"),
        ("image none.jpg", "cannot be read"),
    ],
)
def test_a_mistake_in_a_landmark_file_is_one_sentence(tmp_path, line, message):
    verts = some_faces(1)[0]
    write_scan(tmp_path, "a", verts, FACES, model_landmarks(load_prior(), verts))
    with (tmp_path / "a.landmarks").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ConfigError) as mistake:
        list(known_faces(str(tmp_path), 100))
    assert message in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_broken_and_missing_files_are_one_sentence(tmp_path):
    verts = some_faces(1)[0]
    marks = model_landmarks(load_prior(), verts)
    with pytest.raises(ConfigError, match="holds no known faces"):
        known_faces(str(tmp_path), 100)
    write_scan(tmp_path / "t", "a", verts, FACES, marks)
    (tmp_path / "t" / "a.obj").write_text("v 1 2 3\nf 1 2 3\n")
    with pytest.raises(ConfigError, match="is no mesh: ValueError: a triangle names a vertex outside of its 1"):
        list(known_faces(str(tmp_path / "t"), 100))
    (tmp_path / "t" / "a.obj").unlink()
    with pytest.raises(ConfigError, match=r"has no \.obj or \.ply beside it"):
        list(known_faces(str(tmp_path / "t"), 100))
    with pytest.raises(ConfigError, match="do not exist"):
        ResultsFolder("x", str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="hold no reconstructed face"):
        ResultsFolder("x", str(tmp_path / "empty"))


def test_results_of_other_faces_are_an_error(tmp_path):
    verts = some_faces(1)[0]
    marks = model_landmarks(load_prior(), verts)
    write_scan(tmp_path / "truth", "a", verts, FACES, marks)
    write_scan(tmp_path / "mine", "b", verts, FACES, marks)
    config = EvaluateShapeConfig(str(tmp_path / "truth"), str(tmp_path / "out"), f"mine={tmp_path / 'mine'}")
    with pytest.raises(ConfigError, match="hold no face of truth"):
        run_shape(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baselines": "eos"}, "sfm is '', expected the path of sfm_shape_3448.bin for the baseline eos"),
        ({"baselines": "mean"}, "baselines is 'mean', expected all, or some of landmarks, sfm, eos"),
        ({"results": ["a=x", "a=y"]}, "results is 'a=y', expected every name once"),
        ({"results": "a="}, "results is 'a=', expected a folder or NAME=FOLDER"),
        ({"landmark_noise_px": 1.0}, "expected 0 with detected landmarks"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError) as mistake:
        EvaluateShapeConfig(truth="t", out="o", **settings)
    assert message in str(mistake.value)


def test_names_of_results_and_baselines():
    config = EvaluateShapeConfig(truth="t", out="o", results=["ours=out/a", "out/b/"], baselines="all")
    assert config.result_folders == {"ours": "out/a", "b": "out/b/"}
    assert config.chosen_baselines == ("landmarks",)
    assert replace(config, sfm="x").chosen_baselines == ("landmarks", "sfm", "eos")


def test_points_under_landmarks_are_those_that_the_camera_shows():
    verts, camera = some_faces(1)[0], some_camera(yaw=10)
    marks = model_landmarks(load_prior(), verts)
    shown = np.arange(27, 68)
    px = camera.project(torch.from_numpy(marks)[None])[0].numpy()
    px[0] = [-50, 10]  # beside the face
    found = points_under(px, verts, FACES, camera)
    assert np.isnan(found[0]).all()
    again = camera.project(torch.from_numpy(found)[None])[0].numpy()
    np.testing.assert_allclose(again[shown], px[shown], atol=1e-6)
    depth = camera.to_camera(torch.from_numpy(np.stack([found, marks])))[..., 2].numpy()
    assert (depth[0, shown] <= depth[1, shown] + 1e-6).all()  # nothing lies before them
    assert np.median(np.linalg.norm(found - marks, axis=1)[shown]) < 1e-3


def test_a_mesh_whose_topology_has_no_landmarks_takes_those_of_the_picture(tmp_path):
    from raylib.reconstruction import rows

    verts, camera = some_faces(1)[0], some_camera()
    photo = some_photo(verts, camera)
    row = {
        "image_uri": "x/a.png", "image_sha256": "0", "face_index": 0, "status": "ok", "method": "meshnet_paper",
        "morphable_model": "meshnet_paper", "verts_mm": verts.astype(np.float32).ravel(),
        "landmarks_68": photo.landmarks_px.ravel(), "R": camera.R[0].flatten().tolist(),
        "T_mm": camera.T[0].tolist(), "focal_px": 700.0, "principal_px": [128.0, 120.0],
    }  # fmt: skip
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "part-0.parquet").write_bytes(rows.to_parquet([row]))
    truth = prior_truth("a", verts, 500, photo)
    found = ResultsFolder("paper", str(tmp_path))(truth)
    assert not found.in_prior_topology
    errors = shape_errors(found, truth, region_points(truth))
    assert errors.distances.max() < 1e-3
    assert errors.figures["landmark_nme"] < 1e-3


def test_results_are_found_by_content_before_name(tmp_path):
    from raylib.reconstruction import rows

    verts, camera = some_faces(3), some_camera()

    def row(uri: str, digest: str, v: np.ndarray) -> dict:
        return {
            "image_uri": uri, "image_sha256": digest, "face_index": 0, "status": "ok", "morphable_model": "prior",
            "verts_mm": v.astype(np.float32).ravel(), "R": camera.R[0].flatten().tolist(),
            "T_mm": camera.T[0].tolist(), "focal_px": 700.0, "principal_px": [128.0, 120.0],
        }  # fmt: skip

    table = [row("x/a.png", "h0", verts[0]), row("y/a.png", "h1", verts[1]), row("y/copy.png", "h1", verts[1])]
    table += [row("y/b.png", "h2", verts[2]), {**row("y/c.png", "h3", verts[2]), "status": "no_face"}]
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "part-0.parquet").write_bytes(rows.to_parquet(table))
    results = ResultsFolder("x", str(tmp_path))

    def found(*keys: str) -> int | None:
        answer = results(prior_truth("t", verts[0], 100, keys=keys))
        if answer is None:
            return None
        return int(np.abs(answer.verts - verts).max((1, 2)).argmin())

    assert found("h1") == 1
    assert found("b", "h0") == 0  # content before name
    assert found("b") == 2
    assert found("a") is None  # two pictures of this name
    assert found("c") is None
    assert found("copy") == 1


# --- baselines ---------------------------------------------------------------------------------------------------


def test_the_landmark_fit_beats_the_mean_face():
    verts, cameras = some_faces(4, seed=3), [some_camera(yaw) for yaw in (-30, 0, 20, 40)]
    truths = [
        prior_truth(f"{i}", v, 800, some_photo(v, c)) for i, (v, c) in enumerate(zip(verts, cameras, strict=True))
    ]
    source = LandmarkSource("true", 0.5)
    errors = evaluate_shapes(truths, [MeanFace(source), LandmarkBaseline("fit", load_prior(), source, 0)])
    report = shape_report(errors, 20, 0)["methods"]["fit"]
    for figure in ("vertex_mm", "pose_deg", "landmark_nme"):
        assert report[figure]["ratio"]["value"] < 0.75, figure
    assert report["pose_deg"]["value"] < 3
    assert {band: m["faces"] for band, m in report["by_yaw"].items()} == {"0 to 15": 1, "15 to 35": 2, "35 to 90": 1}
    assert report["landmark_nme"]["value"] < 0.02


def test_landmark_noise_belongs_to_the_face_and_the_seed():
    verts = some_faces(2)
    truths = [prior_truth(f"{i}", v, 100, some_photo(v, some_camera())) for i, v in enumerate(verts)]
    one, two = LandmarkSource("true", 2.0, seed=1), LandmarkSource("true", 2.0, seed=1)
    first = [one(t) for t in truths]
    again = [two(t) for t in reversed(truths)][::-1]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], LandmarkSource("true", 2.0, seed=2)(truths[0]))
    noise = first[0] - truths[0].photo.landmarks_px
    assert 1.5 < noise.std() < 2.5


def test_eos_projects_its_mesh_onto_the_landmarks_it_was_given(shared_data):
    pytest.importorskip("eos")
    verts, camera = some_faces(1)[0], some_camera(yaw=10)
    truth = prior_truth("a", verts, 500, some_photo(verts, camera))
    found = EosBaseline(shared_data("sfm") / "sfm_shape_3448.bin", LandmarkSource("true"))(truth)
    px = found.camera.project(torch.from_numpy(found.landmarks)[None])[0].numpy()
    inner = np.arange(17, 60)  # without the jaw, where eos takes other vertices
    off = np.linalg.norm(px - truth.photo.landmarks_px, axis=1)[inner]
    assert np.nanmedian(off) < 4
    assert np.nanmax(off) < 12
