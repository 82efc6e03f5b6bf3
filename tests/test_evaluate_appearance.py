"""Known answers of the appearance evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from raylib.config import EvaluateAppearanceConfig
from raylib.errors import ConfigError
from raylib.evaluation.appearance import report as report_of
from raylib.evaluation.appearance.errors import (
    FIGURES,
    IDENTICAL_DB,
    UNSEEN_LIGHTS,
    AppearanceJudge,
    albedo_error,
    at_prior_verts,
    inconstancy,
    light_errors,
    main_direction,
    skin_weights,
    sphere_shading,
    total_sh,
    true_tone_deg,
    unseen_light,
)
from raylib.evaluation.appearance.run import MeanAppearance, appearance_report
from raylib.evaluation.appearance.skin_tone import CLASSES, lab, tone_class, typology_angle_deg
from raylib.evaluation.drawing import draw, shading, to_bytes, to_linear, to_srgb, transfer_of
from raylib.evaluation.faces import Prediction, TrueAppearance, TruePhoto
from raylib.evaluation.results import model_landmarks
from raylib.evaluation.truth import prior_truth
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.lighting.spherical_harmonics import lambert_transfer, rotate_sh, sh_basis, sphere_directions
from raylib.metrics.lpips import load_lpips
from raylib.metrics.pictures import masked_psnr, masked_ssim, relative_error
from raylib.morphable.model import REGIONS, load_prior
from raylib.segmentation.labels import Label

FACES = load_prior().faces.numpy()
SIZE = (128, 128)


def some_albedo(seed: int = 0, tone: tuple[float, ...] = (0.5, 0.3, 0.22)) -> np.ndarray:
    """Skin with smooth spots, linear RGB."""
    verts = load_prior().mean.numpy()
    waves = np.sin(verts / 15 + np.random.default_rng(seed).uniform(0, 6, 3)).mean(1)
    return np.array(tone) * (1 + 0.25 * waves[:, None])


def some_light(seed: int = 0) -> np.ndarray:
    light = np.random.default_rng(seed).normal(size=(9, 3)) * 0.15
    light[0] = [2.6, 2.5, 2.4]
    light[3] += 0.5
    return light


def some_face(name: str = "a", light: np.ndarray | None = None, albedo: np.ndarray | None = None, yaw: float = 15.0):
    """A known face whose picture is its rendering, without a lamp."""
    prior = load_prior()
    g = torch.Generator().manual_seed(5)
    verts = prior.verts(torch.randn(1, prior.identity.shape[0], generator=g))[0].double().numpy()
    R = rotation_from_euler_deg(torch.tensor([[yaw, 5.0, -3.0]], dtype=torch.float64))
    T, focal = torch.tensor([[0.0, -15.0, 800.0]]).double(), torch.tensor([460.0]).double()
    camera = Camera(R, T, focal, torch.tensor([[64.0, 64.0]]).double())
    light = some_light() if light is None else light
    albedo = some_albedo() if albedo is None else albedo
    drawn = draw(verts, FACES, camera, albedo * shading(transfer_of(verts, FACES, shadow=True), light), SIZE)
    labels = np.where(drawn.mask, Label.SKIN, Label.BACKGROUND).astype(np.uint8)
    marks = camera.project(torch.from_numpy(model_landmarks(prior, verts))[None])[0].numpy()
    photo = TruePhoto(to_bytes(to_srgb(drawn.image)), camera, marks, np.ones(68, bool))
    appearance = TrueAppearance(albedo, light, np.array([0.0, 0, 1]), np.zeros(3), labels, person=name[0])
    return prior_truth(name, verts, 400, photo, appearance=appearance)


def perfect(face) -> Prediction:
    """The truth as a method's answer."""
    return Prediction(
        face.verts, face.faces, face.landmarks, True, face.photo.camera, face.appearance.albedo,
        light_sh=face.appearance.light_sh,
    )  # fmt: skip


def moved(prediction: Prediction, scale: float = 1.7) -> Prediction:
    """The same answer in a frame of its own: turned, moved and scaled, seen the same by its camera."""
    turn = Rotation.from_euler("xyz", [20, -30, 50], degrees=True).as_matrix()
    shift = np.array([10.0, -20, 30])
    camera = prediction.camera
    R = camera.R[0].numpy() @ turn.T
    T = scale * camera.T[0].numpy() - R @ shift
    return replace(
        prediction,
        verts=scale * prediction.verts @ turn.T + shift,
        landmarks=scale * prediction.landmarks @ turn.T + shift,
        camera=Camera(torch.from_numpy(R)[None], torch.from_numpy(T)[None], camera.focal_px, camera.principal_px),
        light_sh=rotate_sh(torch.from_numpy(prediction.light_sh)[None], torch.from_numpy(turn)[None])[0].numpy(),
    )


# --- pictures ----------------------------------------------------------------------------------------------------


def test_the_same_picture_has_an_infinite_ratio_and_full_similarity():
    rng = np.random.default_rng(0)
    a = rng.random((40, 50, 3))
    mask = np.zeros((40, 50), bool)
    mask[5:30, 10:40] = True
    b = np.where(mask[..., None], a, 0)  # different outside only
    assert masked_psnr(a, b, mask) == float("inf")
    assert masked_ssim(b, a, mask) == pytest.approx(1.0)
    assert masked_psnr(a + 0.1, a, mask) == pytest.approx(20.0)
    assert masked_psnr(np.where(mask[..., None], a + 0.01, 5), a, mask) == pytest.approx(40.0)


def test_similarity_inside_a_mask_is_skimage_s_where_the_mask_is_everything():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(1)
    a, b = rng.random((2, 60, 60, 3))
    expected = structural_similarity(
        a, b, channel_axis=2, data_range=1.0, gaussian_weights=True, use_sample_covariance=False, full=True
    )[1].mean()
    assert masked_ssim(a, b, np.ones((60, 60), bool)) == pytest.approx(float(expected))
    assert masked_ssim(b, a, np.ones((60, 60), bool)) < 0.2


def test_relative_error_finds_its_factor():
    rng = np.random.default_rng(2)
    true = rng.random((100, 3))
    assert relative_error(0.01 * true, true) == pytest.approx(0, abs=1e-12)
    off = rng.normal(size=(100, 3))
    off -= true * (off * true).sum() / (true**2).sum()  # orthogonal: the best factor stays one
    off *= 0.1 * np.sqrt((true**2).sum() / (off**2).sum())
    assert relative_error(true + off, true) == pytest.approx(0.1 / np.sqrt(1 + 0.01), rel=1e-9)


# --- albedo and tone ---------------------------------------------------------------------------------------------


def test_albedo_scaled_by_a_constant_is_right():
    true = some_albedo()
    assert albedo_error(0.3 * true, true) == pytest.approx(0, abs=1e-9)
    tinted = true * [0.5, 1.0, 1.5]
    assert albedo_error(tinted, true) > 0.2
    assert albedo_error(tinted, true, by_channel=True) == pytest.approx(0, abs=1e-9)
    # Eyes and the inside of the mouth do not count.
    hidden = np.isin(load_prior().regions.numpy(), [REGIONS.index("eye"), REGIONS.index("inner_mouth")])
    assert albedo_error(np.where(hidden[:, None], 9.0, true), true) == pytest.approx(0, abs=1e-9)
    assert skin_weights().sum() == pytest.approx(1)
    assert (skin_weights()[hidden] == 0).all()


def test_albedo_that_follows_the_light_is_inconstant():
    true = some_albedo()
    assert inconstancy([true, 0.5 * true, 2 * true]) == pytest.approx(0, abs=1e-9)
    # Two albedos at a right angle to each other deviate from their mean by as much as the mean's size.
    half = np.zeros_like(true)
    half[::2] = true[::2]
    assert inconstancy([half, true - half]) == pytest.approx(1.0, rel=1e-9)
    assert 0 < inconstancy([true, true * [1.1, 1, 0.9]]) < 0.1


def test_lab_of_known_colours():
    grey = 0.18418651851244416  # L* = 50
    np.testing.assert_allclose(lab(np.array([[1.0, 1, 1], [grey] * 3])), [[100, 0, 0], [50, 0, 0]], atol=1e-3)
    red = lab(np.array([[1.0, 0, 0]]))[0]  # published for sRGB's red under D65
    np.testing.assert_allclose(red, [53.24, 80.09, 67.20], atol=0.02)


def test_tones_run_from_very_light_to_dark():
    assert [tone_class(a) for a in (60, 50, 30, 20, 0, -40)] == list(CLASSES)
    assert [tone_class(a) for a in (55, 41, 28, 10, -30)] == list(CLASSES[1:])
    angles = [typology_angle_deg(np.array([[0.62, 0.42, 0.32]]) * f) for f in (1.2, 1.0, 0.7, 0.4, 0.15)]
    assert angles == sorted(angles, reverse=True)
    assert tone_class(angles[0]) in CLASSES[:2]
    assert tone_class(angles[-1]) == "dark"


# --- light -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 7.5, 40.0, 120.0])
def test_a_light_turned_by_an_angle_is_off_by_it(angle):
    face = some_face()
    light = np.zeros((9, 3))
    light[0] = 2.0
    towards = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    light += sh_basis(towards)[0].numpy()[:, None] * 1.5
    appearance = replace(face.appearance, light_sh=light)
    R = Rotation.from_rotvec([0, np.radians(angle), 0]).as_matrix()
    turned = rotate_sh(torch.from_numpy(light)[None], torch.from_numpy(R)[None])[0].numpy()
    camera = face.photo.camera
    errors = light_errors(5 * turned, camera, appearance, camera)
    assert errors["light_deg"] == pytest.approx(angle, abs=1e-3)
    assert errors["sphere"] == pytest.approx(0, abs=1e-6) if angle == 0 else errors["sphere"] > 0.01
    # A head that is posed wrongly by the same angle puts the light back where it was.
    undone = Camera(camera.R @ torch.from_numpy(R.T), camera.T, camera.focal_px, camera.principal_px)
    errors = light_errors(turned, undone, appearance, camera)
    assert errors["light_deg"] == pytest.approx(0, abs=1e-3)
    assert errors["sphere"] == pytest.approx(0, abs=1e-6)


def test_a_lamp_counts_as_light_from_its_direction():
    face = some_face()
    towards = np.array([0.48, 0.6, 0.64])
    light = np.zeros((9, 3))
    light[0] = 1.0
    true = replace(face.appearance, light_sh=light, lamp_direction=towards, lamp_color=np.array([1.0, 0.8, 0.6]))
    np.testing.assert_allclose(main_direction(total_sh(true)), towards, atol=1e-6)
    directions = sphere_directions(4000).double().numpy()
    exact = sphere_shading(true, directions)
    np.testing.assert_allclose(exact.max(0), 1 / np.sqrt(4 * np.pi) + true.lamp_color, rtol=1e-3)
    # Nine harmonics hold a lamp's shading up to their known few per cent (Ramamoorthi and Hanrahan 2001).
    smooth = lambert_transfer(torch.from_numpy(directions)).numpy() @ total_sh(true)
    assert np.abs(smooth - exact).max() < 0.1
    camera = face.photo.camera
    assert light_errors(total_sh(true), camera, true, camera)["sphere"] < 0.08


def test_even_light_has_no_direction():
    face = some_face()
    even = np.zeros((9, 3))
    even[0] = 3.0
    assert not main_direction(even).any()
    assert np.isnan(light_errors(even, face.photo.camera, face.appearance, face.photo.camera)["light_deg"])


def test_unseen_lights_come_from_where_they_say_in_the_picture():
    camera = some_face(yaw=35).photo.camera
    for i, (direction, _, _) in enumerate(UNSEEN_LIGHTS):
        in_camera = camera.R[0].numpy() @ main_direction(unseen_light(i, camera))
        expected = np.array(direction) / np.linalg.norm(direction) * [1, -1, -1]
        np.testing.assert_allclose(in_camera, expected, atol=1e-6)


# --- the whole judgement -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_frame", [False, True])
def test_the_truth_is_right_in_every_figure_in_whatever_frame(own_frame):
    face = some_face()
    answer = moved(perfect(face)) if own_frame else perfect(face)
    found = AppearanceJudge()(answer, face)
    figures = found.figures
    assert set(figures) == set(FIGURES)
    assert figures["psnr"] > 55  # 8 bits
    assert figures["ssim"] > 0.998
    assert figures["coverage"] == 1.0
    assert figures["unseen_psnr"] > (50 if own_frame else IDENTICAL_DB - 1e-6)
    for name in ("albedo", "albedo_by_channel", "tone_deg"):
        assert figures[name] == pytest.approx(0, abs=1e-6), name
    assert figures["sphere"] < 1e-5
    assert figures["light_deg"] < 1e-2
    assert (found.person, found.tone) == ("a", tone_class(true_tone_deg(face.appearance)))


def test_other_topologies_are_sampled_where_they_lie_on_the_face():
    face = some_face()
    # The same surface with vertices in another order and every triangle split at its middle.
    order = np.random.default_rng(0).permutation(len(face.verts))
    verts, albedo = face.verts[order], face.appearance.albedo[order]
    faces = np.argsort(order)[FACES]
    n = len(verts)
    middle = np.arange(len(faces)) + n
    split = np.concatenate([np.stack([faces[:, i], faces[:, (i + 1) % 3], middle], 1) for i in range(3)])
    verts = np.concatenate([verts, verts[faces].mean(1)])
    albedo = np.concatenate([albedo, albedo[faces].mean(1)])
    other = replace(moved(perfect(face)), verts=moved(replace(perfect(face), verts=verts)).verts, faces=split)
    other = replace(other, albedo=albedo, in_prior_topology=False)
    np.testing.assert_allclose(at_prior_verts(other, albedo, face), face.appearance.albedo, atol=0.02)
    assert AppearanceJudge()(other, face).figures["albedo"] < 0.01


def test_a_wrong_light_shows_in_the_sphere_and_not_in_the_albedo():
    face = some_face()
    wrong = replace(perfect(face), light_sh=some_light(9))
    figures = AppearanceJudge()(wrong, face).figures
    assert figures["albedo"] == pytest.approx(0, abs=1e-6)
    assert figures["unseen_psnr"] > IDENTICAL_DB - 1e-6
    assert figures["sphere"] > 0.02
    assert figures["psnr"] < 40


def test_colours_that_hold_the_light_stand_for_albedo():
    face = some_face()
    answer = perfect(face)
    shade = shading(transfer_of(face.verts, face.faces, shadow=True), face.appearance.light_sh)
    colors = to_srgb(face.appearance.albedo * shade)
    figures = AppearanceJudge()(replace(answer, albedo=None, light_sh=None, colors=colors), face).figures
    assert figures["psnr"] > 45  # its colours are the picture's
    assert figures["albedo"] > 0.05
    assert figures["unseen_psnr"] < 40
    assert np.isnan(figures["sphere"])


def test_what_covers_the_face_does_not_count():
    face = some_face()
    labels = face.appearance.labels.copy()
    image = face.photo.image.copy()
    labels[:64], image[:64] = Label.HAIR, 0
    covered = replace(
        face, photo=replace(face.photo, image=image), appearance=replace(face.appearance, labels=labels)
    )
    figures = AppearanceJudge()(perfect(covered), covered).figures
    assert figures["psnr"] > 55
    assert figures["coverage"] == 1.0
    away = perfect(covered)
    camera = away.camera
    away = replace(away, camera=Camera(camera.R, camera.T + torch.tensor([[0.0, 0, 1e5]]), *_rest(camera)))
    figures = AppearanceJudge()(away, covered).figures
    assert figures["coverage"] < 0.02


def _rest(camera: Camera):
    return camera.focal_px, camera.principal_px


def test_the_perceptual_distance_sees_a_wrong_albedo_on_the_face_and_nothing_beside_it(tmp_path):
    from test_lpips import random_alexnet

    torch.save(random_alexnet(), tmp_path / "alexnet.pth")
    face = some_face()
    judge = AppearanceJudge(lpips=load_lpips(str(tmp_path / "alexnet.pth")))
    right = judge(perfect(face), face).figures["lpips"]
    wrong = judge(replace(perfect(face), albedo=some_albedo(3) ** 2), face).figures["lpips"]
    assert right < 0.01 * wrong
    framed = replace(
        face, photo=replace(face.photo, image=np.where(face.appearance.labels[..., None], face.photo.image, 90))
    )
    assert judge(perfect(framed), framed).figures["lpips"] < 0.01 * wrong


@pytest.mark.slow
def test_constancy_is_told_from_one_face_in_eight_lights():
    faces = [some_face(f"a{i}", some_light(i)) for i in range(8)] + [some_face("b0", albedo=some_albedo(4))]
    judge = AppearanceJudge()
    right = {face.name: judge(perfect(face), face) for face in faces}
    baked = {}
    for face in faces:
        shade = shading(transfer_of(face.verts, face.faces, shadow=True), face.appearance.light_sh)
        baked[face.name] = judge(replace(perfect(face), albedo=face.appearance.albedo * shade), face)
    report = appearance_report({"mean face": baked, "right": right}, 50, 0)
    assert report["methods"]["right"]["inconstancy"]["value"] == pytest.approx(0, abs=1e-6)
    assert report["methods"]["right"]["inconstancy"]["people"] == 1
    assert report["methods"]["mean face"]["inconstancy"]["value"] > 0.05
    assert report["methods"]["right"]["albedo"]["ratio"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_groups_by_tone_hold_each_face_once():
    tones = [(0.6, 0.42, 0.33), (0.5, 0.3, 0.22), (0.08, 0.045, 0.03)]
    faces = [some_face(f"{i}{j}", albedo=some_albedo(i, t)) for i, t in enumerate(tones) for j in range(2)]
    judge = AppearanceJudge()
    errors = {face.name: judge(perfect(face), face) for face in faces}
    report = appearance_report({"mean face": errors}, 20, 0)
    groups = report["by_tone"]["mean face"]["classes"]
    assert sum(g["faces"] for g in groups.values()) == 6
    assert len(groups) >= 2
    assert list(groups) == [tone for tone in CLASSES if tone in groups]
    assert "dark" in groups
    text = report_of.markdown(report | {"without_albedo": []})
    assert "| mean face | dark | 2 |" in text
    json.dumps(report, allow_nan=False)


def test_the_reference_is_the_mean_face_as_bright_as_the_picture():
    face = some_face()
    mean = load_prior().mean.double().numpy()

    def posed(truth):
        return Prediction(mean, FACES, model_landmarks(load_prior(), mean), True, truth.photo.camera)

    answer = MeanAppearance(some_albedo(), posed)(face)
    picture = draw(answer.verts, FACES, answer.camera, answer.albedo * answer.light_sh[0] / np.sqrt(4 * np.pi), SIZE)
    mask = picture.mask & (face.appearance.labels == Label.SKIN)
    bright = to_linear(face.photo.image / 255)[mask].mean()
    assert picture.image[mask].mean() == pytest.approx(bright, rel=0.1)
    assert (answer.light_sh[1:] == 0).all()


def test_truth_without_albedo_is_one_sentence(tmp_path):
    from judged_faces import write_scan

    from raylib.evaluation.appearance.run import run_appearance

    verts = load_prior().mean.double().numpy()
    write_scan(tmp_path, "a", verts, FACES, model_landmarks(load_prior(), verts))
    with pytest.raises(ConfigError, match=r"face 'a' of truth .* has no known albedo and light"):
        run_appearance(EvaluateAppearanceConfig(str(tmp_path), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
