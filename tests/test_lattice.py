import pytest
import torch

from raylib.geometry.mesh import unique_edges
from raylib.geometry.subdivision import hemisphere
from raylib.regressor.lattice import Lattice, enlarge, lattice_coordinates, subdivide


@pytest.mark.parametrize("level", [0, 3, 5])
def test_the_vertices_are_the_whole_numbers_of_the_diamond(level):
    at = lattice_coordinates(level)
    r = 2**level
    wanted = {(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1) if abs(i) + abs(j) <= r}
    assert {tuple(p) for p in at.tolist()} == wanted
    assert len(at) == len(wanted)


@pytest.mark.parametrize("level", [1, 3, 5])
def test_every_edge_of_the_mesh_leads_to_one_of_the_eight_neighbours(level):
    template = hemisphere(level)
    a, b = unique_edges(template.faces).unbind(1)
    at = lattice_coordinates(level)
    steps = (at[a] - at[b]).abs()
    assert steps.max() == 1
    # The sides of every square, one diagonal of each, and the rim.
    straight = int((steps.sum(1) == 1).sum())
    assert (straight, len(a) - straight) == (4 * 4**level, 2 * 4**level + 2 * 2**level)
    assert lattice_coordinates(level)[:5].abs().sum(1).tolist() == [2**level] * 4 + [0]


def test_columns_run_to_the_subjects_left_and_rows_upwards():
    at, verts = lattice_coordinates(5).float(), hemisphere(5).verts
    assert torch.equal(at[:, 0].sign(), torch.where(verts[:, 0].abs() < 1e-6, 0.0, verts[:, 0].sign()))
    assert torch.equal(at[:, 1].sign(), torch.where(verts[:, 1].abs() < 1e-6, 0.0, verts[:, 1].sign()))


def test_verts_to_picture_and_back_is_the_identity():
    lattice = Lattice(4)
    values = torch.randn(2, lattice.num_verts, 3)
    picture = lattice.from_verts(values)
    assert picture.shape == (2, 3, 33, 33)
    assert torch.equal(lattice.to_verts(picture), values)
    assert torch.equal(picture, lattice.masked(picture))
    assert int((picture != 0).sum()) == values.numel()


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_subdividing_a_linear_function_gives_that_function(levels):
    weights = torch.tensor([[0.3, -1.2], [0.5, 0.7]])
    fine = lattice_coordinates(5).float() @ weights + 0.25
    coarse = fine[:, :].clone()[: len(lattice_coordinates(5 - levels))]
    assert torch.allclose(subdivide(coarse[None], levels)[0], fine, atol=1e-5)


def test_a_midpoint_is_the_mean_of_its_ends():
    values = torch.randn(1, 145, 4)
    fine = subdivide(values)
    parents = hemisphere(4).parents
    assert torch.equal(fine[:, :145], values)
    assert torch.allclose(fine[0, 145:], values[0, parents[145:]].mean(1))


def test_subdivide_refuses_what_is_no_level():
    with pytest.raises(ValueError, match="144 vertices are no level"):
        subdivide(torch.zeros(1, 144, 3))


def test_enlarging_keeps_a_constant_up_to_the_rim():
    coarse, fine = Lattice(3), Lattice(4)
    picture = coarse.masked(torch.full((1, 2, 17, 17), 3.0))
    enlarged = enlarge(picture, coarse, fine)
    assert torch.allclose(fine.to_verts(enlarged), torch.full((1, 545, 2), 3.0))
    assert torch.equal(enlarged, fine.masked(enlarged))


def test_one_convolution_reaches_the_neighbours_and_no_further():
    lattice = Lattice(3)
    one = torch.zeros(1, 145, 1)
    one[0, 60] = 1.0
    spread = lattice.to_verts(
        lattice.masked(torch.nn.functional.conv2d(lattice.from_verts(one), torch.ones(1, 1, 3, 3), padding=1))
    )
    reached = set(spread[0, :, 0].nonzero()[:, 0].tolist())
    edges = unique_edges(hemisphere(3).faces)
    neighbours = set(edges[(edges == 60).any(1)].flatten().tolist())
    assert neighbours <= reached
    at = lattice_coordinates(3)
    assert all((at[i] - at[60]).abs().max() <= 1 for i in reached)
