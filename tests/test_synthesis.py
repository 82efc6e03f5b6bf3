"""Synthetic faces: their truth is consistent, they are the same for a seed, and detectors see faces in them."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raylib.config import SynthesisSettings
from raylib.errors import ConfigError
from raylib.geometry.camera import rotation_from_euler_deg
from raylib.lighting.color import srgb_to_linear
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import lambert_transfer, rotate_sh
from raylib.morphable.model import load_prior
from raylib.render import SoftRenderer, SoftSettings
from raylib.segmentation.labels import Label
from raylib.segmentation.segmenter import FaceSegmenter
from raylib.synthesis import (
    GENERATOR_VERSION,
    PEOPLE_PER_SPLIT,
    SPLITS,
    FaceSynthesizer,
    person_of,
    seeds_of,
    split_of,
)
from raylib.synthesis.head import load_head, load_source
from raylib.synthesis.light import draw_light, lobe
from raylib.synthesis.people import random_for
from raylib.synthesis.photo_skin import photo_skins
from raylib.synthesis.spectra import BLOOD, MELANIN, skin_reflectance, skin_table, spectrum_to_rgb

SEEDS = list(range(8))


@pytest.fixture(scope="module")
def faces():
    return FaceSynthesizer("prior", SynthesisSettings(size_px=128))(SEEDS)


@dataclass(frozen=True)
class StoredLight:
    """The surroundings and the lamp of one stored face."""

    sh: SphericalHarmonicLight
    direction: torch.Tensor
    color: torch.Tensor
    visible: torch.Tensor

    def diffuse(self, points, normals, transfer=None):
        lamp = torch.relu(normals @ self.direction) * self.visible
        return self.sh.diffuse(points, normals, transfer).clamp(min=0) + lamp[..., None] * self.color

    def specular(self, points, normals, eye):
        return None


def rendered(faces, i):
    """Returns the matte face from what is stored of it, by our renderer: 2 x 2 samples a pixel."""
    prior = load_prior()
    size = faces.image.shape[1]
    settings = SoftSettings(image_size=(2 * size, 2 * size), sigma_px2=1e-4, gamma=0.05)
    renderer = SoftRenderer(prior.faces, settings, prior.uv[prior.faces])
    camera = faces.camera.select(slice(i, i + 1))
    camera = dataclasses.replace(camera, focal_px=2 * camera.focal_px, principal_px=2 * camera.principal_px)
    light = StoredLight(
        SphericalHarmonicLight(torch.from_numpy(faces.light_sh[i : i + 1])),
        torch.from_numpy(faces.lamp_direction[i]),
        torch.from_numpy(faces.lamp_color[i]),
        torch.from_numpy(faces.lamp_visible[i : i + 1]),
    )
    texture = srgb_to_linear(torch.from_numpy(faces.texture[i]).float() / 255).permute(2, 0, 1)[None]
    verts, transfer = (torch.from_numpy(a[i : i + 1]) for a in (faces.verts_mm, faces.transfer))
    image = renderer(verts, camera, light, texture=texture, transfer=transfer).image[0].numpy()
    return image.reshape(size, 2, size, 2, 3).mean((1, 3))


def test_stored_truth_renders_the_stored_picture(faces):
    for i in range(len(faces)):
        seen = faces.face_pixels[i]
        assert seen.sum() > 300
        error = (rendered(faces, i) - (faces.clean[i] - faces.beyond_matte[i]))[seen]
        assert -10 * np.log10((error**2).mean()) >= 45, faces.seeds[i]


def test_landmarks_lie_on_the_rendered_features():
    """The corners of eyes and mouth are where the labelled eyes and mouth end."""
    settings = SynthesisSettings(
        size_px=512, texture_px=256, yaw_deg=8, pitch_deg=8, expressions=0, fov_deg=(8, 20), shadow_directions=16
    )
    faces = FaceSynthesizer("prior", settings)(seeds_of("test", 4))
    misses = []
    for i in range(len(faces)):
        marks, labels = faces.landmarks[i], faces.labels[i]
        columns = np.arange(512)[None].repeat(512, 0)
        for right, left, label in ((36, 39, Label.EYES), (42, 45, Label.EYES), (48, 54, Label.MOUTH)):
            middle = (marks[right] + marks[left]) / 2
            half = np.linalg.norm(marks[left] - marks[right]) / 2
            near = (labels == label) & (np.abs(columns - middle[0]) < 1.3 * half)
            rows = np.flatnonzero(near.any(1))
            near[np.abs(np.arange(512) - middle[1]) > 1.2 * half] = False
            if len(rows) == 0 or not faces.landmark_visible[i, [right, left]].all():
                continue
            misses += [columns[near].min() - marks[right, 0], columns[near].max() + 1 - marks[left, 0]]
    assert len(misses) >= 16
    assert np.abs(misses).max() / 2 < 1.0  # of a picture of 256 pixels


def test_landmarks_are_projections_of_their_vertices(faces):
    verts = torch.from_numpy(faces.verts_mm)[:, load_prior().landmark_verts]
    assert np.abs(faces.camera.project(verts).numpy() - faces.landmarks).max() < 0.02
    assert 0.6 < faces.landmark_visible.mean() < 1
    turned = np.abs(faces.pose_deg[:, 0]) > 25
    far = np.where(faces.pose_deg[:, :1] > 0, np.arange(26, 21, -1), np.arange(17, 22))  # the brow turned away
    hidden = 1 - np.take_along_axis(faces.landmark_visible, far, 1).mean(1)
    assert hidden[turned].sum() >= hidden[~turned].sum()


def test_turn_is_the_angle_between_face_and_camera(faces):
    centre = faces.camera.to_camera(torch.tensor([[[0.0, -14.0, -20.0]]]).expand(len(faces), 1, 3))[:, 0]
    forward = faces.camera.R[:, :, 2]
    cosine = -(forward * torch.nn.functional.normalize(centre, dim=1)).sum(1)
    np.testing.assert_allclose(faces.turn_deg, np.degrees(np.arccos(cosine.numpy())), atol=0.02)
    # What the pose says but for where in the picture the head is: at most half the field of view.
    yaw, pitch = np.radians(faces.pose_deg[:, :2]).T
    alone = np.degrees(np.arccos(np.cos(yaw) * np.cos(pitch)))
    assert (np.abs(faces.turn_deg - alone) < faces.fov_deg / 4 + 1).all()


def test_a_seed_is_a_picture(faces):
    make = FaceSynthesizer("prior", SynthesisSettings(size_px=128))
    for batch in ([5], [5, 1], [3, 5]):
        again = make(batch)
        k = batch.index(5)
        for field in dataclasses.fields(again):
            if field.name == "camera":
                assert torch.equal(again.camera.R[k], faces.camera.R[5])
                assert torch.equal(again.camera.T[k], faces.camera.T[5])
            else:
                assert np.array_equal(getattr(again, field.name)[k], getattr(faces, field.name)[5]), field.name
    assert len({faces.image[i].tobytes() for i in range(len(faces))}) == len(faces)


def test_a_seed_is_a_picture_of_its_version():
    """Where a seed means another picture than before, outputs begun before must not be continued."""
    assert GENERATOR_VERSION == "2", "the pictures below are those of version 2: renew them"
    settings = SynthesisSettings(size_px=64, camera_effects=False)
    image = FaceSynthesizer("prior", settings)([11, 12]).image
    brightness = [
        [105.4, 88.7, 105.0, 103.6, 108.8, 95.2, 128.5, 111.3, 113.9, 90.4, 117.8, 119.8, 115.8, 112.8, 119.4, 150.6],
        [61.8, 117.5, 99.5, 71.7, 100.9, 126.9, 113.8, 69.4, 110.5, 130.9, 112.9, 66.8, 100.9, 118.4, 89.5, 64.0],
    ]
    # Other processors round otherwise; two millimetres of a brow are half a level.
    assert np.abs(image.reshape(2, 4, 16, 4, 16, 3).mean((2, 4, 5)).reshape(2, 16) - brightness).max() < 0.2


def test_matte_settings_leave_nothing_beyond_matte():
    faces = FaceSynthesizer("prior", SynthesisSettings(size_px=64, gloss=False, camera_effects=False))([3])
    assert not faces.beyond_matte.any()
    srgb = srgb_to_linear(torch.from_numpy(faces.image).float() / 255).numpy()
    assert np.abs(srgb - faces.clean.clip(0, 1)).max() < 0.01


def test_shots_of_a_person():
    settings = SynthesisSettings(size_px=48, shots=4, shots_differ_in="light")
    faces = FaceSynthesizer("prior", settings)(range(8))
    assert faces.person.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for same in ("verts_mm", "albedo", "labels", "landmarks", "texture"):
        values = getattr(faces, same)
        assert (values[:4] == values[0]).all() and not np.array_equal(values[0], values[4]), same
    assert len({faces.light_sh[i].tobytes() for i in range(8)}) == 8


def test_maps_agree_with_labels(faces):
    surface = faces.depth > 0
    length = np.linalg.norm(faces.normals, axis=-1)
    assert np.allclose(length[surface], 1, atol=1e-4) and not length[~surface].any()
    assert (faces.labels[~surface] == Label.BACKGROUND).mean() > 0.98  # both are decided by majority
    assert set(np.unique(faces.labels)) == set(Label)
    eye = -(faces.camera.R.transpose(1, 2) @ faces.camera.T[:, :, None])[..., 0].numpy()
    towards = eye / np.linalg.norm(eye, axis=1, keepdims=True)
    assert np.mean(np.einsum("bhwc,bc->bhw", faces.normals, towards)[surface] > -0.3) > 0.99


def test_splits_share_nobody():
    seen = {}
    for split in SPLITS:
        people = {person_of(seed, 3) for seed in seeds_of(split, 30, shots=3)}
        people |= {person_of(seed, 3) for seed in seeds_of(split, 30, PEOPLE_PER_SPLIT * 3 - 30, shots=3)}
        assert {split_of(person) for person in people} == {split}
        seen[split] = people
    assert not seen["train"] & seen["validation"] and not seen["validation"] & seen["test"]
    with pytest.raises(ValueError, match="more than the split"):
        seeds_of("train", 2, PEOPLE_PER_SPLIT - 1)


def test_random_numbers_of_aspects_are_independent():
    draws = [random_for(n, aspect).standard_normal(4000) for n in (0, 1) for aspect in ("identity", "look")]
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_skin_answers_to_its_pigments():
    melanin, blood = np.geomspace(*MELANIN, 12), np.geomspace(*BLOOD, 12)
    reflectance = skin_reflectance(melanin[:, None], blood[None])
    assert (np.diff(reflectance, axis=0) < 0).all() and (np.diff(reflectance, axis=1) < 1e-12).all()
    table = skin_table()
    assert table.min() > 0 and table.max() < 1
    red_over_green = table[:32, :, 0] / table[:32, :, 1]  # the darkest skin lets little light down to the blood
    assert (np.diff(red_over_green, axis=1) > 0).all()  # blood takes green first
    assert np.allclose(spectrum_to_rgb(np.full(31, 0.37)), 0.37)
    # Haemoglobin's two dips at 540 and 580 nm show in pale skin, the peak between them at 560.
    pale = skin_reflectance(np.array(0.005), np.array(0.03))
    assert pale[14] < pale[16] > pale[18]


def test_light_turns_with_the_head():
    R = rotation_from_euler_deg(torch.tensor([[35.0, -12.0, 8.0]]))[0].double().numpy()
    for n in range(12):
        still = draw_light(random_for(n, "light"), np.eye(3))
        turned = draw_light(random_for(n, "light"), R)
        want = rotate_sh(torch.from_numpy(still.sh)[None], torch.from_numpy(R).float()[None])[0].numpy()
        assert np.abs(turned.sh - want).max() < 2e-4
        if still.lamp_color.any():
            assert np.abs(turned.lamp_direction - R @ still.lamp_direction).max() < 1e-5


def test_a_narrow_lobe_shines_as_its_colour():
    """Nine harmonics of a light from one direction are 1 + 1/16 too bright on a surface that faces it."""
    towards = np.array([0.48, 0.6, 0.64])
    sh = torch.from_numpy(lobe(towards, np.array([0.2, 0.5, 1.0]), 1e6)).float()
    shading = lambert_transfer(torch.from_numpy(towards).float()[None]) @ sh
    assert np.allclose(shading[0], np.array([0.2, 0.5, 1.0]) * 17 / 16, rtol=1e-3)


def test_vertex_albedo_is_the_texture_around_the_vertex(faces):
    uv = load_prior().uv.numpy()
    side = faces.texture.shape[1]
    linear = srgb_to_linear(torch.from_numpy(faces.texture).float() / 255).numpy()
    column, row = (uv[:, 0] * side).astype(int), ((1 - uv[:, 1]) * side).astype(int)
    assert np.abs(linear[:, row, column] - faces.albedo).mean() < 0.02


def test_head_surrounds_the_face():
    """The strip that goes on under the face's edge lies close below it for anybody, so that there is no gap."""
    head = load_head()
    rng = np.random.default_rng(0)
    for _ in range(3):
        verts = head.verts(rng.standard_normal(100).astype(np.float32), np.zeros(55, np.float32))
        assert np.abs(verts[: head.n_face_verts] - load_prior().verts(torch.zeros(1, 1))[0].numpy()).max() < 60
        above = np.einsum("tk,tkc->tc", head.tucked_bary, verts[head.tucked_face])
        depth = ((above - verts[head.tucked]) * head.normals(verts)[head.tucked]).sum(1)
        assert 0.4 < np.median(depth) < 1.8 and np.abs(depth).max() < 6.0


def test_ict_identities_become_the_priors(shared_data):
    source = load_source(shared_data("ict") / "ict_facekit.npz")
    assert source.name == "ict" and source.count == 100
    # Both models have the same people, so that a standard normal person stays one.
    assert source.matrix is not None
    assert np.abs(source.matrix @ source.matrix.T - np.eye(100)).max() < 0.15
    from raylib.morphable.readers import load_model
    from raylib.morphable.registration.transfer import nearest_on_mesh

    model = load_model(str(shared_data("ict") / "ict_facekit.npz"))
    c = torch.randn(1, 100, generator=torch.Generator().manual_seed(1))
    verts = load_head().verts(source.to_prior(c[0].numpy()), np.zeros(55, np.float32))[:2113]
    skin = load_prior().regions.numpy() < 2
    distance = nearest_on_mesh(verts[skin].astype(float), model.verts(c)[0].double().numpy(), model.faces.numpy())[2]
    assert np.median(distance) < 0.3


def test_skin_from_photographs(tmp_path):
    (tmp_path / "faces").mkdir()
    rows = []
    for name, colour, yaw in (("a", (150, 110, 90), 3.0), ("b", (60, 40, 30), 70.0)):
        Image.new("RGB", (128, 128), colour).save(tmp_path / f"{name}.png")
        rows.append(
            {"status": "ok", "morphable_model": "prior", "yaw_deg": yaw, "texture_uri": f"{name}.png",
             "albedo": [0.3] * 6, "vertex_visibility": [1.0] * 4}
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "faces" / "part-0.parquet")
    assert len(photo_skins(str(tmp_path), 256)) == 1  # the face seen from the side is left out
    settings = SynthesisSettings(size_px=64, textures=str(tmp_path), texture_share=1.0)
    faces = FaceSynthesizer("prior", settings)([0, 1])
    cheek = load_prior().landmark_verts[4]
    assert np.allclose(faces.albedo[:, cheek], srgb_to_linear(torch.tensor([150, 110, 90]) / 255), atol=0.01)
    (tmp_path / "faces" / "part-0.parquet").unlink()
    with pytest.raises(ConfigError, match="reconstruct"):
        FaceSynthesizer("prior", dataclasses.replace(settings, texture_px=128))


def test_settings_that_cannot_be():
    for wrong in ({"fov_deg": (30, 10)}, {"size_px": 4}, {"expressions": 1.5}, {"shots": 0}, {"yaw_deg": 120}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SynthesisSettings(**wrong)
    with pytest.raises(ConfigError, match="backgrounds"):
        FaceSynthesizer("prior", SynthesisSettings(backgrounds="/no/such/folder"))


@pytest.fixture(scope="module")
def people():
    settings = SynthesisSettings(size_px=256)
    return FaceSynthesizer("prior", settings)(seeds_of("validation", 40))


@pytest.mark.slow
def test_a_detector_sees_faces():
    import dlib

    settings = SynthesisSettings(size_px=256, yaw_deg=30, pitch_deg=30, roll_deg=20)
    faces = FaceSynthesizer("prior", settings)(seeds_of("validation", 80, 1000))
    within = faces.turn_deg <= 30
    assert within.sum() >= 60
    detector = dlib.get_frontal_face_detector()
    found = [len(detector(np.ascontiguousarray(image), 1)) > 0 for image in faces.image[within]]
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_the_segmentation_network_sees_the_labels(people):
    segmenter = FaceSegmenter(device="cpu")
    seen = np.concatenate([segmenter.segment(people.image[i : i + 8]) for i in range(0, len(people), 8)])
    confusion = np.zeros((6, 6), np.int64)
    np.add.at(confusion, (people.labels.ravel(), seen.ravel()), 1)
    f1 = 2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))
    assert f1.mean() >= 0.80
