"""What the evaluations read, and the baselines that they run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from judged_faces import FACES, as_prediction, some_camera, some_faces, some_photo, write_scan

from raylib.config import EvaluateShapeConfig
from raylib.errors import ConfigError
from raylib.evaluation.baselines import EosBaseline, LandmarkBaseline, LandmarkSource, MeanFace
from raylib.evaluation.results import ResultsFolder, model_landmarks, points_under
from raylib.evaluation.shape.errors import shape_errors
from raylib.evaluation.shape.regions import FACE_REGIONS, prior_regions, region_points
from raylib.evaluation.shape.run import evaluate_shapes, run_shape, shape_report
from raylib.evaluation.truth import known_faces, prior_truth
from raylib.morphable.model import load_prior

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
    from raylib.reconstruction import schema as rows

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
    from raylib.reconstruction import schema as rows

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
