import math

import numpy as np
import pytest
import torch
from pytorch3d.renderer.blending import BlendParams, softmax_rgb_blend
from render_scenes import dome

from raylib.errors import ConfigError
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.geometry.mesh import boundary_edges, vertex_normals
from raylib.lighting.lights import PhongLight, SphericalHarmonicLight
from raylib.lighting.spherical_harmonics import self_shadow_transfer
from raylib.render import SoftRenderer, SoftSettings, fast_vertex_normals, pytorch3d_backend, rasterize
from raylib.render.kernels.soft import even_bands
from raylib.render.projection import pixel_verts
from raylib.render.pytorch3d_backend import rasterize_pixel_verts

SIZE = (48, 64)


def scene(n_images=1, rows=16, noise=0.01):
    """Different heads, cameras, lights and colours: a dictionary of leaves, and the faces."""
    g = torch.Generator().manual_seed(5)
    template, faces = dome(rows, noise=noise)
    i = torch.arange(n_images)
    verts = (
        template * 80 * (1 + 0.05 * i[:, None, None])
        + torch.randn(n_images, len(template), 3, generator=g) * 30 * noise
    )
    angles = torch.stack([10.0 + 12 * i, 5.0 - 4 * i, 3.0 * i], dim=1)
    light = torch.randn(n_images, 9, 3, generator=g) * 0.3
    light[:, 0] += 3.0
    return {
        "verts": verts,
        "albedo": torch.rand(n_images, len(template), 3, generator=g),
        "light": light,
        "R": rotation_from_euler_deg(angles),
        "T": torch.stack([2.0 * i, -3.0 * i, 500.0 + 15 * i], dim=1),
        "focal_px": 120.0 + 5 * i,
        "principal_px": torch.tensor([32.0, 24.0]).expand(n_images, 2).clone(),
        "background": torch.rand(n_images, *SIZE, 3, generator=g),
    }, faces


def render(leaves, faces, face_uv=None, with_transfer=False, **settings):
    renderer = SoftRenderer(faces, SoftSettings(SIZE, **{"faces_per_pixel": 80} | settings), face_uv)
    camera = Camera(leaves["R"], leaves["T"], leaves["focal_px"], leaves["principal_px"])
    transfer = None
    if with_transfer:
        transfer = self_shadow_transfer(leaves["verts"], vertex_normals(leaves["verts"], faces), faces, 64)
    return renderer(
        leaves["verts"], camera, SphericalHarmonicLight(leaves["light"]), albedo=leaves.get("albedo"),
        texture=leaves.get("texture"), background=leaves["background"], transfer=transfer,
    )  # fmt: skip


def gradients(leaves, faces, weights_seed=1, **settings):
    """The picture, and gradients of a random weighting of it."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    rendered = render(leaves, faces, **settings)
    g = torch.Generator().manual_seed(weights_seed)
    n_images = len(rendered.image)
    color_weight = torch.randn(4, *SIZE, 3, generator=g)[:n_images]
    alpha_weight = torch.randn(4, *SIZE, generator=g)[:n_images]
    ((rendered.image * color_weight).sum() + (rendered.alpha * alpha_weight).sum()).backward()
    return rendered, {name: leaf.grad for name, leaf in leaves.items()}


def assert_equal_pictures(ours, our_grads, theirs, their_grads):
    assert (ours.alpha > 0.5).float().mean() > 0.2
    assert (ours.image - theirs.image).abs().max() <= 2e-4
    assert (ours.alpha - theirs.alpha).abs().max() <= 2e-4
    for name, grad in our_grads.items():
        assert their_grads[name].norm() > 0, name
        assert (grad - their_grads[name]).norm() <= 1e-3 * their_grads[name].norm(), name


@pytest.mark.parametrize("composite", ["over", "softmax"])
@pytest.mark.parametrize("light_at", ["vertices", "pixels"])
def test_fused_equals_pytorch3d_in_values_and_gradients(composite, light_at):
    """Faces seen edge-on are left out: there PyTorch3D's own gradients are wrong by many digits."""
    leaves, faces = scene(2)
    camera = Camera(leaves["R"], leaves["T"], leaves["focal_px"], leaves["principal_px"])
    a, b, c = camera.project(leaves["verts"])[:, faces].unbind(2)
    area = ((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0]).abs() / 2
    faces = faces[(area > 0.2).all(0)]
    options = {"composite": composite, "light_at": light_at}
    ours = gradients(leaves, faces, backend="numba", **options)
    assert_equal_pictures(*ours, *gradients(leaves, faces, backend="pytorch3d", **options))


@pytest.mark.parametrize("composite", ["over", "softmax"])
def test_fused_equals_blending_lists_of_faces_on_every_face(composite, monkeypatch):
    """The same blending of fragments, from our own rasteriser, whose gradients equal double precision."""
    leaves, faces = scene(2)
    monkeypatch.setattr(pytorch3d_backend, "rasterize_meshes", rasterize)
    ours = gradients(leaves, faces, composite=composite, backend="numba")
    assert_equal_pictures(*ours, *gradients(leaves, faces, composite=composite, backend="pytorch3d"))


def test_softmax_composite_is_pytorch3ds_own_blending():
    leaves, faces = scene(1)
    sigma, gamma, znear, zfar = 0.4, 0.5, 1.0, 1000.0
    ours = render(leaves, faces, composite="softmax", sigma_px2=sigma, gamma=gamma, z_far=zfar)
    camera = Camera(leaves["R"], leaves["T"], leaves["focal_px"], leaves["principal_px"])
    pixel_verts = torch.cat([camera.project(leaves["verts"]), camera.to_camera(leaves["verts"])[..., 2:]], dim=-1)
    fragments = rasterize_pixel_verts(pixel_verts, faces, SIZE, sigma * math.log(1 / 1e-4 - 1), 80)
    assert (fragments.pix_to_face[..., -1] == -1).all()  # more places than hits
    shading = SphericalHarmonicLight(leaves["light"]).diffuse(leaves["verts"], vertex_normals(leaves["verts"], faces))
    colors = (leaves["albedo"] * shading)[0][faces][fragments.pix_to_face.clamp(min=0)]
    colors = (colors * fragments.bary_coords[..., None]).sum(-2)
    params = BlendParams(sigma=sigma, gamma=gamma / (zfar - znear), background_color=(0.0, 0.0, 0.0))
    theirs = softmax_rgb_blend(colors, fragments, params, znear=znear, zfar=zfar)
    empty = (fragments.pix_to_face[..., :1] == -1) * leaves["background"]
    assert (ours.image - theirs[..., :3] - empty).abs().max() <= 2e-4
    assert (ours.alpha - theirs[..., 3]).abs().max() <= 2e-4


@pytest.mark.parametrize("backend", ["numba", pytest.param("pytorch3d", marks=pytest.mark.slow)])
@pytest.mark.parametrize("light_at", ["vertices", "pixels"])
def test_a_batch_of_four_equals_four_single_renders(backend, light_at):
    """Different meshes, colours, lights and cameras; the fault that held the paper's training at batch 1."""
    leaves, faces = scene(4, rows=10)
    options = {"backend": backend, "light_at": light_at, "with_transfer": True}
    together, grads = gradients(leaves, faces, **options)
    g = torch.Generator().manual_seed(1)
    color_weight, alpha_weight = torch.randn(4, *SIZE, 3, generator=g), torch.randn(4, *SIZE, generator=g)
    for i in range(4):
        single = {name: leaf[i : i + 1].clone().requires_grad_() for name, leaf in leaves.items()}
        alone = render(single, faces, **options)
        torch.testing.assert_close(alone.image[0], together.image[i], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(alone.alpha[0], together.alpha[i], rtol=1e-5, atol=1e-6)
        ((alone.image[0] * color_weight[i]).sum() + (alone.alpha[0] * alpha_weight[i]).sum()).backward()
        for name, leaf in single.items():
            assert (leaf.grad[0] - grads[name][i]).norm() <= 1e-4 * grads[name][i].norm(), name


@pytest.mark.parametrize("composite", ["over", "softmax"])
@pytest.mark.parametrize("motion", ["shift", "depth", "grow"])
def test_silhouette_gradient_equals_finite_differences(composite, motion):
    leaves, faces = scene(1, noise=0.0)
    weight = torch.linspace(0.2, 1.0, SIZE[1]) + torch.linspace(0.0, 0.5, SIZE[0])[:, None]

    def coverage(amount):
        moved = dict(leaves)
        if motion == "grow":
            moved["verts"] = leaves["verts"] * (1 + amount / 80)
        else:
            axis = torch.tensor([1.0, 0.0, 0.0] if motion == "shift" else [0.0, 0.0, 10.0])
            moved["T"] = leaves["T"] + amount * axis
        return (render(moved, faces, composite=composite).alpha.double() * weight).sum()

    amount = torch.zeros((), requires_grad=True)
    coverage(amount).backward()
    step = 0.2
    difference = (coverage(torch.tensor(step)) - coverage(torch.tensor(-step))) / (2 * step)
    assert abs(difference) > 0.1
    assert abs(amount.grad - difference) <= 0.05 * abs(difference)


def test_silhouette_gradient_is_that_of_the_true_area():
    """Coverage changes as the polygon inside the projected rim does: no part of the silhouette goes missing."""
    leaves, faces = scene(1)
    leaves["R"] = rotation_from_euler_deg(torch.zeros(1, 3))
    rim = boundary_edges(faces)

    def camera_at(scale):
        return Camera(leaves["R"], leaves["T"], leaves["focal_px"] * scale, leaves["principal_px"])

    def area(scale):
        a, b = camera_at(scale).project(leaves["verts"])[0][rim].unbind(1)
        return ((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2).abs()

    def coverage(scale):
        renderer = SoftRenderer(faces, SoftSettings(SIZE))
        return renderer(leaves["verts"], camera_at(scale), albedo=leaves["albedo"]).alpha.sum()

    scale = torch.ones(1, requires_grad=True)
    (true,) = torch.autograd.grad(area(scale), scale)
    (ours,) = torch.autograd.grad(coverage(scale), scale)
    assert 0.97 * true <= ours <= 1.1 * true  # the blurred rim is a little longer than the sharp one
    perimeter = math.sqrt(4 * math.pi * area(scale).item())
    assert 0 <= coverage(scale) - area(scale) <= 0.9 * perimeter  # less than a pixel of blur outside the rim


def test_alpha_does_not_leak_inside_the_surface():
    leaves, faces = scene(1, rows=30)
    alpha = render(leaves, faces).alpha[0]
    assert alpha[18:30, 24:40].min() == 1.0
    assert alpha[0, 0] == 0.0


def test_fast_normals_and_their_gradient_equal_double_precision():
    leaves, faces = scene(3, noise=0.05)
    g = torch.Generator().manual_seed(2)
    verts = torch.cat([leaves["verts"], torch.full((3, 1, 3), 7.0)], dim=1)  # the last vertex has no face
    weight = torch.randn(verts.shape, generator=g)
    results = []
    for function, dtype in ((fast_vertex_normals, torch.float32), (vertex_normals, torch.float64)):
        leaf = verts.detach().to(dtype, copy=True).requires_grad_()
        normals = function(leaf, faces)
        (normals * weight.to(dtype)).sum().backward()
        results.append((normals.detach(), leaf.grad))
    (ours, our_grad), (exact, exact_grad) = results
    assert (ours - exact).abs().max() <= 1e-5
    assert (our_grad - exact_grad).norm() <= 1e-5 * exact_grad.norm()


def test_projection_and_its_gradients_equal_double_precision():
    """Vertices behind the camera among them, whose pixels only have to stay finite."""
    g = torch.Generator().manual_seed(0)
    verts = 60 * torch.randn(3, 200, 3, generator=g, dtype=torch.float64)
    R = rotation_from_euler_deg(torch.tensor([[20.0, 5, 3], [-40, 10, 0], [0, 0, 90]], dtype=torch.float64))
    T = torch.tensor([[3.0, -2, 500], [0, 0, 900], [0, 0, 40]], dtype=torch.float64)
    focal, principal = torch.tensor([300.0, 900, 50]).double(), 64 * torch.rand(3, 2, generator=g).double()
    weights = torch.randn(3, 200, 3, generator=g, dtype=torch.float64)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.to(dtype).requires_grad_() for t in (verts, R, T, focal, principal)]
        projected = pixel_verts(leaves[0], Camera(*leaves[1:]))
        # Near the camera's plane positions grow without bound and would decide everything.
        steady = (projected[..., 2:].abs() > 5).to(dtype)
        (projected * steady * weights.to(dtype)).sum().backward()
        results.append([projected * steady, *(leaf.grad for leaf in leaves)])
    assert (results[0][0][..., 2] < 0).any()
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_one_camera_serves_all_meshes_and_gathers_their_gradients():
    g = torch.Generator().manual_seed(3)
    verts = torch.randn(4, 50, 3, generator=g)
    camera = [
        rotation_from_euler_deg(torch.tensor([[20.0, 5, 3]])),
        torch.tensor([[0.0, 1, 9]]),
        torch.tensor([70.0]),
    ]
    camera.append(torch.tensor([[32.0, 30]]))
    one = [t.clone().requires_grad_() for t in camera]
    many = [t.repeat(4, *(1 for _ in t.shape[1:])).requires_grad_() for t in camera]
    projected = [pixel_verts(verts, Camera(*parts)) for parts in (one, many)]
    torch.testing.assert_close(projected[0], projected[1], rtol=0, atol=0)
    for picture in projected:
        picture.square().sum().backward()
    for shared, own in zip(one, many, strict=True):
        torch.testing.assert_close(shared.grad, own.grad.sum(0, keepdim=True))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_rows_are_shared_out_without_gap_or_overlap(threads):
    boxes = np.array([[0, 9, 3, 7], [0, -1, 0, -1], [2, 2, 0, 31]], np.int32)
    bands = even_bands(boxes, 32, threads)
    assert bands[0] == 0 and bands[-1] == 32 and (np.diff(bands) >= 0).all() and len(bands) == threads + 1
    nothing = even_bands(np.array([[0, -1, 0, -1]], np.int32), 32, threads)
    assert nothing[0] == 0 and nothing[-1] == 32 and (np.diff(nothing) >= 0).all()


def test_the_background_shows_where_there_is_no_face():
    leaves, faces = scene(2)
    rendered = render(leaves, faces)
    empty = rendered.alpha == 0
    assert empty.any()
    torch.testing.assert_close(rendered.image[empty], leaves["background"][empty])
    leaves["background"] = torch.tensor([0.25, 0.5, 0.75])
    torch.testing.assert_close(render(leaves, faces).image[empty], leaves["background"].expand(int(empty.sum()), 3))


@pytest.mark.parametrize("light_at", ["vertices", "pixels"])
def test_a_texture_linear_in_uv_equals_vertex_colors_linear_in_uv(light_at):
    leaves, faces = scene(2)
    n = 64
    uv = leaves["verts"][0, :, :2] / 240 + 0.5
    centers = (torch.arange(n) + 0.5) / n
    u, v = centers.expand(n, n), (1 - centers)[:, None].expand(n, n)
    leaves["albedo"] = torch.stack([uv[:, 0], uv[:, 1], uv.mean(1)], dim=1).expand(2, -1, -1)
    expected = render(leaves, faces, light_at=light_at, gamma=0.1)
    texture = torch.stack([u, v, (u + v) / 2]).expand(2, -1, -1, -1).clone().requires_grad_()
    textured = {**leaves, "texture": texture}
    del textured["albedo"]
    rendered = render(textured, faces, face_uv=uv[faces], light_at=light_at, gamma=0.1)
    # Shading and texture are interpolated apart, their product is not: a small difference on steep faces.
    assert (rendered.image - expected.image).abs().mean() <= 2e-3
    # The picture is linear in the texture, so that its gradient predicts any change exactly.
    weight = torch.randn(rendered.image.shape, generator=torch.Generator().manual_seed(0))
    (grad,) = torch.autograd.grad((rendered.image * weight).sum(), texture)
    change = torch.rand(texture.shape, generator=torch.Generator().manual_seed(1))
    textured["texture"] = texture.detach() + change
    changed = render(textured, faces, face_uv=uv[faces], light_at=light_at, gamma=0.1)
    torch.testing.assert_close(
        ((changed.image - rendered.image) * weight).sum(), (grad * change).sum(), rtol=1e-3, atol=1e-2
    )


def test_a_highlight_needs_pixels_and_moves_with_the_eye():
    leaves, faces = scene(1, rows=30, noise=0.0)
    leaves["verts"] = 80 * torch.nn.functional.normalize(leaves["verts"] + torch.tensor([0.0, 0.0, 24.0]), dim=-1)
    one = torch.ones(1, 3)
    light = PhongLight(torch.tensor([[0.0, 0.0, 600.0]]), one * 0.2, one * 0.4, one, shininess=30.0)
    renderer = SoftRenderer(faces, SoftSettings(SIZE, light_at="pixels"))
    gray = torch.full_like(leaves["albedo"], 0.5)

    def brightest(yaw):
        camera = Camera(rotation_from_euler_deg(torch.tensor([[yaw, 0.0, 0.0]])), *camera_rest)
        image = renderer(leaves["verts"], camera, light, albedo=gray).image[0, ..., 0]
        return image.max(), image

    camera_rest = (leaves["T"], leaves["focal_px"], leaves["principal_px"])
    peak, image = brightest(0.0)
    assert peak > 0.5 * (0.2 + 0.4) + 0.5  # albedo times matte light, and more than half of the highlight
    assert image.median() < 0.5
    assert (brightest(25.0)[1] - image).abs().max() > 0.3


def test_blend_interpolates_attributes_of_the_front_surface():
    """The camera-space depth as an attribute is the depth of the surface."""
    leaves, faces = scene(1, rows=30, noise=0.0)
    camera = Camera(leaves["R"], leaves["T"], leaves["focal_px"], leaves["principal_px"])
    renderer = SoftRenderer(faces, SoftSettings(SIZE))
    in_camera = camera.to_camera(leaves["verts"])
    depth, alpha = renderer.blend(leaves["verts"], camera, in_camera[..., 2:])
    pixel_verts = torch.cat([camera.project(leaves["verts"]), in_camera[..., 2:]], dim=-1)
    zbuf = rasterize_pixel_verts(pixel_verts, faces, SIZE, 0.0, 1).zbuf[..., 0]
    inside = zbuf > 0
    assert (alpha[inside] > 0.999).all()
    error = (depth[..., 0] - zbuf)[inside].abs()
    assert error.median() < 1.5 and error.max() < 25.0  # a pixel is 4 mm wide; steep faces span five times as much


@pytest.mark.parametrize("n_images, several", [(1, 2), (4, 3)])
def test_several_threads_give_the_gradients_of_one(n_images, several, monkeypatch):
    for name in ("kernels.threads._VERTS", "render.soft._FACES", "render.composite._PIXELS"):
        monkeypatch.setattr(f"raylib.{name}_WORTH_A_THREAD", 1)
    leaves, faces = scene(n_images)
    before = torch.get_num_threads()
    results = []
    for threads in (1, several):
        torch.set_num_threads(threads)
        results.append(gradients(leaves, faces))
    torch.set_num_threads(before)
    assert torch.equal(results[0][0].image, results[1][0].image)
    for name, grad in results[0][1].items():
        assert (grad - results[1][1][name]).norm() <= 1e-4 * grad.norm(), name


def test_wrong_settings_are_one_clear_sentence():
    with pytest.raises(ConfigError, match="composite is 'under', expected 'over' or 'softmax'"):
        SoftSettings(SIZE, composite="under")
    with pytest.raises(ConfigError, match="light_at is 'faces'"):
        SoftSettings(SIZE, light_at="faces")
    with pytest.raises(ConfigError, match="expected positive numbers"):
        SoftSettings(SIZE, sigma_px2=0.0)
    leaves, faces = scene(1)
    with pytest.raises(ConfigError, match="expected one of them"):
        render({**leaves, "texture": torch.rand(1, 3, 4, 4)}, faces)
    with pytest.raises(ConfigError, match="face_uv is None"):
        render({**leaves, "albedo": None, "texture": torch.rand(1, 3, 4, 4)}, faces)
    with pytest.raises(ConfigError, match=r"torch.float64, expected torch.float32"):
        render({name: leaf.double() for name, leaf in leaves.items()}, faces.long())
