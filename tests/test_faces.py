"""The faces that photographs hold are found, and crops know their way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raylib.config import FaceSettings
from raylib.detection.alignment import crop_face, crop_transform
from raylib.detection.detector import FaceDetector, dlib_file, steady
from raylib.errors import ConfigError
from raylib.io.images import decode


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(FaceSettings())


@pytest.fixture(scope="module")
def face(detector, astronaut):
    faces = detector(astronaut)
    assert len(faces) == 1
    return faces[0]


def test_the_portrait_has_one_face_at_every_upsampling(astronaut):
    for upsample in (0, 1):
        faces = FaceDetector(FaceSettings(hog_upsample=upsample))(astronaut)
        assert [f.detector for f in faces] == ["hog"]
        left, top, right, bottom = faces[0].face_box
        assert 150 < left < right < 300 and 50 < top < bottom < 220


def test_landmarks_lie_on_the_features(face):
    eyes, nose, mouth, chin = (face.landmarks[i].mean(axis=0) for i in (slice(36, 48), [30], slice(48, 68), [8]))
    assert eyes[1] < nose[1] < mouth[1] < chin[1]
    assert face.landmarks[36:42, 0].mean() < face.landmarks[42:48, 0].mean()


def test_detections_move_and_grow_with_the_picture(detector, astronaut, face):
    shifted = np.pad(astronaut, ((40, 0), (24, 0), (0, 0)), mode="edge")
    (moved,) = detector(shifted)
    iod = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    assert np.abs(moved.landmarks - [24, 40] - face.landmarks).mean() < 0.02 * iod
    doubled = np.asarray(Image.fromarray(astronaut).resize((1024, 1024), Image.Resampling.BICUBIC))
    (grown,) = detector(doubled)
    assert np.abs(grown.landmarks / 2 - face.landmarks).mean() < 0.03 * iod


def test_large_photographs_are_searched_small_and_marked_in_full(astronaut, face):
    big = np.asarray(Image.fromarray(astronaut).resize((1536, 1536), Image.Resampling.BICUBIC))
    (found,) = FaceDetector(FaceSettings(detect_max_side=512))(big)
    iod = np.linalg.norm(face.landmarks[36] - face.landmarks[45])
    assert np.abs(found.landmarks / 3 - face.landmarks).mean() < 0.03 * iod


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png"])
def test_a_cat_and_a_cup_have_no_face(detector, photographs, name):
    assert detector(decode((photographs / name).read_bytes(), 10**7).rgb) == []


@pytest.mark.slow
def test_the_cnn_finds_what_hog_misses(photographs):
    profile = decode((photographs / "camera.png").read_bytes(), 10**7).rgb
    assert FaceDetector(FaceSettings(detector="hog"))(profile) == []
    (found,) = FaceDetector(FaceSettings(detector="hog_then_cnn"))(profile)
    assert found.detector == "cnn" and found.score > 0.6


def test_landmarks_of_a_profile_are_called_unreliable(detector, face, photographs):
    (profile,) = detector(decode((photographs / "camera.png").read_bytes(), 10**7).rgb)
    assert not steady(profile) and steady(face) and profile.landmark_spread > 5 * face.landmark_spread


def test_several_faces_come_largest_first_and_are_limited(astronaut):
    small = np.asarray(Image.fromarray(astronaut).resize((384, 384)))
    two = np.concatenate([np.pad(small, ((0, 128), (0, 0), (0, 0))), astronaut], axis=1)
    faces = FaceDetector(FaceSettings())(two)
    widths = [f.face_box[2] - f.face_box[0] for f in faces]
    assert len(faces) == 2 and widths[0] > widths[1]
    assert len(FaceDetector(FaceSettings(max_faces=1))(two)) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 600), (7, 3), (2000, 20)])
def test_tiny_and_narrow_pictures_are_searched_without_harm(detector, shape):
    assert detector(np.full((*shape, 3), 127, np.uint8)) == []


def test_crop_is_upright_and_centred(astronaut, face):
    for turn in (0, 90, 180, 270):
        k = turn // 90
        turned = np.ascontiguousarray(np.rot90(astronaut, k))
        height, width = astronaut.shape[:2]
        points = face.landmarks.copy()
        for _ in range(k):  # a quarter turn to the left of a square picture
            points = np.stack([points[:, 1], width - points[:, 0]], axis=1)
        crop = crop_face(turned, points, 256)
        inside = crop.points_from_photo(points)
        eyes = inside[42:48].mean(axis=0) - inside[36:42].mean(axis=0)
        assert abs(np.degrees(np.arctan2(eyes[1], eyes[0]))) < 6
        assert (inside > 0).all() and (inside < 256).all() and height == width
        if turn == 0:
            upright = crop.rgb.astype(int)
        else:
            assert np.abs(crop.rgb.astype(int) - upright).mean() < 3


@given(x=st.floats(-500, 500), y=st.floats(-500, 500), size=st.sampled_from([64, 256]), widen=st.floats(0.5, 2.0))
def test_crop_and_uncrop_is_the_identity(face, x, y, size, widen):
    crop = crop_face(np.zeros((512, 512, 3), np.uint8), face.landmarks, size, widen)
    points = np.array([[x, y], [0.0, 0.0], [size, size]])
    np.testing.assert_allclose(crop.points_from_photo(crop.points_to_photo(points)), points, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(0.2, 2.2))
def test_crop_shows_what_its_transform_says(face, scale):
    """A picture whose colours are its coordinates: each crop pixel must hold the place that it maps to."""
    side = 250
    y, x = np.mgrid[0:side, 0:side] + 0.5
    ramp = np.stack([x, y, 0 * x], axis=-1).round().astype(np.uint8)
    landmarks = (face.landmarks - face.landmarks.mean(axis=0)) * scale * 0.5 + side / 2
    crop = crop_face(ramp, landmarks, 64)
    grid = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(64) + 0.5), axis=-1).reshape(-1, 2)
    photo = crop.points_to_photo(grid)
    inside = ((photo > 8) & (photo < side - 8)).all(axis=1)
    off = crop.rgb.reshape(-1, 3)[inside, :2] - photo[inside]
    # Pillow cuts decimals off when it transforms: half a grey level, here half a pixel, is its rounding.
    assert inside.any() and np.abs(off + 0.5).max() < 1.5
    assert np.abs(off.mean(axis=0) + 0.5).max() < 0.1


def test_degenerate_landmarks_still_give_a_crop():
    transform = crop_transform(np.full((68, 2), 7.0), 64)
    assert np.isfinite(transform).all() and abs(np.linalg.det(transform[:, :2])) > 0


def test_a_missing_model_file_is_named():
    with pytest.raises(ConfigError, match=r"no_such\.dat"):
        dlib_file("no_such.dat")
