import multiprocessing
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch3d.renderer import FoVPerspectiveCameras, MeshRasterizer, RasterizationSettings, look_at_view_transform
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes
from render_scenes import BLUR, dome, random_triangles

from raylib.errors import ConfigError, RaylibError
from raylib.render import (
    Fragments,
    choose_backend,
    pytorch3d_backend,
    rasterize,
    rasterize_face_verts,
    rasterize_pixels,
)
from raylib.render.kernels.binning import ndc_pixel_centers

FRESH = settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def any_work_is_worth_a_thread():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kernels.binning._FACES", "rasterizer._HITS", "rasterizer._GRADIENTS"):
            patch.setattr(f"raylib.render.{name}_WORTH_A_THREAD", 1)
        yield


def triangles_as_meshes(*batch):
    verts = [faces.reshape(-1, 3) for faces in batch]
    return Meshes(verts, [torch.arange(len(v)).reshape(-1, 3) for v in verts])


def assert_equal_bits(ours, reference):
    names = ("pix_to_face", "zbuf", "bary_coords", "dists")
    for name, a, b in zip(names, ours, reference, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, name
        bits = torch.int64 if a.dtype == torch.int64 else torch.int32
        assert torch.equal(a.contiguous().view(bits), b.contiguous().view(bits)), name


@FRESH
@given(
    seed=st.integers(0, 2**32),
    n_images=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    n_faces=st.integers(1, 60),
    size=st.sampled_from([0.02, 0.3, 1.5]),
    blur_radius=st.sampled_from([0.0, BLUR, 1e-2]),
    faces_per_pixel=st.sampled_from([1, 2, 7, 50, 255]),
    perspective=st.booleans(),
    clip=st.booleans(),
    cull=st.booleans(),
    z_clip=st.sampled_from([None, None, 0.05]),
    frustum=st.booleans(),
    threads=st.integers(1, 3),
)
def test_forward_equals_pytorch3d_bit_for_bit(
    seed, n_images, height, width, n_faces, size, blur_radius, faces_per_pixel, perspective, clip, cull, z_clip,
    frustum, threads,
):  # fmt: skip
    meshes = triangles_as_meshes(
        *(random_triangles(seed + i, n_faces + 3 * i, size, behind=0.15, degenerate=0.15) for i in range(n_images))
    )
    kwargs = {
        "image_size": (height, width), "blur_radius": blur_radius, "faces_per_pixel": faces_per_pixel,
        "perspective_correct": perspective, "clip_barycentric_coords": clip, "cull_backfaces": cull,
        "z_clip_value": z_clip, "cull_to_frustum": frustum,
    }  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equal_bits(rasterize(meshes, **kwargs), rasterize_meshes(meshes, **kwargs))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("faces_per_pixel", [1, 4, 30])
@pytest.mark.parametrize("blur_radius", [0.0, 1e-2])
def test_faces_split_by_the_near_plane_equal_pytorch3d(faces_per_pixel, blur_radius):
    g = torch.Generator().manual_seed(0)
    verts = torch.rand(2, 60, 3, generator=g) * torch.tensor([3.0, 3.0, 2.0]) - torch.tensor([1.5, 1.5, 0.4])
    meshes = Meshes(verts, torch.randint(0, 60, (2, 90, 3), generator=g))
    kwargs = {
        "image_size": 33, "blur_radius": blur_radius, "faces_per_pixel": faces_per_pixel, "perspective_correct": True,
        "clip_barycentric_coords": blur_radius > 0, "z_clip_value": 0.05,
    }  # fmt: skip
    ours = rasterize(meshes, **kwargs)
    assert (ours[0] >= 0).float().mean() > 0.2
    assert_equal_bits(ours, rasterize_meshes(meshes, **kwargs))


def test_empty_and_invisible_meshes_leave_the_image_empty():
    behind = random_triangles(0, 5, 0.5, behind=0.0, degenerate=0.0) * torch.tensor([1.0, 1.0, -1.0])
    aside = random_triangles(0, 5, 0.5, behind=0.0, degenerate=0.0) + torch.tensor([9.0, 0.0, 0.0])
    outputs = rasterize(triangles_as_meshes(behind, aside), image_size=16, faces_per_pixel=3, blur_radius=1e-3)
    assert all((t == -1).all() for t in outputs)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_vertex_that_is_not_a_number_is_one_clear_error(bad):
    faces = random_triangles(0, 5, 0.5, behind=0.0, degenerate=0.0)
    faces[2, 1, 0] = bad
    with pytest.raises(RaylibError, match=r"face 2 of mesh 1 .*expected finite numbers"):
        rasterize(triangles_as_meshes(torch.ones(2, 3, 3), faces), image_size=8)


def test_wrong_arguments_are_clear_errors():
    meshes = triangles_as_meshes(torch.rand(2, 3, 3))
    with pytest.raises(ConfigError, match="faces_per_pixel is 256, expected 1 to 255"):
        rasterize(meshes, image_size=8, faces_per_pixel=256)
    with pytest.raises(ConfigError, match="float64"):
        rasterize_face_verts(torch.rand(2, 3, 3).double(), torch.tensor([0]), torch.tensor([2]), (8, 8))


def reference_values(face_verts, fragments: Fragments, size, perspective, clip):
    """Depth, coordinates and distance of every hit in double precision, by autograd from the definition."""
    height, width = size
    hit = fragments.pix_to_face >= 0
    _, row, column, _ = torch.where(hit)
    x = torch.from_numpy(ndc_pixel_centers(width, height)).double()[column]
    y = torch.from_numpy(ndc_pixel_centers(height, width)).double()[row]
    pixel = torch.stack([x, y], -1)
    triangle = face_verts[fragments.pix_to_face[hit]]
    p0, p1, p2 = triangle[:, 0, :2], triangle[:, 1, :2], triangle[:, 2, :2]
    z = triangle[..., 2]

    def edge(p, a, b):
        return (p - a)[:, 0] * (b - a)[:, 1] - (p - a)[:, 1] * (b - a)[:, 0]

    w = torch.stack([edge(pixel, p1, p2), edge(pixel, p2, p0), edge(pixel, p0, p1)], -1)
    w = w / (edge(p2, p0, p1) + 1e-8)[:, None]
    if perspective:
        top = w * torch.stack([z[:, 1] * z[:, 2], z[:, 0] * z[:, 2], z[:, 0] * z[:, 1]], -1)
        w = top / top.sum(-1, keepdim=True).clamp(min=1e-8)
    inside = (w > 0).all(-1)
    if clip:
        w = w.clamp(min=0)
        w = w / w.sum(-1, keepdim=True).clamp(min=1e-5)

    def squared_distance(a, b):
        length = ((b - a) ** 2).sum(-1)
        short = length <= 1e-8
        t = ((pixel - a) * (b - a)).sum(-1) / torch.where(short, 1.0, length)
        nearest = torch.where(short[:, None], b, a + t.clamp(0, 1)[:, None] * (b - a))
        return ((pixel - nearest) ** 2).sum(-1)

    dist = torch.minimum(torch.minimum(squared_distance(p0, p1), squared_distance(p0, p2)), squared_distance(p1, p2))
    return hit, (w * z).sum(-1), w, torch.where(inside, -dist, dist)


def ndc_face_verts(noise=0.01, yaw=15.0):
    verts, faces = dome(noise=noise)
    R, T = look_at_view_transform(2.7, 10, yaw)
    rasterizer = MeshRasterizer(FoVPerspectiveCameras(R=R, T=T), RasterizationSettings())
    meshes = rasterizer.transform(Meshes([verts], [faces]))
    return meshes.verts_packed()[meshes.faces_packed()], torch.tensor([0]), torch.tensor([len(faces)])


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("blur_radius", [0.0, BLUR, 1e-2])
def test_gradients_equal_autograd_in_double_precision(perspective, clip, blur_radius):
    face_verts, first, count = ndc_face_verts()
    size = (48, 64)
    ours = face_verts.clone().requires_grad_()
    fragments = rasterize_face_verts(ours, first, count, size, blur_radius, 30, perspective, clip)
    reference = face_verts.double().requires_grad_()
    hit, zbuf, bary, dists = reference_values(reference, fragments, size, perspective, clip)
    g = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=g) for t in (fragments.zbuf, fragments.bary_coords, fragments.dists)]
    torch.autograd.backward([fragments.zbuf, fragments.bary_coords, fragments.dists], grads)
    torch.autograd.backward([zbuf, bary, dists], [grad[hit].double() for grad in grads])
    error = (ours.grad - reference.grad).flatten(1).norm(dim=1)
    norm = reference.grad.flatten(1).norm(dim=1)
    assert (norm > 0).sum() > 500
    assert error.norm() <= 1e-5 * norm.norm()
    assert (error / norm.clamp(min=1e-9 * norm.max())).max() <= 1e-3


def test_gradients_do_not_depend_on_the_number_of_threads():
    face_verts, first, count = ndc_face_verts()
    results = []
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        leaf = face_verts.clone().requires_grad_()
        fragments = rasterize_face_verts(leaf, first, count, (48, 64), BLUR, 8, True, True)
        (fragments.zbuf.sum() + fragments.dists.sum() * 50).backward()
        results.append(leaf.grad)
    torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["numba", "pytorch3d"])
def test_mesh_rasterizer_works_in_pytorch3ds_renderer(backend):
    """Same image and, up to PyTorch3D's errors on edge-on faces, the same gradients as its own rasteriser."""
    from pytorch3d.renderer import MeshRenderer, SoftPhongShader, TexturesVertex

    verts, faces = dome(rows=14)
    R, T = look_at_view_transform(2.7, 10, torch.tensor([0.0, 25.0]))
    cameras = FoVPerspectiveCameras(R=R, T=T)
    raster_settings = RasterizationSettings(image_size=(24, 32), blur_radius=BLUR, faces_per_pixel=12)
    images = []
    for rasterizer in (
        pytorch3d_backend.MeshRasterizer(cameras, raster_settings, backend),
        MeshRasterizer(cameras, raster_settings),
    ):
        leaf = verts.clone().requires_grad_()
        meshes = Meshes([leaf, leaf * 0.9], [faces] * 2, TexturesVertex(torch.rand(2, len(verts), 3) * 0 + 0.5))
        image = MeshRenderer(rasterizer, SoftPhongShader(cameras=cameras))(meshes)
        image.square().sum().backward()
        images.append((image.detach(), leaf.grad))
    assert torch.equal(images[0][0], images[1][0])
    cosine = torch.nn.functional.cosine_similarity(images[0][1].flatten(), images[1][1].flatten(), dim=0)
    assert cosine > 0.999


def test_rasterize_pixels_inverts_the_projection():
    """A hit's coordinates and depth, projected again, give the pixel's own centre."""
    verts, faces = (t.numpy() for t in dome(20))
    points = np.stack([verts * 80 + [0, 0, 400], verts * 60 + [9, -5, 300]])
    projected = np.concatenate([points[..., :2] / points[..., 2:] * 300 + [40, 25], points[..., 2:]], -1)
    fragments = rasterize_pixels(projected, faces, (50, 81))
    image, row, column = np.nonzero(fragments.pix_to_face >= 0)
    assert len(row) > 1000
    corners = points[image[:, None], faces[fragments.pix_to_face[image, row, column]]]
    at = (corners * fragments.bary_coords[image, row, column][..., None]).sum(1)
    pixels = at[:, :2] / at[:, 2:] * 300 + [40, 25]
    np.testing.assert_allclose(pixels, np.stack([column, row], -1) + 0.5, atol=1e-3)
    np.testing.assert_allclose(fragments.zbuf[image, row, column], at[:, 2], rtol=1e-5)


def test_rasterize_pixels_keeps_the_nearer_of_two_faces():
    square = [[0, 0], [8, 0], [8, 8], [0, 8]]
    verts = np.array([[[x, y, depth] for depth in (5.0, 3.0) for x, y in square]])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    fragments = rasterize_pixels(verts, faces, (8, 10))
    np.testing.assert_array_equal(fragments.pix_to_face[0, :, :8] >= 2, ~np.eye(8, dtype=bool))
    np.testing.assert_array_equal(fragments.pix_to_face[0, :, 8:], -1)
    with pytest.raises(RaylibError, match="expected finite numbers"):
        rasterize_pixels(verts * np.nan, faces, (8, 10))


def small_scene_sum() -> float:
    torch.set_num_threads(2)
    face_verts = random_triangles(3, 40, 0.4, behind=0.0, degenerate=0.0)
    fragments = rasterize_face_verts(face_verts, torch.tensor([0]), torch.tensor([40]), (64, 64), 1e-3, 4)
    return float(fragments.zbuf.double().sum())


def small_scene_into(queue) -> None:
    queue.put(small_scene_sum())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_threads_survive_a_fork_and_concurrent_callers():
    expected = small_scene_sum()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=small_scene_into, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0

    results: list[float] = []
    callers = [threading.Thread(target=lambda: results.append(small_scene_sum())) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert results == [expected] * 6


def test_the_device_chooses_the_backend_and_the_config_overrides_it():
    assert choose_backend("cpu") == "numba"
    assert choose_backend("cuda:0") == "pytorch3d"
    assert choose_backend("cpu", "pytorch3d") == "pytorch3d"
    with pytest.raises(ConfigError, match="'opengl', expected one of numba, pytorch3d"):
        choose_backend("cpu", "opengl")
    with pytest.raises(ConfigError, match="expected the device 'cpu'"):
        choose_backend("cuda", "numba")
