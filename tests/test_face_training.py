"""Training of the network that corrects landmark fits: samples, changes to them, the start, a few steps."""

import copy
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from meshnet_faces import rendered_samples, telling_cascade

from raylib.config import FaceLossWeights, FaceMeshNetSettings, TrainRegressorConfig
from raylib.errors import ConfigError
from raylib.fitting.crop_space import sample_at
from raylib.geometry.camera import rotation_from_vector
from raylib.geometry.mesh import vertex_normals
from raylib.lighting.lights import SphericalHarmonicLight
from raylib.morphable.model import load_prior
from raylib.regressor.cascade import CascadedRegression, descriptor_maps, posed
from raylib.regressor.corrections import RegressorGeometry
from raylib.regressor.novelty import OutOfDistributionScore
from raylib.regressor.weights import build_network
from raylib.training.loop import TrainState, load_checkpoint, new_state, save_checkpoint, train_step
from raylib.training.regressor.augmentation import FaceAugmentation, reframed
from raylib.training.regressor.cascade import (
    StepTargets,
    excess_noise,
    ridge_weights,
    rotation_vector,
    strangeness,
    strangeness_of,
    train_cascade,
)
from raylib.training.regressor.loss import FaceLoss, aligned_error, vertex_weights
from raylib.training.regressor.pictures import drawn_faces, whole_light
from raylib.training.regressor.samples import FaceSamples, LabelledFace, SampleMaker, write_samples, written_samples
from raylib.training.regressor.task import (
    CorrectionLosses,
    adamw,
    batches,
    estimate_samples,
    joined,
    validate,
)

SMALL = {"widths": [8, 16, 32, 32], "graph_widths": [32, 16, 8], "hidden": 32, "blocks": 1}


@pytest.fixture(scope="module")
def model():
    return load_prior()


@pytest.fixture(scope="module")
def corrector(model):
    albedo = torch.tensor([0.5, 0.35, 0.27]).expand(len(model.mean), 3).contiguous()
    return RegressorGeometry(model, albedo, CascadedRegression.identity(model))


@pytest.fixture(scope="module")
def samples(model):
    return rendered_samples(model, 6, 3)


@pytest.fixture(scope="module")
def cascade(model, samples):
    return telling_cascade(model, samples)


def maps_of(batch):
    return descriptor_maps(batch.images, batch.labels)


def small_network(model, seed=0):
    torch.manual_seed(seed)
    return build_network(model, SMALL)


def small_state(model, seed=0) -> TrainState:
    network = small_network(model, seed)
    return new_state(network, adamw(network, 0.0), ema_decay=0.9)


def test_a_strip_shows_faces_and_their_bare_shapes(model, corrector, samples):
    batch = rows_of(samples, slice(0, 2))
    estimate = estimate_samples(small_network(model).eval(), corrector, batch, torch.float32)
    strip = drawn_faces(FaceLoss(corrector, FaceLossWeights(), 64), estimate)
    assert strip.shape == (128, 128, 3)
    colored, bare = strip[:64].astype(int), strip[64:].astype(int)
    covered = bare.max(2) > 0
    assert 0.2 < covered.mean() < 0.9 and np.array_equal(covered, colored.max(2) > 0)
    assert np.ptp(bare, axis=2).max() == 0 and np.ptp(colored, axis=2).max() > 5
    assert np.percentile(bare[covered], 95) > 120 and np.percentile(bare[covered], 5) < 200


def rows_of(value, index):
    """The same dataclass with chosen rows of all tensors in it."""
    if not is_dataclass(value):
        return value[index]
    return type(value)(**{f.name: rows_of(getattr(value, f.name), index) for f in fields(value)})


class InMemory:
    """Samples with the reading side of `FaceSamples`."""

    def __init__(self, whole):
        self.whole = whole

    def __len__(self):
        return len(self.whole.images)

    def batch(self, index):
        return rows_of(self.whole, torch.from_numpy(np.asarray(index)))


def seen_colors(batch):
    at = batch.truth.camera.project(batch.truth.verts_mm) * 2 - 1
    return sample_at(batch.images.permute(0, 3, 1, 2).float(), at)


def test_mirroring_twice_changes_nothing_and_once_mirrors_all_alike(model, samples):
    change = FaceAugmentation(model)
    once = change.mirrored(samples)
    twice = change.mirrored(once)
    assert torch.equal(twice.images, samples.images)
    assert torch.equal(twice.truth.verts_mm, samples.truth.verts_mm)
    assert torch.allclose(twice.truth.light_sh, samples.truth.light_sh)
    assert torch.allclose(twice.fit.landmarks, samples.fit.landmarks, atol=1e-6)
    verts = model.verts(samples.fit.identity, samples.fit.expression)
    back = model.verts(twice.fit.identity, twice.fit.expression)
    assert (verts - back).norm(dim=2).mean() < 0.15
    # Every vertex sees in the mirror image what the one across the face saw.
    assert (seen_colors(once) - seen_colors(samples)[:, model.mirror_verts]).abs().mean() < 1.0
    marks = once.truth.camera.project(once.truth.verts_mm[:, model.landmark_verts])
    assert (marks - once.fit.landmarks).norm(dim=2).mean() < 0.012
    normals = vertex_normals(once.truth.verts_mm, model.faces)
    shading = SphericalHarmonicLight(once.truth.light_sh).diffuse(once.truth.verts_mm, normals)
    first = SphericalHarmonicLight(samples.truth.light_sh).diffuse(
        samples.truth.verts_mm, vertex_normals(samples.truth.verts_mm, model.faces)
    )
    assert torch.allclose(shading, first[:, model.mirror_verts], atol=1e-4)


def test_reframing_moves_picture_cameras_and_landmarks_together(model, samples):
    moved = reframed(samples, torch.Generator().manual_seed(0))
    at = samples.truth.camera.project(samples.truth.verts_mm)
    new = moved.truth.camera.project(moved.truth.verts_mm)
    assert (at - new).norm(dim=2).mean() > 0.01
    inside = ((at > 0.02) & (at < 0.98) & (new > 0.02) & (new < 0.98)).all(2)
    change = (seen_colors(samples) - seen_colors(moved)).abs().mean(2)[inside]
    assert change.median() < 2.0
    assert torch.equal(moved.fit.identity, samples.fit.identity)
    fitted = model.verts(moved.fit.identity, moved.fit.expression)[:, model.landmark_verts[36:48]]
    assert torch.allclose(moved.fit.camera.project(fitted), moved.fit.fitted[:, 36:48], atol=2e-3)


def test_better_landmarks_give_better_fits(model, samples):
    change = FaceAugmentation(model)
    rough = replace(samples, fit=replace(samples.fit, landmarks=samples.fit.landmarks + 0.02))
    fitted = change.relandmarked(rough, torch.Generator().manual_seed(0))
    exact = samples.truth.camera.project(samples.truth.verts_mm[:, model.landmark_verts])
    before, after = ((f.fit.landmarks - exact).norm(dim=2).mean(1) for f in (rough, fitted))
    assert bool((after < before).all())


def test_changes_repeat_with_the_seed_and_keep_shapes(model, samples):
    change = FaceAugmentation(model)
    (a, lit), (b, again) = (change(samples, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(lit, again)
    assert a.images.shape == samples.images.shape and a.images.dtype == torch.uint8
    other, _ = change(samples, torch.Generator().manual_seed(5))
    assert not torch.equal(a.images, other.images)


def test_rotation_vectors_invert_rotations():
    w = torch.randn(20, 3) * 0.5
    assert torch.allclose(rotation_vector(rotation_from_vector(w)), w, atol=1e-4)


def test_targets_bring_the_fit_to_the_truth(model, samples):
    step = StepTargets(model)(samples.fit, samples.truth)
    moved = posed(samples.fit, step, model)
    verts = model.verts(moved.identity, moved.expression)
    assert torch.allclose(moved.camera.R, samples.truth.camera.R, atol=1e-4)
    error, _ = aligned_error(verts, samples.truth.verts_mm, vertex_weights(model))
    assert error.norm(dim=2).mean() < 0.2
    wanted = samples.truth.camera.project(samples.truth.verts_mm)
    assert (moved.camera.project(verts) - wanted).norm(dim=2).mean() < 0.004


def test_what_photographs_scatter_more_is_not_answered_to():
    # Errors in variables: a feature of variance v that noise of variance n joins keeps v / (v + n) of its weight.
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(20_000, 3, generator=rng), torch.tensor([0.0, 1.0, 3.0])
    y = x @ torch.tensor([[1.0], [1.0], [1.0]])
    real = torch.randn(20_000, 3, generator=rng) * (1 + noise).sqrt()
    gram, cross = x.T @ x / len(x), x.T @ y / len(x)

    def answered(photographs):
        factor = excess_noise(photographs, gram)
        return ridge_weights(gram + factor @ factor.T, cross, 1e-6)

    plain, careful = ridge_weights(gram, cross, 1e-6), answered(real)
    assert torch.allclose(plain, torch.ones(3, 1), atol=1e-3)
    assert torch.allclose(careful[:, 0], 1 / (1 + noise), atol=0.05)
    # The best that a linear answer can do on the noisy ones.
    clean = torch.randn(20_000, 3, generator=rng)
    seen = clean + noise.sqrt() * torch.randn(20_000, 3, generator=rng)
    wrong = [(seen @ weight - clean.sum(1, keepdim=True)).square().mean() for weight in (plain, careful)]
    assert wrong[1] < 0.5 * wrong[0]
    # Photographs that scatter less tell nothing; a mean that moved is noise too.
    assert torch.allclose(answered(0.5 * x), plain, atol=1e-3)
    assert answered(x + torch.tensor([2.0, 0.0, 0.0]))[0, 0] == pytest.approx(1 / 5, abs=0.05)


@pytest.mark.slow
def test_a_cascade_that_saw_photographs_does_not_follow_what_only_they_have(model):
    samples = InMemory(rendered_samples(model, 64, 11, size=64, bias=0.02))
    # These "photographs" are grainy, as no synthetic face is: edges are everywhere.
    odd = rendered_samples(model, 64, 12, size=64, bias=0.02)
    grain = torch.randint(-60, 61, odd.images.shape, generator=torch.Generator().manual_seed(0))
    odd = replace(odd, images=(odd.images + grain).clamp(0, 255).to(torch.uint8))
    photos = InMemory(odd)
    trusting, wary = (train_cascade(model, samples, np.arange(64), [2.0, 2.0], 0, p) for p in (None, photos))

    def error(cascade):
        fit = cascade(maps_of(odd), odd.fit, model)[0]
        verts = model.verts(fit.identity, fit.expression)
        return float(aligned_error(verts, odd.truth.verts_mm, vertex_weights(model))[0].norm(dim=2).mean())

    assert error(wary) < 0.9 * error(trusting)


def test_other_samples_teach_on_what_is_known(model):
    index, (first, second, unseen) = (
        np.arange(64),
        (rendered_samples(model, 64, n, size=64, bias=0.02) for n in (11, 12, 13)),
    )
    known = train_cascade(model, InMemory(first), index, [2.0, 2.0])
    held = train_cascade(model, InMemory(second), index, [1e7, 1e7], known=known)
    torch.testing.assert_close(held.weights, known.weights, rtol=0, atol=1e-5)
    taught = train_cascade(model, InMemory(second), index, [8.0, 8.0], known=known)
    alone = train_cascade(model, InMemory(second), index, [2.0, 2.0])

    def error(cascade):
        fit = cascade(maps_of(unseen), unseen.fit, model)[0]
        verts = model.verts(fit.identity, fit.expression)
        return float(aligned_error(verts, unseen.truth.verts_mm, vertex_weights(model))[0].norm(dim=2).mean())

    assert error(taught) < 0.99 * min(error(known), error(alone))


def strangers(k=40, f=60, n=3000):
    """Features and identities of synthetic faces, and of photographs that are noisier the stranger they look."""
    rng = torch.Generator().manual_seed(0)
    plane, _ = torch.linalg.qr(torch.randn(f, f, generator=rng))
    spread = torch.cat([torch.full((10,), 3.0), torch.full((f - 10,), 0.02)])

    def looks(n):
        return spread * torch.randn(n, f, generator=rng)

    known, true = looks(n) @ plane.T, torch.randn(n, k, generator=rng)
    level = 2 * torch.rand(n, 1, generator=rng)  # variance of the noise over that of the identity
    strange = looks(n) + torch.cat([torch.zeros(n, 10), (f / (f - 10) * level).sqrt().expand(n, f - 10)], dim=1)
    noisy = true + level.sqrt() * torch.randn(n, k, generator=rng)
    return known, strange @ plane.T, torch.randn(n, k, generator=rng), noisy, true, level


def test_identities_are_believed_as_far_as_least_squares_says_of_each_picture(monkeypatch):
    monkeypatch.setattr("raylib.training.regressor.cascade._MAIN_DIRECTIONS", 10)
    known, real, known_identity, noisy, true, level = strangers()
    found = strangeness_of(known, real, known_identity, noisy, 1.0)
    strange = found(real)[0]
    assert strange.mean() == pytest.approx(1.0, abs=1e-4) and torch.allclose(strange, level, atol=0.05)
    assert found(known)[0].max() < 0.02 and found(known)[0].min() == 0
    kept = found.shrinkage(strange)
    assert torch.allclose(kept, 1 / (1 + level), atol=0.06)
    best_of_all = float((true * noisy).sum() / noisy.square().sum())
    assert (kept * noisy - true).square().mean() < 0.97 * (best_of_all * noisy - true).square().mean()
    # Half the excess; none; and identities that scatter less are taken as they are.
    half = strangeness_of(known, real, known_identity, noisy, 0.5).shrinkage(strange)
    assert torch.allclose(1 / half - 1, (1 / kept - 1) / 2, rtol=1e-4)
    for identity, noise in ((noisy, 0.0), (0.5 * true, 1.0)):
        believed = strangeness_of(known, real, known_identity, identity, noise)
        assert torch.equal(believed(real)[0], strange)
        assert torch.equal(believed.shrinkage(strange), torch.ones_like(strange))


def test_strangeness_is_of_what_the_cascade_sees(model, cascade, samples):
    odd = rendered_samples(model, 6, 12, size=64, bias=0.05)
    found = strangeness(model, cascade, InMemory(samples), np.arange(6), InMemory(odd), 1.0)
    (one, x), (two, y) = (cascade(maps_of(batch), batch.fit, model) for batch in (samples, odd))
    wanted = strangeness_of(x, y, one.identity, two.identity, 1.0)
    assert torch.equal(found(y)[0], wanted(y)[0]) and found(y)[0].min() > 0


def test_usual_pictures_take_the_closing_step_and_strange_ones_shrink_in_training_too(model, corrector, samples):
    cascade, closing = (telling_cascade(model, samples, seed) for seed in (2, 3))
    plain, features = cascade(maps_of(samples), samples.fit, model)
    sizes = features.square().mean(1)
    middle, zero = sizes.median(), torch.zeros(())
    strange = OutOfDistributionScore(
        features.new_zeros(features.shape[1], 1), middle, 1.2 * (sizes.max() - middle), zero + 0.8
    )
    at = strange(features)[0]
    assert at.min() == 0 and 0.8 < at.max() < 1
    closed = closing(maps_of(samples), plain, model, 1 - at)[0]
    whole = closing(maps_of(samples), plain, model)[0]
    for row in range(6):
        usual = bool(at[row] == 0)
        assert torch.equal(closed.identity[row], whole.identity[row]) == usual
        assert not torch.equal(closed.identity[row], plain.identity[row])
    held = RegressorGeometry(model, corrector.mean_albedo, cascade, strangeness=strange, gated_step=closing)
    known = torch.tensor([True, False, True, True, False, False])
    batch = replace(samples, truth=replace(samples.truth, known=known.float()))
    started = []
    apply = held.apply
    held.apply = lambda corrections, inputs, fit, light: started.append(fit) or apply(corrections, inputs, fit, light)
    losses = CorrectionLosses(held, FaceLoss(held, FaceLossWeights(landmark=1.0), 32), torch.float32)
    train_step(small_state(model), losses, [(batch, known)], 0.0, max_norm=2.0)
    deployed = held.run_cascade(samples.images, samples.labels, samples.fit)
    kept = 1 / (1 + 0.8 * at)
    for fit, rows in ((started[0], ~known), (deployed, torch.ones(6, dtype=torch.bool))):
        assert torch.equal(fit.identity[rows], (closed.identity * kept)[rows])
        assert torch.equal(fit.identity[~rows], closed.identity[~rows])
        verts = model.verts(fit.identity, closed.expression)
        assert torch.equal(fit.fitted, closed.camera.project(verts[:, model.landmark_verts]))
        assert torch.equal(fit.camera.R, closed.camera.R)


def test_whole_light_adds_a_lamp_as_lambert_sees_it(model):
    direction = np.array([0.6, 0.0, 0.8], np.float32)
    light = whole_light(np.zeros((9, 3), np.float32), direction, np.array([1.0, 0.5, 0.0]), np.array([2.0, 2.0, 2.0]))
    normals = torch.nn.functional.normalize(torch.randn(1, 400, 3), dim=2)
    shading = SphericalHarmonicLight(torch.from_numpy(light)[None]).diffuse(normals, normals)[0]
    cosine = (normals[0] @ torch.from_numpy(direction)).clamp(min=0)
    # Nine harmonics keep Lambert's cosine to less than a tenth (Ramamoorthi and Hanrahan 2001), here twice that.
    assert (shading[:, 0] - 2 * cosine).abs().max() < 0.2
    assert torch.allclose(shading[:, 1], shading[:, 0] / 2, atol=1e-5) and not bool(shading[:, 2].any())


def test_samples_of_a_photograph_survive_the_folder(model, astronaut, tmp_path):
    maker = SampleMaker(model)
    blank = LabelledFace(np.zeros((64, 64, 3), np.uint8))
    assert write_samples([maker([LabelledFace(astronaut), blank], [7, 8]), maker([blank], [8])], model, tmp_path) == 1
    assert written_samples(tmp_path) == (1, 2)
    assert write_samples([maker([LabelledFace(astronaut)], [9])], model, tmp_path) == 2
    samples = FaceSamples(tmp_path, model)
    assert samples.groups.tolist() == [7, 9]
    batch = samples.batch(np.array([0, 1]))
    assert torch.equal(batch.images[0], batch.images[1])
    assert batch.truth.known.tolist() == [0.0, 0.0]
    verts = model.verts(batch.fit.identity, batch.fit.expression)
    fitted = batch.fit.camera.project(verts[:, model.landmark_verts])[:, 17:]
    assert torch.allclose(fitted, batch.fit.fitted[:, 17:], atol=1e-3)
    assert (fitted - batch.fit.landmarks[:, 17:]).norm(dim=2).mean() < 0.02
    with pytest.raises(ConfigError, match="expected some for the average albedo"):
        samples.mean_albedo()
    with pytest.raises(ConfigError, match="were made with the face model"):
        FaceSamples(tmp_path, replace(model, sha256="0" * 64))
    with pytest.raises(ConfigError, match=r"expected samples\.json"):
        FaceSamples(tmp_path / "none", model)


def test_every_weight_is_of_a_term(model, corrector, samples):
    known = torch.tensor([True, True, True, False, False, False])
    batch = replace(samples, truth=replace(samples.truth, known=known.float()))
    weights = FaceLossWeights(photometric=1.0, keep=1.0)
    losses = CorrectionLosses(corrector, FaceLoss(corrector, weights, 32), torch.float32, small_network(model, 1))
    terms = losses(small_network(model), (batch, known), 0.0)
    assert set(terms) == {"loss"} | {entry.name for entry in fields(FaceLossWeights)}


def test_settings_name_what_is_missing():
    with pytest.raises(ConfigError, match=r"face\.synthetic"):
        TrainRegressorConfig()
    with pytest.raises(ConfigError, match="photographs"):
        FaceMeshNetSettings(photo_share=0.5)
    with pytest.raises(ConfigError, match="keep is -1"):
        FaceLossWeights(keep=-1)


@pytest.mark.slow
def test_the_cascade_alone_beats_the_fit_on_faces_it_has_not_seen(model, corrector):
    # Landmarks that always err the same way: that much is linear.
    shifted = rendered_samples(model, 176, 11, size=64, bias=0.02)
    samples = InMemory(shifted)
    cascade = train_cascade(model, samples, np.arange(160), [1.0, 1.0])
    corrector = RegressorGeometry(model, corrector.mean_albedo, cascade)
    row = validate(
        small_network(model), corrector, samples, np.arange(160, 176), vertex_weights(model), 16,
        torch.device("cpu"), torch.float32,
    )  # fmt: skip
    assert row["val_vertex_mm"] == pytest.approx(row["cascade_vertex_mm"])
    assert row["val_vertex_mm"] < 0.9 * row["fit_vertex_mm"]
    assert row["val_pose_deg"] < row["fit_pose_deg"]


@pytest.mark.slow
def test_batches_mix_photographs_in_and_repeat_with_the_seed(model, samples):
    change, source = FaceAugmentation(model), InMemory(samples)
    photos = InMemory(replace(samples, truth=replace(samples.truth, known=torch.zeros(6))))

    def epoch(number):
        return list(batches(source, np.arange(6), photos, np.arange(6), 4, 0.5, change, (0, number, 0)))

    first, again, second = epoch(0), epoch(0), epoch(1)
    assert len(first) == 3
    for batch, lit in first:
        assert batch.truth.known.tolist() == [1.0, 1.0, 0.0, 0.0]
        assert lit[2:].tolist() == [False, False]
    assert all(torch.equal(a.images, b.images) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not all(torch.equal(a.images, b.images) for (a, _), (b, _) in zip(first, second, strict=True))
    assert len(joined(first[0][0], first[1][0]).fit.identity) == 8


@pytest.mark.slow
def test_a_few_steps_bring_vertices_nearer_and_repeat_themselves(model, corrector, samples, tmp_path):
    lit = torch.ones(len(samples.images), dtype=torch.bool)
    losses = CorrectionLosses(corrector, FaceLoss(corrector, FaceLossWeights(), 32), torch.float32)

    def steps(state, n):
        return [train_step(state, losses, [(samples, lit)], 3e-3, max_norm=2.0) for _ in range(n)]

    state = small_state(model)
    rows = steps(state, 40)
    assert rows[-2]["vertex"] < 0.9 * rows[0]["vertex"]
    assert rows[-2]["sigma"] < rows[0]["sigma"]
    save_checkpoint(state, tmp_path / "state.pt")
    steps(state, 2)
    resumed = small_state(model, seed=9)
    load_checkpoint(resumed, tmp_path / "state.pt")
    steps(resumed, 2)
    for a, b in zip(state.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_photographs_alone_bring_the_rendering_nearer(model, corrector, samples):
    photos = replace(samples, truth=replace(samples.truth, known=torch.zeros(len(samples.images))))
    state = small_state(model)
    weights = FaceLossWeights(photometric=3.0, landmark=0.3, symmetry=0.1, smooth_albedo=0.1, keep=0.1)
    loss = FaceLoss(corrector, weights, 48)
    first = copy.deepcopy(state.network)
    lit = torch.zeros(len(samples.images), dtype=torch.bool)
    losses = CorrectionLosses(corrector, loss, torch.float32, first)
    rows = [train_step(state, losses, [(photos, lit)], 3e-3, max_norm=2.0) for _ in range(30)]
    assert rows[-2]["photometric"] < 0.8 * rows[0]["photometric"]
    assert rows[-2]["keep"] < 1.0
