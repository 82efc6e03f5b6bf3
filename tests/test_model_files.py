"""Readers of published face models, on files written in their published layout and on the real ones where present."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from raylib.config import FitSettings
from raylib.errors import ConfigError
from raylib.fitting.landmarks import LandmarkFitter
from raylib.morphable.canonical import canonical_model, jaw_lines, transfer_landmarks
from raylib.morphable.ict import LANDMARK_VERTS, read_ict
from raylib.morphable.model import LinearFaceModel, load_prior
from raylib.morphable.readers import load_model

DATA = Path(__file__).parents[2] / "shared" / "data"
SFM = DATA / "sfm" / "sfm_shape_3448.bin"
ICT = DATA / "ict" / "ict_facekit.npz"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the development data folder ../shared/data is absent")


def assert_canonical(model: LinearFaceModel) -> None:
    """Origin, axes and unit of canonical space; outward triangles; the symmetry of faces."""
    mark = model.mean[model.landmark_verts]
    corners = mark[[36, 45]]
    torch.testing.assert_close(corners.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    assert 75 < corners[1, 0] - corners[0, 0] < 105
    assert corners[:, 1:].abs().max() < 1e-3
    mouth = mark[[48, 54]].mean(0)
    lean = torch.rad2deg(torch.atan2(mouth[2], -mouth[1]))
    assert lean == pytest.approx(12.8, abs=0.1)
    assert mark[30, 2] == mark[[30, 27, 36, 45, 48, 54, 8], 2].max() > 30
    a, b, c = (model.mean[model.faces[:, i]] for i in range(3))
    normals = torch.linalg.cross(b - a, c - a)
    assert (normals * ((a + b + c) / 3 - model.mean.mean(0))).sum() > 0
    near_nose = ((a - mark[30]).norm(dim=1) < 8) & (a[:, 2] > mark[30, 2] - 3)
    assert (normals[near_nose, 2] > 0).all()
    assert model.mirror_verts is not None
    reflected = model.mean * torch.tensor([-1.0, 1, 1])
    assert (reflected - model.mean[model.mirror_verts]).norm(dim=1).median() < 1.5
    assert model.contour_verts.shape[0] == 17
    assert model.contour_verts.max() < len(model.mean)


def basel(prior: LinearFaceModel, unit_per_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A face in the Basel frame: the prior turned, shifted, in another unit; 5 orthonormal modes, deviations."""
    R = np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])
    mean = (prior.mean.numpy() @ R.T + [3, 20, 70]) * unit_per_mm
    modes = (prior.identity[:5].numpy() @ R.T).reshape(5, -1).T * unit_per_mm
    basis, _ = np.linalg.qr(modes)
    return mean, basis, np.linalg.norm(modes, axis=0)


def write_2009(path: Path, prior: LinearFaceModel) -> None:
    mean, basis, std = basel(prior, 1000.0)  # micrometres
    faces = prior.faces.numpy()[:, [1, 0, 2]] + 1
    scipy.io.savemat(
        path,
        {
            "shapeMU": mean.reshape(-1, 1).astype(np.float32),
            "shapePC": basis.astype(np.float32),
            "shapeEV": std.reshape(-1, 1).astype(np.float32),
            "tl": faces.astype(np.float64),
        },
    )


def write_2017(path: Path, prior: LinearFaceModel, group_of_mean: str = "mean") -> None:
    mean, basis, std = basel(prior, 1.0)
    expression = prior.expression[:3].numpy().reshape(3, -1).T.astype(np.float32)
    length = np.linalg.norm(expression, axis=0)
    with h5py.File(path, "w") as file:
        file[f"shape/model/{group_of_mean}"] = (mean - 0.25).ravel().astype(np.float32)
        file["shape/model/pcaBasis"], file["shape/model/pcaVariance"] = basis.astype(np.float32), std**2
        file["expression/model/mean"] = np.full(mean.size, 0.25, np.float32)
        file["expression/model/pcaBasis"] = expression / length
        file["expression/model/pcaVariance"] = length**2
        file["shape/representer/cells"] = prior.faces.numpy().T.astype(np.uint32)
        file["shape/representer/points"] = mean.T.astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "name", "write"), [(".mat", "bfm2009", write_2009), (".h5", "bfm2017", write_2017)]
)
def test_basel_layouts_read_back_as_the_face_that_was_written(tmp_path, suffix, name, write):
    prior = load_prior()
    path = tmp_path / f"model{suffix}"
    write(path, prior)
    model = load_model(str(path))
    assert model.name == name
    assert_canonical(model)
    # The same face in the same frame: the turn, the shift, the unit and the winding are undone.
    assert (model.mean - prior.mean).norm(dim=1).max() < 1.0
    assert torch.equal(model.faces.sort(1).values, prior.faces.sort(1).values)
    assert (model.landmark_verts == prior.landmark_verts).float().mean() > 0.9
    # Mode by mode the standard deviation is kept, whatever the length of the stored columns.
    norms = [m.identity[:5].flatten(1).norm(dim=1) for m in (model, prior)]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-3, atol=1e-3)
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    if name == "bfm2017":
        shapes = [m.expression[:3].flatten(1).norm(dim=1) for m in (model, prior)]
        torch.testing.assert_close(shapes[0], shapes[1], rtol=1e-3, atol=1e-3)
    LandmarkFitter(model, FitSettings())


def test_matlab_73_files_are_read_like_older_ones(tmp_path):
    prior = load_prior()
    old, new = tmp_path / "old.mat", tmp_path / "new.mat"
    write_2009(old, prior)
    fields = scipy.io.loadmat(old)
    with h5py.File(new, "w") as file:
        for key in ("shapeMU", "shapePC", "shapeEV", "tl"):
            file[key] = fields[key].T
    a, b = load_model(str(old)), load_model(str(new))
    assert torch.equal(a.mean, b.mean)
    assert torch.equal(a.identity, b.identity)
    assert torch.equal(a.faces, b.faces)


def test_variances_scale_a_basis_of_any_column_length(tmp_path):
    prior = load_prior()
    a, b = tmp_path / "unit.h5", tmp_path / "scaled.h5"
    write_2017(a, prior)
    write_2017(b, prior)
    with h5py.File(b, "r+") as file:
        file["shape/model/pcaBasis"][...] *= np.sqrt(file["shape/model/pcaVariance"][...])
    torch.testing.assert_close(load_model(str(a)).identity, load_model(str(b)).identity, atol=1e-4, rtol=1e-4)


def test_landmarks_are_found_on_another_mesh():
    prior = load_prior()
    # Vertices at the triangles' centroids and the old vertices, in another order, a larger and wider face.
    points = torch.cat([prior.mean[prior.faces].mean(1), prior.mean]).numpy()
    order = np.random.default_rng(0).permutation(len(points))
    other = points[order] * [1.06, 1.0, 1.03] + [0, -40, 12]
    found = transfer_landmarks(prior, other)
    expected = prior.mean[prior.landmark_verts].numpy() * [1.06, 1.0, 1.03] + [0, -40, 12]
    assert np.linalg.norm(other[found] - expected, axis=1).mean() < 2.5


@pytest.mark.parametrize("unit", [1e3, 1.0, 0.1, 1e-3])
def test_every_unit_ends_in_millimetres(unit):
    prior = load_prior()
    marks = prior.landmark_verts.numpy()
    model = canonical_model(
        name="x",
        mean=prior.mean.numpy() * unit + 7 * unit,
        faces=prior.faces.numpy(),
        identity=prior.identity[:2].numpy() * unit,
        expression=prior.expression[:1].numpy() * unit,
        expression_bounds=(0.0, 1.0),
        landmark_verts=marks,
        jaw_verts=marks[:17],
        uv=None,
        files=[],
    )
    assert (model.mean - prior.mean).norm(dim=1).max() < 0.5
    torch.testing.assert_close(model.identity.norm(dim=2), prior.identity[:2].norm(dim=2), atol=1e-3, rtol=1e-3)
    assert_canonical(model)


def test_jaw_lines_run_from_the_landmark_over_the_cheek():
    prior = load_prior()
    mean, jaw = prior.mean.numpy(), prior.landmark_verts[:17].numpy()
    lines = jaw_lines(mean, jaw)
    assert (lines[:, 0] == jaw).all()
    assert (lines[8, 1:] == -1).all()
    for i in (2, 4, 12, 14):
        line = mean[lines[i][lines[i] >= 0]]
        assert (np.diff(np.abs(line[1:, 0])) <= 1e-6).all()  # ever nearer to the plane of symmetry
        assert (np.diff(line[1:, 2]) >= -1e-6).all()  # ever farther to the front
        assert np.ptp(line[:, 1]) < 9
        assert np.abs(line[-1, 0]) < 0.7 * np.abs(line[0, 0])


def write_ict_folder(folder: Path, data: dict[str, np.ndarray]) -> None:
    """Writes a mean, one identity and one expression as OBJ files with quads and texture coordinates."""
    faces = "".join(
        "f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(q, u, strict=True)) + "\n"
        for q, u in zip(data["faces"], data["uv_faces"], strict=True)
    )
    uv = "".join(f"vt {u:.6f} {v:.6f}\n" for u, v in data["uv"])
    shapes = {
        "generic_neutral_mesh": data["neutral"],
        "identity000": data["neutral"] + data["identity"][0],
        "jawOpen": data["neutral"] + data["expression"][0],
    }
    for name, verts in shapes.items():
        lines = "".join(f"v {x:.5f} {y:.5f} {z:.5f}\n" for x, y, z in verts)
        (folder / f"{name}.obj").write_text("# comment\n" + lines + uv + "usemtl M_Face\n" + faces)


def ict_like() -> dict[str, np.ndarray]:
    """Arrays with ICT-FaceKit's counts and landmark vertices, filled with the prior's face, centimetres."""
    prior = load_prior()
    rng = np.random.default_rng(0)
    face = prior.mean.numpy()
    neutral = face[rng.integers(0, len(face), 26719)] / 10
    neutral[list(LANDMARK_VERTS)] = face[prior.landmark_verts] / 10
    faces = np.stack([np.arange(0, 11000, 11) + k for k in range(4)], 1)
    return {
        "neutral": neutral,
        "faces": faces,
        "uv": rng.random((500, 2)),
        "uv_faces": rng.integers(0, 500, faces.shape),
        "material": np.zeros(len(faces), dtype=np.int8),
        "material_names": np.array(["M_Face"]),
        "expression_names": np.array(["jawOpen"]),
        "identity": rng.normal(size=(1, 26719, 3)) * 0.1,
        "expression": rng.normal(size=(1, 26719, 3)) * 0.1,
    }


def test_an_ict_folder_and_its_array_file_are_the_same_model(tmp_path):
    data = ict_like()
    (tmp_path / "obj").mkdir()
    write_ict_folder(tmp_path / "obj", data)
    np.savez(tmp_path / "ict.npz", **data)  # type: ignore[arg-type]
    a, b = load_model(str(tmp_path / "obj")), load_model(str(tmp_path / "ict.npz"))
    assert a.mean.shape == (11248, 3)
    for field in ("mean", "identity", "expression"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), atol=2e-3, rtol=1e-3)
    assert torch.equal(a.faces, b.faces)
    assert a.landmark_verts.tolist() == list(LANDMARK_VERTS)
    assert len(a.sha256) == 64
    assert a.sha256 != b.sha256


def test_a_downloaded_ict_folder_holds_what_the_array_file_holds(shared_data):
    ict = shared_data("ict")
    folder, packed = read_ict(ict / "FaceXModel_sample"), read_ict(ict / "ict_facekit.npz")
    np.testing.assert_array_equal(folder.quads, packed.quads)
    np.testing.assert_array_equal(folder.material, packed.material)
    assert folder.material_names == packed.material_names and folder.expression_names == ("jawOpen",)
    np.testing.assert_allclose(folder.neutral, packed.neutral, atol=1e-5)
    np.testing.assert_allclose(folder.identity, packed.identity[:2], atol=2e-3)
    jaw = packed.expression[packed.expression_names.index("jawOpen")]
    np.testing.assert_allclose(folder.expression[0], jaw, atol=4e-3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.bin", None, "does not exist"),
        ("model.xyz", b"?", "unknown suffix"),
        ("model.bin", b"hello, this is no model" * 9, "not a Surrey Face Model"),
        ("empty.bin", b"", "not a Surrey Face Model"),
        (
            "shape.bin",
            struct.pack("<iii", 1, 9, 1) + bytes(36) + struct.pack("<ii", 12, 2),
            "not a Surrey Face Model",
        ),
        ("model.mat", b"hello", "not a Basel Face Model 2009"),
        ("model.h5", b"hello", "not a Basel Face Model 2017"),
        ("model.npz", b"hello", "not an ICT-FaceKit array"),
        ("torn.npz", b"PK\x03\x04hello", "not an ICT-FaceKit array"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_model(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_the_right_kind_with_the_wrong_content_are_refused(tmp_path):
    prior = load_prior()
    cases = {tmp_path / "a.mat": "no field shapePC", tmp_path / "b.h5": "2017", tmp_path / "c.npz": "no array faces"}
    scipy.io.savemat(tmp_path / "a.mat", {"shapeMU": np.zeros((9, 1))})
    write_2017(tmp_path / "b.h5", prior, group_of_mean="elsewhere")
    np.savez(tmp_path / "c.npz", neutral=np.zeros((26719, 3)))
    (tmp_path / "folder").mkdir()
    cases[tmp_path / "folder"] = "generic_neutral_mesh.obj"
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=words):
            load_model(str(path))


@needs_data
def test_the_surrey_face_model_matches_what_eos_reads():
    eos = pytest.importorskip("eos")
    shape = eos.morphablemodel.load_model(str(SFM)).get_shape_model()
    model = load_model(str(SFM))
    assert_canonical(model)
    assert model.mean.shape == (3448, 3)
    assert model.identity.shape == (63, 3448, 3)
    assert model.expression.shape == (6, 3448, 3)
    # Distances survive the change of frame: between vertices of the mean, and the length of every displacement.
    raw = torch.tensor(shape.get_mean()).double().reshape(-1, 3)
    mean = model.mean.double()
    torch.testing.assert_close(torch.cdist(raw[:50], raw), torch.cdist(mean[:50], mean), atol=1e-2, rtol=0)
    modes = torch.tensor(shape.get_rescaled_pca_basis()).T.reshape(63, -1, 3)
    torch.testing.assert_close(modes.norm(dim=2), model.identity.norm(dim=2), atol=1e-3, rtol=1e-3)
    eos_faces = torch.tensor(shape.get_triangle_list())
    assert torch.equal(eos_faces.sort(1).values, model.faces.sort(1).values)
    assert model.landmark_verts[30] == 114
    assert (model.landmark_verts < 0).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, *range(9, 17), 60, 64]
    assert model.uv is not None
    assert (model.uv[model.landmark_verts[27], 1] > model.uv[33, 1]).all()  # the brow is above the chin


@needs_data
def test_the_surrey_face_model_needs_its_companions(tmp_path):
    (tmp_path / SFM.name).write_bytes(SFM.read_bytes())
    with pytest.raises(ConfigError, match=r"ibug_to_sfm\.txt"):
        load_model(str(tmp_path / SFM.name))


@needs_data
def test_ict_facekit_reads_from_its_own_files():
    array, folder = load_model(str(ICT)), load_model(str(DATA / "ict" / "FaceXModel_sample"))
    assert_canonical(array)
    assert array.identity.shape == (100, 11248, 3)
    torch.testing.assert_close(folder.mean, array.mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(folder.identity, array.identity[:2], atol=0.03, rtol=0)  # the array is float16
    assert torch.equal(folder.faces, array.faces)
