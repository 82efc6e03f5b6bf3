"""A reconstruction that shows no face is told from one that does, by one number."""

import math

import numpy as np
import pytest
from false_faces import cartoon, drawing_of, halves
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylib.config import FaceSettings, ReconstructConfig, SynthesisSettings
from raylib.detection.alignment import CROP_PX, FoundFace, Patch, crop_face
from raylib.detection.detector import FaceDetector
from raylib.io.images import decode
from raylib.io.storage import Location
from raylib.metrics.quality import Evidence, Quality, picture_evidence
from raylib.pipeline import load_method
from raylib.reconstruction.detect_stage import AnalysedImage
from raylib.reconstruction.mesh_stage import MeshingSettings, ReconstructStage
from raylib.runtime.command import parse
from raylib.synthesis import FaceSynthesizer


@pytest.fixture(scope="module")
def synthetic() -> list[np.ndarray]:
    make = FaceSynthesizer("prior", SynthesisSettings(size_px=320, yaw_deg=15.0))
    return [np.asarray(image) for image in make([31, 33, 36]).image]


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(FaceSettings())


@pytest.fixture(scope="module", params=["meshnet", "landmarks"])
def rows_of(request, tmp_path_factory, detector):
    """Function that returns the rows of a picture."""
    output = tmp_path_factory.mktemp("out")
    config = ReconstructConfig("none", str(output), method=request.param, write_preview=False, segment=True)
    stage = ReconstructStage(load_method(config), Location(str(output)), MeshingSettings(config, ""))

    def rows(rgb: np.ndarray) -> list[dict]:
        height, width = rgb.shape[:2]
        faces = tuple(
            FoundFace(f, crop_face(rgb, f.landmarks, CROP_PX), Patch(rgb, np.zeros(2), 1.0)) for f in detector(rgb)
        )
        status = "ok" if faces else "no_face"
        made = stage.rows([AnalysedImage("x.png", status, sha256="0" * 64, width=width, height=height, faces=faces)])
        for row in made:
            assert (row["status"] == "ok") == bool(row.get("obj_uri")) == (row.get("verts_mm") is not None)
            if row["status"] == "low_quality":
                assert row["error_stage"] == "quality" and "faces.min_quality" in row["error_message"]
                assert len(row["landmarks_68"]) == 136 and row["quality"] < config.faces.min_quality
        return made

    rows.method = request.param
    return rows


def statuses(rows: list[dict]) -> set[str]:
    return {row["status"] for row in rows}


def test_faces_are_faces_at_any_roll(rows_of, astronaut, synthetic):
    for picture in (astronaut, *synthetic):
        (upright,) = rows_of(picture)
        assert upright["status"] == "ok" and upright["quality"] > 0.5
        for roll_deg in (35, -90) if picture is astronaut else (120,):
            turned = Image.fromarray(picture).rotate(-roll_deg, Image.Resampling.BICUBIC)
            (row,) = rows_of(np.asarray(turned))
            assert row["status"] == "ok" and row["quality"] > 0.5
            change = (row["roll_deg"] - upright["roll_deg"] - roll_deg + 180) % 360 - 180
            assert abs(change) < 4
            apart = (row["verts_mm"] - upright["verts_mm"]).reshape(-1, 3)
            # A face of 80 pixels: its landmarks are whole pixels, which a turn rounds otherwise.
            assert np.linalg.norm(apart, axis=1).mean() < (1.5 if picture is astronaut else 2.5)


def test_drawings_are_no_faces(rows_of, astronaut, synthetic):
    rng = np.random.default_rng(1)
    head = astronaut[:300, 80:380]
    drawn = [drawing_of(picture, rng) for picture in (head, *synthetic) for _ in range(4)]
    drawn += [cartoon(np.random.default_rng(seed)) for seed in range(4)]
    rows = [row for picture in drawn for row in rows_of(picture)]
    found = [row for row in rows if row["status"] != "no_face"]
    assert len(found) >= 3
    kept = sum(row["status"] == "ok" for row in found)
    assert kept <= 0.25 * len(found)


def test_halves_of_two_people_are_no_face(rows_of, detector, astronaut, synthetic):
    crops = [crop_face(p, detector(p)[0].landmarks, 256, 1.3).rgb for p in (astronaut, *synthetic)]
    rng = np.random.default_rng(2)
    pairs = [(0, 1), (2, 0), (1, 3), (3, 2), (0, 3), (2, 1)]
    rows = [row for a, b in pairs for row in rows_of(halves(crops[a], crops[b], rng))]
    found = [row for row in rows if row["status"] != "no_face"]
    assert len(found) >= 3
    assert sum(row["status"] == "ok" for row in found) <= 0.35 * len(found)


def test_a_profile_has_no_mesh(rows_of, photographs):
    rows = rows_of(decode((photographs / "camera.png").read_bytes(), 10**7).rgb)
    assert "ok" not in statuses(rows)


def some_evidence(**changed) -> Evidence:
    values = {"detector": "hog", "detector_score": 1.2, "landmark_spread": 0.006, "mirror_error": 0.008}
    values |= {"landmark_nme": 0.03, "plainness": -0.4, "seam": 0.4, "psnr": 27.0, "strangeness": -0.5}
    return Evidence(**values | changed)


@settings(deadline=None)
@given(
    st.sampled_from(["hog", "cnn"]), st.floats(-1, 5), st.floats(0, 1), st.floats(0, 1),
    st.one_of(st.floats(0, 1), st.just(math.nan)), st.one_of(st.none(), st.floats(-50, 90), st.just(math.nan)),
)  # fmt: skip
def test_quality_is_a_probability_whatever_is_missing(detector, score, spread, mirror, nme, psnr):
    evidence = some_evidence(
        detector=detector, detector_score=score, landmark_spread=spread, mirror_error=mirror, landmark_nme=nme,
        psnr=psnr, strangeness=None if psnr is None else psnr,
    )  # fmt: skip
    assert 0 <= Quality()(evidence) <= 1


@pytest.mark.parametrize("method", ["rendered", "landmarks"])
def test_quality_falls_with_the_landmarks(method):
    rendered = {} if method == "rendered" else {"psnr": None, "strangeness": None}
    quality = Quality()
    steps = [quality(some_evidence(landmark_spread=s, mirror_error=2 * s, **rendered)) for s in (0.004, 0.02, 0.1)]
    assert steps[0] > steps[1] > steps[2]


def test_a_seam_is_seen_where_there_is_one(astronaut, detector):
    (face,) = detector(astronaut)
    crop = crop_face(astronaut, face.landmarks, CROP_PX)
    marks = crop.points_from_photo(face.landmarks)
    glued = crop.rgb.copy()
    glued[:, 128:] = (0.7 * glued[:, 128:, ::-1]).astype(np.uint8)  # another light, another tone
    assert picture_evidence(glued, marks)[1] > picture_evidence(crop.rgb, marks)[1] + 0.2


def test_the_option_that_quality_replaced_is_answered_with_the_new_one(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(ReconstructConfig, "", ["--input", "a", "--output", "b", "--faces.max-landmark-spread", "0.1"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "max_landmark_spread is no longer an option" in said and "faces.min_quality" in said
    assert len(said.strip().splitlines()) == 1


def test_a_threshold_outside_of_probabilities_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(ReconstructConfig, "", ["--input", "a", "--output", "b", "--faces.min_quality", "1.5"])
    assert "min_quality is 1.5" in capsys.readouterr().err
