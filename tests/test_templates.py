import numpy as np
import pytest
import torch
import trimesh

from raylib.errors import ConfigError
from raylib.geometry.mesh import boundary_edges, unique_edges
from raylib.paper.templates import ico_sphere, load_template, teapot


def test_the_sphere_is_the_papers():
    sphere = ico_sphere(4)
    assert sphere.verts.shape == (2562, 3) and sphere.faces.shape == (5120, 3)
    torch.testing.assert_close(sphere.verts.norm(dim=1), torch.ones(2562))
    assert len(boundary_edges(sphere.faces)) == 0
    mesh = trimesh.Trimesh(sphere.verts.numpy(), sphere.faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi, rel=5e-3)  # outside is outside
    edges = unique_edges(sphere.faces)
    length = (sphere.verts[edges[:, 0]] - sphere.verts[edges[:, 1]]).norm(dim=1)
    assert length.max() < 1.3 * length.min()


def test_the_teapot_has_the_utah_teapots_proportions():
    mesh = teapot()
    assert float(mesh.verts.norm(dim=1).max()) == pytest.approx(1)
    size = np.ptp(mesh.verts.numpy(), axis=0)
    # 6.43 from handle to spout, 3.15 high, 4 across the body (Newell's units).
    assert size[1] / size[0] == pytest.approx(3.15 / 6.43, rel=0.02)
    assert size[2] / size[0] == pytest.approx(4.0 / 6.43, rel=0.02)
    solid = trimesh.Trimesh(mesh.verts.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_winding_consistent
    normals, centers = solid.face_normals, solid.triangles_center
    body = np.hypot(centers[:, 0], centers[:, 2]) < 0.55
    middle = body & (np.abs(centers[:, 1]) < 0.2)
    outward = centers * [1, 0, 1]
    assert ((normals * outward).sum(1)[middle] > 0).mean() > 0.9  # the rest: handle and spout
    mirrored = mesh.verts * torch.tensor([1.0, 1.0, -1.0])
    # Differences, not the product form that cdist takes for many points: that is exact to 3e-4 only.
    exact = "donot_use_mm_for_euclid_dist"
    assert float(torch.cdist(mirrored, mesh.verts, compute_mode=exact).min(1).values.max()) < 1e-5


def test_finer_steps_give_the_same_teapot():
    coarse, fine = teapot(5), teapot(10)
    assert len(fine.faces) > 3.5 * len(coarse.faces)
    nearest = torch.cdist(coarse.verts, fine.verts).min(1).values
    assert float(nearest.max()) < 5e-3


def test_any_obj_becomes_a_template(tmp_path):
    box = trimesh.creation.box((2.0, 4.0, 6.0)).subdivide()
    box.apply_translation([10, 0, 0])
    box.export(tmp_path / "box.obj")
    mesh = load_template(str(tmp_path / "box.obj"))
    assert mesh.verts.shape == (len(box.vertices), 3) and len(mesh.faces) == len(box.faces)
    assert float(mesh.verts.norm(dim=1).max()) == pytest.approx(1)
    torch.testing.assert_close(mesh.verts.amax(0), -mesh.verts.amin(0))
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\n")
    for name in ("points.obj", "nowhere.obj"):
        with pytest.raises(ConfigError, match=name):
            load_template(str(tmp_path / name))
