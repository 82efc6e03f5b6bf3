"""Colours come back from a rendered photograph where it sees the face, and from the other side where it does not."""

import numpy as np
import pytest
import torch

from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.geometry.mesh import boundary_edges, vertex_normals
from raylib.lighting.color import linear_to_srgb, srgb_to_linear
from raylib.morphable.model import load_prior
from raylib.render import rasterize_pixels
from raylib.texture.kernels import paint_texture, paint_vertices, pull, push
from raylib.texture.texturer import FILLED, MIRRORED, VISIBLE, Appearance, FaceMask, TextureLayout, Texturer, _texels

SIZE = 400


@pytest.fixture(scope="module")
def prior():
    return load_prior()


@pytest.fixture(scope="module")
def texturer(prior):
    topology = TextureLayout.of(prior.mean.numpy(), prior.faces.numpy(), prior.uv.numpy(), prior.mirror_verts.numpy())
    return Texturer(topology)


def photograph(prior, yaw_deg: float, colors: np.ndarray, corner=(0.0, 0.0)):
    """Returns the mean face with these vertex colours as a picture, its vertices and normals in camera space."""
    R = rotation_from_euler_deg(torch.tensor([[yaw_deg, 5.0, -4.0]]))
    principal = torch.tensor([[SIZE / 2 - corner[0], SIZE / 2 - corner[1]]])
    camera = Camera(R, torch.tensor([[0.0, 10.0, 700.0]]), torch.tensor([1300.0]), principal)
    verts_cam = camera.to_camera(prior.mean[None])[0].numpy()
    normals_cam = (vertex_normals(prior.mean[None], prior.faces) @ R.transpose(1, 2))[0].numpy()
    pixels = np.concatenate([camera.project(prior.mean[None])[0].numpy(), verts_cam[:, 2:]], axis=1)
    image = np.full((SIZE, SIZE, 3), 255.0, dtype=np.float32)
    fragments = rasterize_pixels(pixels[None], prior.faces.numpy(), (SIZE, SIZE))
    paint_vertices(
        fragments.pix_to_face[0],
        fragments.bary_coords[0],
        prior.faces.numpy(),
        colors.astype(np.float32) * 255,
        image,
    )
    return image.round().astype(np.uint8), verts_cam, normals_cam, camera


def hits_triangle(origin: np.ndarray, direction: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Tells which rays hit any triangle before them (Moeller and Trumbore 1997), all pairs one after the other."""
    hit = np.zeros(len(origin), dtype=bool)
    for a, b, c in triangles:
        p = np.cross(direction, c - a)
        det = p @ (b - a)
        s = origin - a
        u = (s * p).sum(axis=1) / det
        q = np.cross(s, b - a)
        v = (direction * q).sum(axis=1) / det
        hit |= (u > 0) & (v > 0) & (u + v < 1) & ((q @ (c - a)) / det > 0)
    return hit


def symmetric_colors(verts: np.ndarray) -> np.ndarray:
    x, y, z = np.abs(verts[:, 0]) / 100, verts[:, 1] / 150, verts[:, 2] / 150
    return np.clip(np.stack([0.4 + x * 0.4, 0.5 + y * 0.4, 0.45 + z * 0.3], axis=1), 0, 1)


@pytest.mark.parametrize("yaw", [0.0, 25.0, -45.0])
def test_colours_are_recovered(prior, texturer, yaw):
    truth = symmetric_colors(prior.mean.numpy())
    rgb, verts, normals, camera = photograph(prior, yaw, truth)
    got = texturer(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy())
    error = np.abs(got.vertex_colors - truth).max(axis=1)
    assert np.percentile(error[got.vertex_source == VISIBLE], 99) < 0.03
    if abs(yaw) > 10:
        assert (got.vertex_source == MIRRORED).sum() > 100
        assert np.percentile(error[got.vertex_source == MIRRORED], 95) < 0.06
    assert error[got.vertex_source == FILLED].mean() < 0.12


def test_what_is_called_visible_is_seen(prior, texturer):
    """An independent ray caster must reach the camera from every vertex that counts as seen."""
    rgb, verts, normals, camera = photograph(prior, 40.0, symmetric_colors(prior.mean.numpy()))
    source = texturer(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy()).vertex_source
    seen = np.flatnonzero(source == VISIBLE)
    toward = -verts[seen] / np.linalg.norm(verts[seen], axis=1, keepdims=True)
    blocked = hits_triangle(verts[seen] + 3.0 * toward, toward, verts[prior.faces.numpy()])
    assert blocked.mean() < 0.01
    assert 0.3 < len(seen) / len(verts) < 0.9


def test_texture_shows_the_photograph_again(prior, texturer):
    """Rendering the mesh with its texture from where it was photographed gives the photograph."""
    rgb, verts, normals, camera = photograph(prior, 15.0, symmetric_colors(prior.mean.numpy()))
    got = texturer(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy())
    pixels = np.concatenate([camera.project(prior.mean[None])[0].numpy(), verts[:, 2:]], axis=1)
    fragments = rasterize_pixels(pixels[None], prior.faces.numpy(), (SIZE, SIZE))
    again = np.full((SIZE, SIZE, 3), 255.0, dtype=np.float32)
    paint_texture(
        fragments.pix_to_face[0],
        fragments.bary_coords[0],
        prior.faces.numpy(),
        texturer.topology.uv,
        got.texture,
        again,
    )
    assert np.abs(again - rgb).mean() < 2.0


def test_a_moved_cut_of_the_photograph_gives_the_same_colours(prior, texturer):
    colors = symmetric_colors(prior.mean.numpy())
    rgb, verts, normals, camera = photograph(prior, 10.0, colors)
    whole = texturer(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy())
    cut = texturer(
        np.ascontiguousarray(rgb[20:, 30:]), verts, normals, 1300.0, camera.principal_px[0].numpy() - [30, 20]
    )
    assert np.abs(whole.texture.astype(int) - cut.texture).max() <= 1


def test_outside_the_photograph_nothing_is_seen(prior, texturer):
    rgb, verts, normals, camera = photograph(prior, 0.0, symmetric_colors(prior.mean.numpy()))
    half = np.ascontiguousarray(rgb[:, : SIZE // 2])
    got = texturer(half, verts, normals, 1300.0, camera.principal_px[0].numpy())
    right = verts[:, 0] > 5
    assert (got.vertex_source[right] != VISIBLE).all()
    truth = symmetric_colors(prior.mean.numpy())
    mirrored = got.vertex_source == MIRRORED
    assert mirrored.sum() > 300 and np.abs(got.vertex_colors - truth)[mirrored].mean() < 0.03


def test_what_the_mask_leaves_out_is_taken_from_the_other_side(prior, texturer):
    """A hand over one cheek: with the mask its colour must be nowhere, without it must be in the texture."""
    truth = symmetric_colors(prior.mean.numpy())
    rgb, verts, normals, camera = photograph(prior, 0.0, truth)
    covered = rgb.copy()
    covered[190:260, 230:300] = (0, 0, 255)
    share = np.ones((SIZE // 2, SIZE // 2), dtype=np.float32)
    share[94:131, 114:151] = 0
    half = FaceMask(share, np.array([[0.5, 0, 0], [0, 0.5, 0]]))
    principal = camera.principal_px[0].numpy()
    naive = texturer(covered, verts, normals, 1300.0, principal)
    masked = texturer(covered, verts, normals, 1300.0, principal, half)
    bluish = [(c.vertex_colors[:, 2] - c.vertex_colors[:, 0] > 0.4).sum() for c in (naive, masked)]
    assert bluish[0] > 50 and bluish[1] == 0
    assert np.abs(masked.vertex_colors - truth)[masked.vertex_source == MIRRORED].mean() < 0.03
    assert (masked.vertex_source == MIRRORED).sum() > 50


def test_a_single_pixel_still_gives_finite_colours(prior, texturer):
    _, verts, normals, camera = photograph(prior, 0.0, symmetric_colors(prior.mean.numpy()))
    got = texturer(np.zeros((1, 1, 3), np.uint8), verts, normals, 1300.0, camera.principal_px[0].numpy())
    assert np.isfinite(got.vertex_colors).all() and (got.vertex_source == FILLED).all()


def test_models_without_texture_coordinates_or_mirror_pairs(prior):
    topology = TextureLayout.of(prior.mean.numpy(), prior.faces.numpy(), None, None)
    assert (topology.uv > 0).all() and (topology.uv < 1).all()
    assert (topology.mirror_verts == prior.mirror_verts.numpy()).mean() > 0.99
    truth = symmetric_colors(prior.mean.numpy())
    rgb, verts, normals, camera = photograph(prior, 0.0, truth)
    got = Texturer(topology)(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy())
    seen = got.vertex_source == VISIBLE
    assert np.abs(got.vertex_colors - truth)[seen].mean() < 0.02


def test_kernels_fill_what_is_missing_smoothly():
    rng = np.random.default_rng(0)
    canvas = np.ones((16, 16, 4), dtype=np.float32)
    canvas[..., :3] = 0.25
    canvas[rng.random((16, 16)) < 0.7] = 0  # a constant picture with holes must come back constant
    levels = [canvas]
    while levels[-1].shape[0] > 1:
        levels.append(pull(levels[-1]))
    filled = levels.pop()[..., :3]
    while levels:
        filled = push(levels.pop(), filled)
    np.testing.assert_allclose(filled, 0.25, atol=1e-6)


@pytest.mark.parametrize("yaw", [0.0, 30.0])
def test_the_albedo_texture_is_free_of_the_light(prior, texturer, yaw):
    """A face under light from one side: divided by its shading, the photograph gives the albedo back everywhere."""
    truth = torch.from_numpy(symmetric_colors(prior.mean.numpy())).float()
    albedo = srgb_to_linear(truth).numpy()
    side = np.clip(prior.mean.numpy()[:, :1] / 150 + 0.6, 0.3, 1.0)
    shading = (side * np.array([1.0, 0.9, 0.8])).astype(np.float32)
    lit = linear_to_srgb(torch.from_numpy(albedo * shading)).numpy()
    rgb, verts, normals, camera = photograph(prior, yaw, lit)
    principal = camera.principal_px[0].numpy()
    plain = texturer(rgb, verts, normals, 1300.0, principal)
    got = texturer(rgb, verts, normals, 1300.0, principal, appearance=Appearance(albedo, shading))
    texels = _texels(texturer.topology.uv, got.texture.shape[0])
    inner = np.setdiff1d(np.arange(len(verts)), np.unique(boundary_edges(prior.faces).numpy()))

    def error(colors):
        return np.abs(colors.texture.reshape(-1, 3)[texels] / 255.0 - truth.numpy())[inner]

    assert error(got).mean() < 0.01 < error(plain).mean() / 5
    assert np.percentile(error(got), 99) < 0.04
    assert np.array_equal(got.vertex_colors, plain.vertex_colors)  # these stay the photograph's


def test_albedo_in_the_dark_comes_from_the_vertices(prior, texturer):
    albedo = np.full((2113, 3), 0.4, np.float32)
    rgb, verts, normals, camera = photograph(prior, 0.0, np.full((2113, 3), 0.01))
    dark = Appearance(albedo, np.full((2113, 3), 0.02, np.float32))
    got = texturer(rgb, verts, normals, 1300.0, camera.principal_px[0].numpy(), appearance=dark)
    expected = 255 * float(linear_to_srgb(torch.tensor(0.4)))
    assert np.abs(got.texture.astype(float) - expected).max() < 2
