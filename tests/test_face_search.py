"""Faces are looked for at every size and roll, within a bound, and each is found once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylib.config import FaceSettings, FitSettings, SynthesisSettings
from raylib.detection.detector import FaceDetector, steady
from raylib.detection.search import SMALLEST_FACE_PX, WINDOW_PX, Detection, distinct, finer_scales, in_tiles, rotated
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.camera import euler_deg
from raylib.io.images import decode
from raylib.morphable.model import load_prior
from raylib.synthesis import FaceSynthesizer

SHARED_CASES = "../cases"  # seen from the folder of data


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(FaceSettings(detector="hog"))


@pytest.fixture(scope="module")
def synthetic() -> list[np.ndarray]:
    make = FaceSynthesizer("prior", SynthesisSettings(size_px=320, yaw_deg=15.0))
    return [np.asarray(image) for image in make([31, 33, 36]).image]


def roll_of(landmarks: np.ndarray) -> float:
    across = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)
    return float(np.degrees(np.arctan2(across[1], across[0])))


def turned_points(points: np.ndarray, shape: tuple[int, ...], roll_deg: float) -> np.ndarray:
    """Where points of a picture lie after it was turned clockwise about its middle."""
    middle, angle = np.array(shape[1::-1]) / 2, np.radians(roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points - middle) @ turn.T + middle


@pytest.mark.parametrize("roll_deg", [30, -40, 60, 90, -135, 180])
def test_a_tilted_face_has_the_landmarks_of_the_upright_one(detector, astronaut, roll_deg):
    (upright,) = detector(astronaut)
    picture = np.asarray(Image.fromarray(astronaut).rotate(-roll_deg, Image.Resampling.BICUBIC))
    (face,) = detector(picture)
    expected = turned_points(upright.landmarks, astronaut.shape, roll_deg)
    iod = np.linalg.norm(expected[36] - expected[45])
    assert np.linalg.norm(face.landmarks - expected, axis=1).mean() < 0.04 * iod
    assert steady(face) and face.landmark_spread < 0.03


@pytest.mark.parametrize(("which", "roll_deg"), [(0, 90), (1, -60), (2, 150)])
def test_synthetic_faces_are_found_at_any_roll(detector, synthetic, which, roll_deg):
    picture = Image.fromarray(synthetic[which])
    (upright,) = detector(synthetic[which])
    (face,) = detector(np.asarray(picture.rotate(-roll_deg, Image.Resampling.BICUBIC, expand=True)))
    change = (roll_of(face.landmarks) - roll_of(upright.landmarks) - roll_deg + 180) % 360 - 180
    assert abs(change) < 5


def portrait(astronaut: np.ndarray, face_px: int) -> Image.Image:
    """The astronaut's head and shoulders with a face of about `face_px`, which is a quarter of the picture."""
    head = Image.fromarray(astronaut).crop((80, 0, 400, 320))
    return head.resize((round(320 * face_px / 87),) * 2, Image.Resampling.LANCZOS)


@pytest.mark.parametrize("with_large", [False, True])
def test_small_faces_are_found_whether_or_not_there_are_large_ones(detector, photographs, astronaut, with_large):
    wall = Image.fromarray(decode((photographs / "coffee.png").read_bytes(), 10**7).rgb)
    picture = wall.resize((2400, 1600), Image.Resampling.BICUBIC)
    places = {44: (200, 150), 52: (1700, 300), 70: (300, 1100), 95: (1900, 1150)}
    for face_px, place in places.items():
        picture.paste(portrait(astronaut, face_px), place)
    if with_large:
        picture.paste(portrait(astronaut, 200), (850, 500))
    faces = detector(np.asarray(picture))
    assert len(faces) == len(places) + with_large
    for face_px, (left, top) in places.items():
        at = np.array([left, top]) + (np.array([224, 115]) - [80, 0]) * face_px / 87
        (near,) = [f for f in faces if np.linalg.norm(f.landmarks.mean(axis=0) - at) < face_px]
        assert 0.6 < (near.face_box[2] - near.face_box[0]) / face_px < 1.5 and steady(near)
    sides = [f.face_box[2] - f.face_box[0] for f in faces]
    assert sides == sorted(sides, reverse=True)


def test_the_bound_decides_which_is_the_smallest_face(photographs, astronaut):
    wall = Image.fromarray(decode((photographs / "coffee.png").read_bytes(), 10**7).rgb)
    picture = wall.resize((2400, 1600), Image.Resampling.BICUBIC)
    picture.paste(portrait(astronaut, 100), (200, 150))
    picture.paste(portrait(astronaut, 45), (1500, 800))
    for megapixels, count in ((0.0, 0), (3.84, 1), (16.0, 2)):
        some = FaceSettings(detector="hog", search_megapixels=megapixels, any_roll=False)
        assert len(FaceDetector(some)(np.asarray(picture))) == count


@settings(deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.floats(0.5, 100))
def test_the_finest_level_is_bounded_and_no_finer_than_needed(height, width, megapixels):
    coarse = max(1.0, max(height, width) / 1280)
    scales = finer_scales((height, width), coarse, megapixels)
    assert scales == sorted(scales, reverse=True)
    for scale in scales:
        assert height * width / scale**2 <= megapixels * 1e6 * 1.0001
        assert SMALLEST_FACE_PX / WINDOW_PX <= scale < coarse
    pixels = sum(height * width / scale**2 for scale in scales)
    assert pixels <= 4 / 3 * megapixels * 1e6 * 1.0001


boxes = st.tuples(st.floats(0, 500), st.floats(0, 500), st.floats(20, 300), st.floats(0.2, 3))


@settings(deadline=None)
@given(st.lists(boxes, max_size=12))
def test_one_sighting_of_each_face_is_kept_the_best(found):
    detections = [Detection(np.array([x, y, x + s, y + s], np.float32), score) for x, y, s, score in found]
    kept = distinct(detections)
    assert len(kept) == len(distinct(kept)) and bool(kept) == bool(found)
    if found:
        assert kept[0].score == max(d.score for d in detections)
    same = [{(tuple(k.box), k.score) for k in distinct(order)} for order in (detections, detections[::-1])]
    assert same[0] == same[1]  # in whatever order they come


def test_tiles_see_every_place_and_say_where_it_lies():
    """A detector that finds the one white pixel block finds it wherever it is, in the photograph's pixels."""

    def white(picture: np.ndarray) -> list[Detection]:
        y, x = np.nonzero(picture > 250)
        if len(y) < 40 * 40:  # a part is no face
            return []
        return [Detection(np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32), 1.0)]

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 200, (2100, 3300)).astype(np.uint8)
    for top, left in ((0, 0), (2060, 3260), (1000, 1590), (777, 1400), (2060, 20)):
        picture = noise.copy()
        picture[top : top + 40, left : left + 40] = 255
        (found,) = distinct(in_tiles(picture, white, 1.0, []))
        np.testing.assert_allclose(found.box, [left, top, left + 40, top + 40], atol=1)
    inside = [Detection(np.array([0, 0, 3300, 2100], np.float32), 1.0)]
    assert in_tiles(noise, white, 1.0, inside) == []


@settings(deadline=None)
@given(st.sampled_from([90.0, 180.0, 270.0, 45.0, 315.0]), st.integers(60, 240), st.integers(60, 180))
def test_a_rotated_look_says_where_the_face_lies_in_the_photograph(roll_deg, x, y):
    picture = np.zeros((240, 300), np.uint8)
    picture[y - 5 : y + 5, x - 5 : x + 5] = 255

    def white(turned: np.ndarray) -> list[Detection]:
        rows, columns = np.nonzero(turned > 128)
        middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        return [Detection(np.concatenate([middle - 5, middle + 5]).astype(np.float32), 1.0)]

    (found,) = rotated(picture, white, roll_deg)
    np.testing.assert_allclose((found.box[:2] + found.box[2:]) / 2, [x, y], atol=1)
    assert (found.roll_deg - roll_deg) % 360 == 0


@pytest.mark.slow
def test_the_group_of_the_shared_cases_has_seventeen_faces(shared_data, detector):
    path = shared_data(SHARED_CASES) / "group_17_faces_3000x2250.jpg"
    assert len(detector(decode(path.read_bytes(), 10**7).rgb)) == 17


def test_the_sideways_face_of_the_shared_cases_is_the_upright_one(shared_data, detector):
    cases = shared_data(SHARED_CASES)
    fitter = LandmarkFitter(load_prior(), FitSettings())
    fits = []
    for name in ("roll0.jpg", "roll90.jpg"):
        rgb = decode((cases / name).read_bytes(), 10**7).rgb
        (face,) = detector(rgb)
        size = torch.tensor([rgb.shape[1::-1]], dtype=torch.float32)
        fits.append(fitter.fit(torch.from_numpy(face.landmarks)[None], torch.tensor([955.0]), size / 2))
    rolls = [float(euler_deg(fit.camera.R)[0, 2]) for fit in fits]
    assert abs(abs(rolls[1] - rolls[0]) - 90) < 2
    assert (fits[0].verts_mm - fits[1].verts_mm).norm(dim=2).mean() < 1.0
