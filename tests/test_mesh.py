import numpy as np
import pytest
import torch

from raylib.geometry.mesh import boundary_edges, face_areas_normals, unique_edges, vertex_adjacency, vertex_normals
from raylib.geometry.subdivision import hemisphere


def test_hemisphere_has_the_papers_counts():
    template = hemisphere()
    assert template.verts.shape == (2113, 3)
    assert template.faces.shape == (4096, 3)
    assert len(boundary_edges(template.faces)) == 128
    assert len(template.verts) - len(unique_edges(template.faces)) + len(template.faces) == 1  # a disc
    assert template.verts[:, 2].min() >= 0
    torch.testing.assert_close(template.verts.norm(dim=1), torch.ones(2113))


@pytest.mark.parametrize("levels", range(6))
def test_levels_are_prefixes(levels):
    fine, coarse = hemisphere(5), hemisphere(levels)
    assert fine.level_sizes[: levels + 1] == coarse.level_sizes
    n = coarse.level_sizes[-1]
    assert n == 2 * 4**levels + 2 * 2**levels + 1
    torch.testing.assert_close(fine.verts[:n], coarse.verts, rtol=0, atol=0)
    assert torch.equal(fine.level_faces[levels], coarse.faces)
    assert coarse.faces.max() == n - 1


def test_parents_are_the_ends_of_the_split_edge():
    template = hemisphere(4)
    base, ends = template.level_sizes[0], template.parents
    middle = torch.nn.functional.normalize(template.verts[ends].sum(1), dim=1)
    torch.testing.assert_close(template.verts[base:], middle[base:])
    assert torch.equal(ends[:base, 0], torch.arange(base))
    for level in range(1, 5):
        first, last = template.level_sizes[level - 1], template.level_sizes[level]
        edges = {tuple(e) for e in unique_edges(template.level_faces[level - 1]).tolist()}
        assert {tuple(e) for e in ends[first:last].tolist()} == edges


def test_triangles_face_outwards():
    template = hemisphere()
    _, normals = face_areas_normals(template.verts[None], template.faces)
    assert ((normals[0] * template.verts[template.faces].mean(1)).sum(1) > 0.99).all()


def test_adjacency_equals_loop():
    template = hemisphere(2)
    dense = vertex_adjacency(template.faces, len(template.verts)).to_dense()
    want = torch.zeros_like(dense)
    for a, b, c in template.faces.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            want[i, j] = want[j, i] = 1
    assert torch.equal(dense, want)


def test_vertex_normals_equal_loop():
    template = hemisphere(2)
    verts = template.verts[None] + 0.05 * torch.randn(3, *template.verts.shape, generator=torch.manual_seed(0))
    want = np.zeros(verts.shape)
    for i, v in enumerate(verts.numpy()):
        for a, b, c in template.faces.tolist():
            cross = np.cross(v[b] - v[a], v[c] - v[a])
            for k in (a, b, c):
                want[i, k] += cross
    want /= np.linalg.norm(want, axis=2, keepdims=True)
    np.testing.assert_allclose(vertex_normals(verts, template.faces).numpy(), want, atol=1e-5)


def test_normals_turn_with_the_mesh_and_ignore_scale():
    template = hemisphere(3)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.manual_seed(1)))[0]
    rotation = rotation * torch.det(rotation)
    normals = vertex_normals(template.verts[None], template.faces)
    turned = vertex_normals(7 * template.verts[None] @ rotation.T, template.faces)
    torch.testing.assert_close(turned, normals @ rotation.T, atol=1e-5, rtol=0)


def test_normals_have_right_gradients():
    template = hemisphere(1)
    verts = template.verts.double()[None].requires_grad_()
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, template.faces), verts)
    assert torch.autograd.gradcheck(lambda v: face_areas_normals(v, template.faces), verts)
