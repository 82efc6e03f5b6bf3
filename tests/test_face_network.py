"""The network that corrects landmark fits: at first it changes nothing; what it says moves with the picture."""

import copy

import numpy as np
import pytest
import torch
from meshnet_faces import rendered_samples, telling_cascade
from safetensors import safe_open
from safetensors.torch import save_file

from raylib.config import FaceLossWeights, FitSettings
from raylib.detection.alignment import crop_face
from raylib.errors import ConfigError
from raylib.fitting.crop_space import sample_at
from raylib.fitting.estimates import FaceBatch
from raylib.fitting.landmarks import LandmarkFitter
from raylib.geometry.mesh import face_areas_normals, vertex_normals
from raylib.morphable.model import load_prior
from raylib.regressor.cascade import CascadedRegression, descriptor_maps, posed
from raylib.regressor.corrections import CropEstimate, RegressorGeometry, seen_from_camera, trend_features
from raylib.regressor.novelty import OutOfDistributionScore
from raylib.regressor.predictor import FaceNetwork, crop_fit, unfolded
from raylib.regressor.uncertainty import LogErrorModel
from raylib.regressor.weights import build_network, load_weights, save_weights
from raylib.segmentation.labels import Label
from raylib.training.regressor.loss import FaceLoss, aligned_error, rotation_distance_deg

SMALL = {"widths": [8, 16, 32, 32], "graph_widths": [32, 16, 8], "hidden": 32, "blocks": 1}


@pytest.fixture(scope="module")
def model():
    return load_prior()


@pytest.fixture(scope="module")
def mean_albedo(model):
    return torch.tensor([0.5, 0.35, 0.27]).expand(len(model.mean), 3).contiguous()


@pytest.fixture(scope="module")
def corrector(model, mean_albedo):
    return RegressorGeometry(model, mean_albedo, CascadedRegression.identity(model))


@pytest.fixture(scope="module")
def samples(model):
    return rendered_samples(model, 6, 3)


def small_network(model, seed=0):
    torch.manual_seed(seed)
    return build_network(model, SMALL)


def shaken(network, size=0.02, seed=1):
    """The network with last layers that say something."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if not bool(p.any()):
                p.copy_(size * torch.randn(p.shape, generator=g))
    return network


def test_an_untrained_network_returns_the_fit(model, corrector, samples):
    start = corrector.run_cascade(samples.images, samples.labels, samples.fit)
    inputs, light = corrector.inputs(samples.images, samples.labels, start)
    corrections = small_network(model)(inputs)
    assert all(not bool(v.any()) for v in corrections.__dict__.values())
    estimate = corrector.apply(corrections, inputs, start, light)
    whole = corrector.estimate(small_network(model), samples.images, samples.labels, samples.fit)
    assert torch.equal(whole.verts_mm, estimate.verts_mm) and torch.equal(whole.camera.T, estimate.camera.T)
    assert torch.equal(estimate.verts_mm, model.verts(samples.fit.identity, samples.fit.expression))
    assert torch.equal(estimate.camera.R, samples.fit.camera.R)
    assert torch.equal(estimate.camera.T, samples.fit.camera.T)
    assert torch.equal(estimate.albedo, corrector.mean_albedo.expand_as(estimate.albedo))


def test_every_weight_learns(model, corrector, samples):
    network = shaken(small_network(model))
    start = corrector.run_cascade(samples.images, samples.labels, samples.fit)
    inputs, light = corrector.inputs(samples.images, samples.labels, start)
    corrections = network(inputs)
    estimate = corrector.apply(corrections, inputs, start, light)
    terms = FaceLoss(corrector, FaceLossWeights(), 32)(
        estimate, corrections, samples, torch.ones(len(samples.images), dtype=torch.bool)
    )
    terms["loss"].backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)
    assert all(np.isfinite(float(v.detach())) for v in terms.values())


def test_first_light_finds_the_light_of_an_average_skin(corrector, model, samples):
    truth = samples.truth
    normals = vertex_normals(truth.verts_mm, model.faces)
    color = corrector.mean_albedo * (corrector.transfer(normals) @ truth.light_sh)
    light = corrector.first_light(color, normals, torch.ones(color.shape[:2]))
    found = corrector.transfer(normals) @ (light.exposure[:, None] * light.shape)
    wanted = corrector.transfer(normals) @ truth.light_sh
    assert (found - wanted).abs().mean() < 0.04 * wanted.mean()


def photographed(model, corrector, seed=5, turn=0, scale=1):
    """Faces as the detection leaves them, cut out of a picture that may be turned by right angles and enlarged."""
    sample = rendered_samples(model, 2, seed, size=256)
    images = sample.images.numpy()
    marks = sample.fit.landmarks.numpy() * 256
    batches = []
    for rgb, points in zip(images, marks, strict=True):
        for _ in range(turn):
            rgb = np.rot90(rgb)
            points = np.stack([points[:, 1], rgb.shape[0] - points[:, 0]], axis=1)
        rgb, points = rgb.repeat(scale, 0).repeat(scale, 1), points * scale
        batches.append((crop_face(np.ascontiguousarray(rgb), points, 256), points))
    focal = sample.truth.camera.focal_px * 256 * scale
    faces = FaceBatch(
        landmarks_px=torch.from_numpy(np.stack([p for _, p in batches])).float(),
        focal_px=focal,
        principal_px=torch.full((2, 2), 128.0 * scale),
        crops=np.stack([c.rgb for c, _ in batches]),
        crop_to_photo=np.stack([c.to_photo for c, _ in batches]),
        labels=np.full((2, 256, 256), 2, np.uint8),
    )
    fit = LandmarkFitter(model, FitSettings()).fit(faces.landmarks_px, faces.focal_px, faces.principal_px)
    return faces, fit


@pytest.fixture(scope="module")
def cascade(model, samples):
    return telling_cascade(model, samples)


@pytest.fixture(scope="module")
def weights(model, mean_albedo, cascade, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "meshnet.safetensors"
    save_weights(shaken(small_network(model)), SMALL, RegressorGeometry(model, mean_albedo, cascade), path)
    return path


def test_a_turned_photograph_turns_the_pose_and_nothing_else(model, corrector, weights):
    network = FaceNetwork(weights)
    faces, fit = photographed(model, corrector)
    upright = network(faces, fit)
    turned = network(*photographed(model, corrector, turn=1))
    assert (upright.verts_mm - turned.verts_mm).norm(dim=2).max() < 0.15
    assert (upright.light_sh - turned.light_sh).abs().max() < 0.05 * upright.light_sh.abs().max()
    quarter = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # np.rot90 takes the right edge to the top
    assert rotation_distance_deg(quarter @ upright.camera.R, turned.camera.R).max() < 0.3
    moved = upright.landmarks_px @ quarter[:2, :2].T + torch.tensor([0.0, 256.0])
    assert (moved - turned.landmarks_px).norm(dim=2).nanmean() < 0.3


def test_an_enlarged_photograph_gives_the_same_face(model, corrector, weights):
    network = FaceNetwork(weights)
    plain = network(*photographed(model, corrector))
    large = network(*photographed(model, corrector, scale=2))
    assert (plain.verts_mm - large.verts_mm).norm(dim=2).mean() < 0.1
    assert (2 * plain.landmarks_px - large.landmarks_px).norm(dim=2).nanmean() < 1.0


def test_inference_equals_the_crops_own_estimate(model, corrector, weights):
    network = FaceNetwork(weights, batch_size=1)
    faces, fit = photographed(model, corrector)
    estimates = network(faces, fit)
    fits = crop_fit(faces, fit)
    assert torch.allclose(
        fits.camera.project(fit.verts_mm)[0], _to_crop(faces, fit.camera.project(fit.verts_mm))[0], atol=1e-4
    )
    whole = FaceNetwork(weights, batch_size=2)(faces, fit)
    assert torch.allclose(estimates.verts_mm, whole.verts_mm, atol=1e-3)
    assert torch.allclose(
        estimates.camera.project(estimates.verts_mm)[:, model.landmark_verts[36:]],
        estimates.landmarks_px[:, 36:],
        atol=1e-3,
    )
    # Along the jaw a landmark is whatever vertex of its line projects nearest to the detected one.
    for n in range(17):
        line = model.contour_verts[n][model.contour_verts[n] >= 0]
        off = (estimates.camera.project(estimates.verts_mm[:, line]) - faces.landmarks_px[:, n, None]).norm(dim=2)
        found = (estimates.landmarks_px[:, n] - faces.landmarks_px[:, n]).norm(dim=1)
        assert torch.allclose(found, off.min(1).values, atol=1e-3)
    assert bool(estimates.usable().all())
    assert not torch.allclose(estimates.verts_mm, fit.verts_mm, atol=0.05)
    again = network(faces, fit)
    assert torch.equal(again.verts_mm, estimates.verts_mm) and torch.equal(again.albedo, estimates.albedo)


def _to_crop(faces, px):
    linear, offset = torch.from_numpy(faces.crop_to_photo[:, :, :2]), torch.from_numpy(faces.crop_to_photo[:, :, 2])
    moved = torch.linalg.solve(linear[:, None], (px.double() - offset[:, None])[..., None])[..., 0]
    return (moved / faces.crops.shape[1]).float()


def test_albedo_follows_the_picture_where_the_bare_face_is_seen(model, mean_albedo, samples):
    corrector = RegressorGeometry(model, mean_albedo, CascadedRegression.identity(model))
    corrector.shadow = torch.zeros_like(corrector.shadow)  # the pictures were rendered without
    truth, zero = samples.truth, torch.zeros_like(samples.truth.verts_mm)
    estimate = CropEstimate(
        truth.camera, samples.fit.identity, samples.fit.expression, zero, truth.verts_mm,
        mean_albedo.expand_as(truth.albedo), truth.light_sh, zero[..., 0], zero[:, 0, 0],
    )  # fmt: skip
    seen = samples.images, samples.labels
    assert torch.allclose(corrector.seen_albedo(estimate, *seen, 0.0), estimate.albedo, rtol=1e-5)
    found = corrector.seen_albedo(estimate, *seen, 1.0)
    facing = seen_from_camera(truth.verts_mm, vertex_normals(truth.verts_mm, model.faces), truth.camera)
    before, after = ((a / truth.albedo).log().abs().mean(2) for a in (estimate.albedo, found))
    clear = facing > 0.7
    assert after[clear].median() < 0.02 and before[clear].median() > 0.1
    assert torch.equal(found[facing < 0], corrector.seen_albedo(estimate, *seen, 0.0)[facing < 0])
    covered = torch.full_like(samples.labels, int(Label.HAIR))
    assert torch.allclose(corrector.seen_albedo(estimate, samples.images, covered, 1.0), estimate.albedo, rtol=1e-5)


def test_weights_survive_the_file_in_half_precision(model, mean_albedo, cascade, corrector, samples, tmp_path):
    network = shaken(small_network(model))
    path = tmp_path / "w.safetensors"
    g = torch.Generator().manual_seed(0)
    # Fits, and four numbers on the pictures' looks.
    n, v = corrector.inputs(samples.images, samples.labels, samples.fit)[0].fit_features.shape[1] + 4, len(model.mean)
    trend = LogErrorModel(
        torch.randn(n, generator=g),
        torch.rand(n, generator=g) + 0.5,
        0.01 * torch.randn(2 * n, 3, generator=g),
        torch.randn(3, v, generator=g),
    )
    maps = descriptor_maps(samples.images, samples.labels)
    features = cascade(maps, samples.fit, model)[1]
    basis = torch.linalg.svd(features, full_matrices=False).Vh[:3].T
    strange = OutOfDistributionScore(basis, torch.tensor(0.01), torch.tensor(1.5), torch.tensor(0.7))
    closing = telling_cascade(model, samples, 3)
    full = RegressorGeometry(model, mean_albedo, cascade, trend=trend, strangeness=strange, gated_step=closing)
    save_weights(network, SMALL, full, path)
    loaded, found = load_weights(path, model)
    rounded = copy.deepcopy(network)
    for p in rounded.parameters():
        p.data = p.data.half().float()
    start = found.run_cascade(samples.images, samples.labels, samples.fit)
    inputs, light = found.inputs(samples.images, samples.labels, start)
    with torch.inference_mode():
        a, b = loaded(inputs), rounded(inputs)
    assert torch.equal(a.offsets_mm, b.offsets_mm) and torch.equal(a.identity, b.identity)
    said, told = (t(trend_features(inputs, start)) for t in (trend, found.trend))
    assert said.std() > 0.1 and torch.allclose(said, told, atol=0.02 * float(said.std()))
    # It multiplies the uncertainty and nothing else.
    plain, scaled = (c.apply(a, inputs, start, light) for c in (corrector, found))
    torch.testing.assert_close((scaled.sigma_mm / plain.sigma_mm).log(), told, atol=1e-4, rtol=1e-3)
    assert torch.equal(scaled.verts_mm, plain.verts_mm)
    assert torch.allclose(found.mean_albedo, mean_albedo, rtol=1e-3)
    (told, looks), (before, seen) = found.strangeness(features), strange(features)
    assert told.max() > 0.05 and torch.allclose(before, told, atol=2e-3)
    assert looks.std() > 0.1 and torch.allclose(seen, looks, atol=5e-2)
    assert torch.allclose(strange.shrinkage(told), found.strangeness.shrinkage(told))
    for one, other in ((cascade, found.cascade), (closing, found.gated_step)):
        before, after = (c(maps, samples.fit, model)[0] for c in (one, other))
        assert torch.allclose(before.identity, after.identity, atol=2e-3)
        assert torch.allclose(before.camera.R, after.camera.R, atol=2e-4)
        assert (before.identity - samples.fit.identity).abs().max() > 0.01


def test_a_step_moves_the_face_as_it_says(model, samples):
    step = torch.zeros(6, 6 + len(model.identity) + len(model.expression))
    assert torch.equal(posed(samples.fit, step, model).camera.T, samples.fit.camera.T)
    step[:, 3:5] = torch.tensor([0.1, -0.05])
    step[:, 6] = 1.5
    moved = posed(samples.fit, step, model)
    origin = torch.zeros(6, 1, 3)
    shift = moved.camera.project(origin) - samples.fit.camera.project(origin)
    assert torch.allclose(shift[:, 0], torch.tensor([0.1, -0.05]).expand(6, 2), atol=1e-4)
    assert torch.allclose(moved.identity[:, 0], samples.fit.identity[:, 0] + 1.5)
    step = torch.zeros_like(step)
    step[:, 5] = 0.2
    nearer = posed(samples.fit, step, model)
    assert torch.allclose(nearer.camera.project(origin), samples.fit.camera.project(origin), atol=1e-4)
    assert torch.allclose(nearer.camera.T, samples.fit.camera.T * torch.tensor(0.2).exp(), rtol=1e-4)


def test_descriptors_hardly_change_with_the_light(samples):
    darker = (samples.images.float() * 0.5).round().byte()
    for bright, dark in zip(
        descriptor_maps(samples.images, samples.labels), descriptor_maps(darker, samples.labels), strict=True
    ):
        assert (bright - dark).abs().mean() < 0.1 * bright.abs().mean()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_picture_of_one_colour_has_descriptors(value):
    image, labels = torch.full((1, 128, 128, 3), value, dtype=torch.uint8), torch.full((1, 128, 128), 2).byte()
    assert all(bool(maps.isfinite().all()) for maps in descriptor_maps(image, labels))


def test_weights_for_another_model_are_refused(model, weights, tmp_path):
    from dataclasses import replace

    with pytest.raises(ConfigError, match="correct the face model"):
        load_weights(weights, replace(model, sha256="0" * 64))
    with safe_open(weights, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, tmp_path / "older.safetensors", metadata | {"format": "raylib.face_meshnet.1"})
    with pytest.raises(ConfigError, match=r"say format and labels \('raylib.face_meshnet.1', .*, expected"):
        load_weights(tmp_path / "older.safetensors", model)
    with pytest.raises(ConfigError, match="expected a safetensors file there"):
        load_weights(tmp_path / "none.safetensors", model)
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(ConfigError, match="expected a safetensors file"):
        load_weights(tmp_path / "text", model)


def test_labels_are_needed(model, corrector, weights):
    from dataclasses import replace

    faces, fit = photographed(model, corrector)
    with pytest.raises(ValueError, match="expected label maps"):
        FaceNetwork(weights)(replace(faces, labels=None), fit)


def test_offsets_that_fold_triangles_are_reduced(model, corrector, samples):
    from dataclasses import replace

    start = corrector.run_cascade(samples.images, samples.labels, samples.fit)
    inputs, light = corrector.inputs(samples.images, samples.labels, start)
    corrections = small_network(model)(inputs)
    g = torch.Generator().manual_seed(0)
    wild = torch.zeros_like(corrections.offsets_mm)
    wild[0] = 3 * torch.randn(wild[0].shape, generator=g)
    wild[1] = torch.tensor([0.5, -0.5, 1.0])
    estimate = corrector.apply(replace(corrections, offsets_mm=wild), inputs, start, light)
    base = face_areas_normals(estimate.verts_mm - wild, model.faces)[1]

    def folds(verts):
        return ((face_areas_normals(verts, model.faces)[1] * base).sum(2) < 0).sum(1)

    assert folds(estimate.verts_mm)[0] > 100
    safe = unfolded(estimate, model.faces)
    assert folds(safe.verts_mm).tolist() == [0] * 6
    assert torch.equal(safe.verts_mm[1:], estimate.verts_mm[1:])
    assert torch.allclose(safe.verts_mm - safe.offsets_mm, estimate.verts_mm - wild, atol=1e-4)


def test_aligned_error_ignores_position_and_size(model):
    truth = model.verts(torch.randn(2, 100))
    weights = torch.rand(len(model.mean)) + 0.1
    error, scale = aligned_error(1.1 * truth + torch.tensor([3.0, -2, 8]), truth, weights)
    assert error.abs().max() < 1e-3
    assert torch.allclose(scale, torch.full((2,), 1 / 1.1), atol=1e-5)


def test_sampling_reads_pixel_centres():
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    centres = (torch.tensor([[[0.5, 0.5], [2.5, 1.5], [3.5, 3.5]]]) / 4) * 2 - 1
    assert sample_at(picture, centres)[0, :, 0].tolist() == [0.0, 6.0, 15.0]
