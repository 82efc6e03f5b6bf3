import pytest
import torch
from pytorch3d.loss import chamfer_distance, mesh_edge_loss, mesh_laplacian_smoothing, mesh_normal_consistency
from pytorch3d.structures import Meshes
from render_scenes import dome

from raylib.geometry.camera import rotation_from_euler_deg
from raylib.geometry.mesh import vertex_normals
from raylib.geometry.topology import Topology
from raylib.paper.losses import (
    chamfer,
    edge_mean,
    edge_sum,
    laplacian_sum,
    masked_mse,
    nearest,
    normal_consistency,
    normal_sum,
    uniform_laplacian,
)

BATCH = 2


@pytest.fixture(scope="module")
def faces():
    return dome(9)[1]


@pytest.fixture()
def verts():
    """Double precision, so that the definitions can be checked closely."""
    g = torch.Generator().manual_seed(0)
    return (dome(9)[0].double() + 0.05 * torch.randn(BATCH, 81, 3, generator=g)).requires_grad_()


@pytest.fixture(scope="module")
def topology(faces):
    return Topology(faces, 81)


def neighbors(faces, n_verts):
    found = [set() for _ in range(n_verts)]
    for triangle in faces.tolist():
        for p in triangle:
            found[p] |= set(triangle) - {p}
    return found


def same_value_and_gradient(ours, expected, verts):
    (a,) = torch.autograd.grad(ours, verts)
    (b,) = torch.autograd.grad(expected, verts)
    torch.testing.assert_close(ours, expected.to(ours.dtype), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # PyTorch3D computes in single precision


def test_nearest_equals_the_table_of_distances(verts):
    targets = torch.randn(BATCH, 50, 3, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(nearest(verts, targets), torch.cdist(verts, targets).argmin(2))


def test_chamfer_is_equation_1_and_its_mean_pytorch3ds(verts):
    targets = torch.randn(BATCH, 50, 3, generator=torch.Generator().manual_seed(1)).double()
    table = torch.cdist(verts, targets).square()
    by_definition = (table.min(2).values.sum(1) + table.min(1).values.sum(1)).mean()
    same_value_and_gradient(chamfer(verts, targets, "sum"), by_definition, verts)
    single = verts.float()
    theirs, _ = chamfer_distance(single, targets.float())
    same_value_and_gradient(chamfer(verts, targets, "mean"), theirs, verts)
    assert chamfer(verts, verts.flip(1)) == 0


def test_normal_sum_is_equation_2(verts, faces, topology):
    targets = dome(7)[0].double().expand(BATCH, -1, -1)
    normals = vertex_normals(targets, dome(7)[1])
    expected = verts.new_zeros(())
    around = neighbors(faces, 81)
    for b in range(BATCH):
        for p in range(81):
            q = (targets[b] - verts[b, p]).square().sum(1).argmin()
            for k in around[p]:
                expected = expected + ((verts[b, p] - verts[b, k]) @ normals[b, q]) ** 2 / BATCH
    same_value_and_gradient(normal_sum(verts, topology, targets, normals), expected, verts)


def test_laplacian_sum_is_equation_3(verts, faces, topology):
    before = dome(9)[0].double().expand(BATCH, -1, -1)
    expected = verts.new_zeros(())
    for p, around in enumerate(neighbors(faces, 81)):
        k = list(around)
        delta = verts[:, p] - verts[:, k].mean(1) - (before[:, p] - before[:, k].mean(1))
        expected = expected + delta.square().sum() / BATCH
    same_value_and_gradient(laplacian_sum(verts, before, topology), expected, verts)
    moved = before + torch.tensor([3.0, -1.0, 2.0]).double()
    torch.testing.assert_close(laplacian_sum(moved, before, topology), torch.zeros(()).double(), atol=1e-20, rtol=0)


def test_edge_sum_is_equation_4(verts, faces, topology):
    expected = verts.new_zeros(())
    for p, around in enumerate(neighbors(faces, 81)):
        expected = expected + (verts[:, [p]] - verts[:, list(around)]).square().sum() / BATCH
    same_value_and_gradient(edge_sum(verts, topology), expected, verts)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (edge_mean, mesh_edge_loss),
        (lambda v, t: edge_mean(v, t, 0.1), lambda m: mesh_edge_loss(m, 0.1)),
        (normal_consistency, mesh_normal_consistency),
        (uniform_laplacian, mesh_laplacian_smoothing),
    ],
    ids=["edge", "edge_to_length", "normal_consistency", "laplacian"],
)
def test_means_are_pytorch3ds(ours, theirs, verts, faces, topology):
    meshes = Meshes(verts.float(), faces.expand(BATCH, -1, -1))
    same_value_and_gradient(ours(verts, topology), theirs(meshes), verts)


def test_moving_a_mesh_leaves_its_shape_terms_alone(verts, topology):
    R = rotation_from_euler_deg(torch.tensor([[30.0, -20.0, 10.0]])).double()[0]
    moved = verts @ R.T + torch.tensor([5.0, 6.0, 7.0]).double()
    for term in (edge_sum, edge_mean, normal_consistency, uniform_laplacian):
        torch.testing.assert_close(term(moved, topology), term(verts, topology))


def test_every_inner_edge_joins_two_faces(faces, topology):
    rim = 4 * 8
    assert len(topology.face_pairs) == len(topology.edges) - rim
    shared = [len(set(faces[a].tolist()) & set(faces[b].tolist())) for a, b in topology.face_pairs.tolist()]
    assert set(shared) == {2}


def test_masked_mse_ignores_what_the_mask_hides():
    g = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 4, 5, 3, generator=g), torch.rand(2, 4, 5, 3, generator=g)
    mask = (torch.rand(2, 4, 5, generator=g) > 0.5).float()
    torch.testing.assert_close(masked_mse(image, target), torch.nn.functional.mse_loss(image, target))
    hidden = torch.where(mask[..., None] > 0, image, torch.rand(2, 4, 5, 3, generator=g))
    torch.testing.assert_close(masked_mse(hidden, target, mask), masked_mse(image, target, mask))
    assert masked_mse(image, target, mask) < masked_mse(image, target)
