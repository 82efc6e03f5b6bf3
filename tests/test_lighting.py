import math

import pytest
import torch
from pytorch3d.renderer import DirectionalLights, PointLights
from render_scenes import dome
from torch.nn.functional import normalize

from raylib.geometry.camera import rotation_from_euler_deg
from raylib.geometry.mesh import vertex_normals
from raylib.geometry.visibility import visible_directions
from raylib.lighting.lights import PhongLight, SphericalHarmonicLight, shade
from raylib.lighting.spherical_harmonics import (
    lambert_transfer,
    rotate_sh,
    self_shadow_transfer,
    sh_basis,
    shadowed_transfer,
    sphere_directions,
)


def random_directions(*shape, seed=0):
    return normalize(torch.randn(*shape, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_harmonics_are_orthonormal():
    basis = sh_basis(sphere_directions(20_000).double())
    gram = basis.T @ basis * (4 * math.pi / len(basis))
    torch.testing.assert_close(gram, torch.eye(9, dtype=torch.float64), atol=1e-3, rtol=0)


def test_lambert_transfer_is_the_integral_of_the_cosine_lobe():
    directions = sphere_directions(20_000).double()
    normals = random_directions(30).double()
    lobe = torch.relu(normals @ directions.T) * (4 / len(directions))  # 4 pi / n, over pi
    torch.testing.assert_close(lambert_transfer(normals), lobe @ sh_basis(directions), atol=1e-3, rtol=0)


@pytest.mark.parametrize("harmonics", [sh_basis, lambert_transfer])
@pytest.mark.parametrize("shape", [(0,), (1,), (2, 40), (2, 3, 5)])
def test_the_kernel_equals_the_formula_in_double_precision(harmonics, shape):
    directions = random_directions(*shape)
    grads = torch.randn(*shape, 9, generator=torch.Generator().manual_seed(1))
    found = []
    for dtype in (torch.float32, torch.float64):
        leaf = directions.detach().to(dtype, copy=True).requires_grad_()
        values = harmonics(leaf)
        values.backward(grads.to(dtype))
        found.append((values.detach().double(), leaf.grad.double()))
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_shading_kernel_equals_the_formula_in_double_precision(batch):
    g = torch.Generator().manual_seed(2)
    normals, light = random_directions(3, 500), torch.randn(batch, 9, 3, generator=g)
    grads = torch.randn(3, 500, 3, generator=g)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype, copy=True).requires_grad_() for t in (normals, light)]
        values = SphericalHarmonicLight(leaves[1]).diffuse(leaves[0], leaves[0])
        values.backward(grads.to(dtype))
        shaded = lambert_transfer(leaves[0]) @ leaves[1]
        torch.testing.assert_close(values, shaded, atol=1e-5, rtol=0)
        found.append([values.detach().double(), *(leaf.grad.double() for leaf in leaves)])
    for mine, exact in zip(*found, strict=True):
        torch.testing.assert_close(mine, exact, atol=1e-6 * float(exact.abs().max()), rtol=1e-5)


def test_the_kernel_takes_vectors_and_gradients_that_are_not_contiguous():
    directions = random_directions(3, 40).transpose(0, 1).requires_grad_()
    plain = directions.detach().contiguous().requires_grad_()
    sh_basis(directions).sum().backward()  # an expanded gradient
    sh_basis(plain).sum().backward()
    torch.testing.assert_close(directions.grad, plain.grad, atol=0, rtol=0)


def test_white_surroundings_shade_a_white_surface_white():
    coefficients = torch.zeros(1, 9, 3)
    coefficients[:, 0] = math.sqrt(4 * math.pi)
    normals = random_directions(1, 50)
    shading = SphericalHarmonicLight(coefficients).diffuse(normals, normals)
    torch.testing.assert_close(shading, torch.ones(1, 50, 3))


def test_turning_light_and_surface_together_changes_nothing():
    coefficients = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    R = rotation_from_euler_deg(torch.tensor([[20.0, -30.0, 50.0], [5.0, 60.0, -10.0]]))
    normals = random_directions(2, 40)
    before = SphericalHarmonicLight(coefficients).diffuse(normals, normals)
    turned = normals @ R.transpose(1, 2)
    after = SphericalHarmonicLight(rotate_sh(coefficients, R)).diffuse(turned, turned)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def naive_visibility(verts, normals, faces, directions):
    """One ray, one triangle at a time (Moeller and Trumbore 1997), blocked by triangles that turn away only."""
    a, b, c = verts[faces].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    bias = 1e-4 * (verts.max(0).values - verts.min(0).values).max()
    visible = torch.zeros(len(verts), len(directions), dtype=torch.bool)
    for v, origin in enumerate(verts):
        for s, direction in enumerate(directions):
            if normals[v] @ direction <= 0:
                continue
            p = torch.linalg.cross(direction.expand_as(c), c - a)
            det = ((b - a) * p).sum(1)
            u = ((origin - a) * p).sum(1) / det
            q = torch.linalg.cross(origin - a, b - a)
            w = (q @ direction) / det
            t = ((c - a) * q).sum(1) / det
            hit = (u >= 0) & (w >= 0) & (u + w <= 1) & (t > bias) & (outward @ direction < 0) & (faces != v).all(1)
            visible[v, s] = not hit.any()
    return visible


def test_visibility_equals_casting_single_rays():
    verts, faces = dome(11, noise=0.06)
    normals = vertex_normals(verts[None], faces)
    directions = random_directions(60, seed=3)
    ours = visible_directions(verts[None], normals, faces, directions)[0]
    naive = naive_visibility(verts.double(), normals[0].double(), faces, directions.double())
    facing = (normals[0] @ directions.T > 0).sum()
    assert (naive.sum() < 0.985 * facing) and (ours != naive).sum() <= 2  # rays through an edge may round either way


def test_a_lid_blocks_what_lies_behind_it():
    """A small square over a large one: the centre below sees exactly the directions that pass the lid's rim."""
    square = torch.tensor([[-1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    verts = torch.cat([square * 4, square + torch.tensor([0.0, 0.0, 1.0]), torch.zeros(1, 3)])[None]
    faces = torch.tensor([[8, 0, 1], [8, 1, 2], [8, 2, 3], [8, 3, 0], [4, 6, 5], [4, 7, 6]])  # the lid looks down
    normals = torch.tensor([0.0, 0.0, 1.0]).expand(1, 9, 3)
    directions = sphere_directions(500)
    seen = visible_directions(verts, normals, faces, directions)[0, 8]
    up = directions[:, 2] > 0
    past_the_lid = directions[:, :2].abs().max(1).values > directions[:, 2]
    assert torch.equal(seen, up & past_the_lid)


def test_a_convex_surface_has_no_shadow_and_a_hollow_one_has():
    verts, faces = dome(20)
    ball = normalize(verts + torch.tensor([0.0, 0.0, 0.3]), dim=1)[None]
    normals = vertex_normals(ball, faces)
    inner = ball[0, :, 2] > 0.3  # the rim's own normals lean
    torch.testing.assert_close(
        self_shadow_transfer(ball, normals, faces)[0, inner], lambert_transfer(normals)[0, inner], atol=0.02, rtol=0
    )
    dented = torch.stack([ball[0, :, 0], ball[0, :, 1], -ball[0, :, 2]], dim=1)[None]
    up = vertex_normals(dented, faces)  # the faces' order stays, so that the hollow side is the outside
    deepest = dented[0, :, 2].argmin()
    open_sky = lambert_transfer(up)[0, deepest, 0]
    assert self_shadow_transfer(dented, up, faces)[0, deepest, 0] < 0.8 * open_sky


def test_transfer_is_differentiable_in_normals_and_light():
    directions = sphere_directions(64).double()
    visible = torch.rand(1, 5, 64, generator=torch.Generator().manual_seed(0)) > 0.3
    normals = random_directions(1, 5).double().requires_grad_()
    coefficients = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()

    def shading(normals, coefficients):
        transfer = shadowed_transfer(normals, visible, directions)
        return SphericalHarmonicLight(coefficients).diffuse(normals, normals, transfer)

    assert torch.autograd.gradcheck(shading, (normals, coefficients), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("directional", [False, True])
def test_phong_light_equals_pytorch3ds(directional):
    g = torch.Generator().manual_seed(0)
    points, normals = torch.randn(2, 30, 3, generator=g), random_directions(2, 30, seed=1)
    position, ambient, diffuse, specular, eye = (torch.rand(2, 3, generator=g) * s for s in (4, 1, 1, 1, 9))
    albedo = torch.rand(2, 30, 3, generator=g)
    light = PhongLight(position, ambient, diffuse, specular, directional, shininess=10.0)
    colors = {"ambient_color": ambient, "diffuse_color": diffuse, "specular_color": specular}
    if directional:
        theirs = DirectionalLights(direction=position, **colors)
    else:
        theirs = PointLights(location=position[:, None], **colors)
    expected = (ambient[:, None] + theirs.diffuse(normals, points)) * albedo
    expected = expected + theirs.specular(normals, points, eye, shininess=10.0)
    torch.testing.assert_close(shade(light, albedo, points, normals, eye), expected, atol=1e-5, rtol=1e-4)
