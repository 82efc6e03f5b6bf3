"""The public API: names and signatures, what importing costs, one photograph from every source to every file."""

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import raylib
from raylib.errors import ConfigError, ImageError

SIGNATURES = {
    "load_image": "(source, *, max_pixels=100000000, storage_options=None)",
    "FaceReconstructor": (
        "(device='cpu', *, method='meshnet', meshnet_weights='', refine=0, morphable_model='prior', faces=None, "
        "fit=None, fov_deg=30.0, segment=True, max_pixels=100000000, max_texture_px=1024)"
    ),
    "FaceReconstructor.__call__": "(self, photo, refine=None)",
    "FaceReconstructor.many": "(self, photos, refine=None)",
    "ReconstructedFace.save": "(self, path)",
    "Photo": "(rgb, focal_px=None, uri='', warning=None)",
}
NAMES = (
    "ConfigError", "FaceReconstructor", "ImageError", "Photo", "RaylibError", "ReconstructedFace", "__version__",
    "load_image",
)  # fmt: skip
ATTRIBUTES = (
    "verts_mm", "faces", "uv", "vertex_colors", "texture", "albedo", "light_sh", "sigma_mm", "camera", "landmarks_68",
    "face_box", "quality", "status",
)  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return raylib.FaceReconstructor(device="cpu")


@pytest.fixture(scope="module")
def portrait(photographs, tmp_path_factory):
    """A JPEG on its side, upright by its EXIF data, which tell the focal length."""
    path = tmp_path_factory.mktemp("photo") / "portrait.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 85
    head = Image.open(photographs / "astronaut.png").convert("RGB").crop((80, 0, 400, 340))
    head.transpose(Image.Transpose.ROTATE_90).save(path, quality=95, exif=exif)
    return path


@pytest.fixture(scope="module")
def face(model, portrait):
    (face,) = model(raylib.load_image(portrait))
    return face


def signature(of) -> str:
    parameters = inspect.signature(of).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare))


def test_names_and_signatures_are_frozen():
    assert tuple(sorted(raylib.__all__)) == tuple(sorted(NAMES))
    assert set(NAMES) <= set(dir(raylib))
    for name, expected in SIGNATURES.items():
        of = raylib
        for part in name.split("."):
            of = getattr(of, part)
        assert signature(of) == expected, name
    fields = raylib.ReconstructedFace.__dataclass_fields__
    assert tuple(name for name in fields if not name.startswith("_")) == ATTRIBUTES
    for name in ("nothing", "_private"):
        with pytest.raises(AttributeError, match=name):
            getattr(raylib, name)


def test_importing_is_light_and_changes_nothing():
    script = (
        "import json, os, sys, time; before = dict(os.environ), set(sys.modules); start = time.process_time()\n"
        "import raylib; seconds = time.process_time() - start\n"
        "print(json.dumps([seconds, sorted(set(sys.modules) - before[1]), dict(os.environ) == before[0]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, loaded, unchanged = json.loads(done.stdout)
    assert unchanged
    assert {name.partition(".")[0] for name in loaded}.isdisjoint(
        {"torch", "ray", "numpy", "numba", "dlib", "PIL", "pyarrow", "fsspec"}
    )
    # Some modules of the standard library, and nothing that takes time.
    assert {name for name in loaded if name.startswith("raylib")} == {"raylib"} and len(loaded) < 20


def test_using_the_model_needs_no_ray_and_changes_no_environment():
    script = (
        "import json, os, sys; before = dict(os.environ)\n"
        "import raylib; raylib.FaceReconstructor, raylib.load_image\n"
        "print(json.dumps([sorted(sys.modules), dict(os.environ) == before]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded, unchanged = json.loads(done.stdout)
    assert unchanged and "torch" in loaded
    assert {"ray", "pytorch3d", "raylib.reconstruction"}.isdisjoint(loaded)


def test_attributes_have_the_documented_shapes(face):
    v, f = len(face.verts_mm), len(face.faces)
    shapes = {
        "verts_mm": (v, 3), "faces": (f, 3), "uv": (v, 2), "vertex_colors": (v, 3), "albedo": (v, 3),
        "light_sh": (9, 3), "sigma_mm": (v,), "landmarks_68": (68, 2), "face_box": (4,),
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(face, name)
        assert value.shape == shape and np.isfinite(value).all(), name
    assert face.status == "ok" and 0.5 < face.quality <= 1
    assert 100 < np.ptp(face.verts_mm[:, 1]) < 400
    assert face.albedo.min() >= 0 and face.albedo.max() <= 1 and face.sigma_mm.min() > 0
    # The mesh lies where the face is.
    projected = face.camera.project(torch.from_numpy(face.verts_mm)[None])[0].numpy()
    assert (projected.min(0) < face.landmarks_68.min(0) + 10).all()
    assert (projected.max(0) > face.landmarks_68.max(0) - 10).all()


def test_every_suffix_comes_back(face, tmp_path):
    for suffix in (".glb", ".obj", ".ply", ".npz", ".png"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        face.save(folder / f"my portrait{suffix}")
        assert (folder / f"my portrait{suffix}").stat().st_size > 1000
        beside = {path.suffix for path in folder.iterdir()} - {suffix}
        assert beside == ({".mtl", ".png"} if suffix == ".obj" else set())
    glb = trimesh.load(tmp_path / "glb" / "my portrait.glb", process=False)
    (mesh,) = glb.dump() if hasattr(glb, "dump") else [glb]
    np.testing.assert_allclose(mesh.vertices * 1000, face.verts_mm, atol=1e-3)
    np.testing.assert_array_equal(mesh.faces, face.faces)
    ply = trimesh.load(tmp_path / "ply" / "my portrait.ply", process=False)
    np.testing.assert_array_equal(ply.vertices.astype(np.float32), face.verts_mm)
    np.testing.assert_array_equal(ply.faces, face.faces)
    assert np.abs(ply.visual.vertex_colors[:, :3] / 255 - face.vertex_colors).max() <= 0.5 / 255 + 1e-6
    obj = trimesh.load(tmp_path / "obj" / "my portrait.obj", process=False, maintain_order=True)
    np.testing.assert_allclose(obj.triangles, face.verts_mm[face.faces], atol=1e-3)
    np.testing.assert_array_equal(np.asarray(obj.visual.material.image.convert("RGB")), face.texture)
    with np.load(tmp_path / "npz" / "my portrait.npz") as arrays:
        for name in set(ATTRIBUTES) - {"camera"}:
            np.testing.assert_array_equal(arrays[name], getattr(face, name), err_msg=name)
        for name, value in (
            ("R", face.camera.R),
            ("T_mm", face.camera.T),
            ("principal_px", face.camera.principal_px),
        ):
            np.testing.assert_array_equal(arrays[name], value[0].numpy())
        assert arrays["focal_px"] == float(face.camera.focal_px)
    with Image.open(tmp_path / "png" / "my portrait.png") as picture:
        assert picture.width > 1000


def test_every_source_gives_the_same_photograph(portrait):
    photo = raylib.load_image(portrait)
    assert photo.rgb.dtype == np.uint8 and photo.rgb.shape == (340, 320, 3) and photo.uri == str(portrait)
    assert photo.focal_px == pytest.approx(85 / 43.2666 * np.hypot(340, 320), rel=1e-4)
    for source in (str(portrait), f"file://{portrait}", portrait.read_bytes(), Image.open(portrait)):
        other = raylib.load_image(source)
        np.testing.assert_array_equal(other.rgb, photo.rgb)
        assert other.focal_px == photo.focal_px
    array = raylib.load_image(photo.rgb)
    np.testing.assert_array_equal(array.rgb, photo.rgb)
    assert array.focal_px is None
    grey = photo.rgb[..., 1]
    np.testing.assert_array_equal(raylib.load_image(grey).rgb, np.repeat(grey[..., None], 3, axis=2))
    clear = np.dstack([photo.rgb, np.zeros_like(grey)])
    assert (raylib.load_image(clear).rgb == 255).all()


def test_an_image_of_any_mode_is_a_photograph(photographs):
    with Image.open(photographs / "astronaut.png") as image:
        small = image.convert("RGB").resize((60, 60))
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "1"):
        converted = small.convert("L").convert("I;16") if mode == "I;16" else small.convert(mode)
        assert raylib.load_image(converted).rgb.shape == (60, 60, 3), mode
    assert np.abs(raylib.load_image(small.convert("CMYK")).rgb.astype(int) - np.asarray(small)).mean() < 25


def test_many_equals_single_calls_from_any_source(model, portrait, face, photographs):
    none = np.full((120, 120, 3), 90, np.uint8)
    assert model(none) == []
    made = model.many([portrait, none, portrait.read_bytes()])
    assert [len(faces) for faces in made] == [1, 0, 1]
    for (other,) in (made[0], made[2]):
        for name in set(ATTRIBUTES) - {"camera", "status", "quality"}:
            np.testing.assert_array_equal(getattr(other, name), getattr(face, name), err_msg=name)
        assert (other.status, other.quality) == (face.status, face.quality)
    assert model.many([]) == []


def test_refining_is_asked_for_call_by_call(model, portrait, face):
    (refined,) = model(portrait, refine=2)
    assert 1e-3 < np.linalg.norm(refined.verts_mm - face.verts_mm, axis=1).mean() < 5


def test_the_job_gives_the_same_vertices(model, portrait, face, tmp_path):
    from raylib.config import ReconstructConfig
    from raylib.io.storage import Location
    from raylib.pipeline import load_method
    from raylib.reconstruction.detect_stage import Analyser, AnalysisSettings, ImageFile
    from raylib.reconstruction.mesh_stage import MeshingSettings, ReconstructStage

    config = ReconstructConfig("in", str(tmp_path))
    analyse = Analyser(AnalysisSettings(config.faces, config.max_pixels, config.max_texture_px, 60.0))
    threads = torch.get_num_threads()
    try:
        stage = ReconstructStage(load_method(config), Location(str(tmp_path)), MeshingSettings(config, ""))
        (row,) = stage.rows([analyse(ImageFile("a", portrait.read_bytes()))])
    finally:
        torch.set_num_threads(threads)
    assert row["status"] == face.status and row["quality"] == pytest.approx(face.quality, abs=1e-4)
    assert np.abs(row["verts_mm"].reshape(-1, 3) - face.verts_mm).max() < 1e-4
    np.testing.assert_allclose(row["landmarks_68"].reshape(68, 2), face.landmarks_68)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "tpu"}, "device is 'tpu', expected cpu or cuda"),
        ({"method": "magic"}, "method is 'magic', expected one of"),
        ({"fov_deg": 1.0}, "fov_deg is 1.0, expected"),
        ({"segment": False}, "segment is False, expected true"),
        ({"refine": -1}, "refine is -1, expected"),
        ({"max_texture_px": 1000}, "max_texture_px is 1000, expected"),
        ({"meshnet_weights": "/nowhere/w.safetensors"}, "/nowhere/w.safetensors"),
        ({"method": "landmarks", "morphable_model": "/nowhere/m.bin"}, "/nowhere/m.bin"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(options, sentence):
    with pytest.raises(ConfigError) as error:
        raylib.FaceReconstructor(**options)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_written_are_one_sentence(model, face, tmp_path):
    for path in (tmp_path / "a.stl", tmp_path / "a", tmp_path / "none" / "a.glb"):
        with pytest.raises(ConfigError) as error:
            face.save(path)
        assert str(path) in str(error.value) and "expected" in str(error.value)
    with pytest.raises(ConfigError, match="refine is -1"):
        model(np.zeros((50, 50, 3), np.uint8), refine=-1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "status"),
    [
        (b"", "decode_error"),
        (b"no image at all", "decode_error"),
        ("/nowhere/a.jpg", "error"),
        ("memory://nowhere/a.jpg", "error"),
        (np.zeros((4, 4, 3), np.float32), "decode_error"),
        (np.zeros((4, 4, 2), np.uint8), "decode_error"),
        (np.zeros((0, 4, 3), np.uint8), "decode_error"),
        (7, "decode_error"),
    ],
)
def test_what_is_no_photograph_is_an_image_error(source, status):
    with pytest.raises(ImageError) as error:
        raylib.load_image(source)
    assert error.value.status == status and "\n" not in str(error.value)
    if isinstance(source, str):
        assert repr(source) in str(error.value)


def test_a_photograph_over_the_limit_is_refused(portrait, tmp_path):
    for source in (portrait, portrait.read_bytes(), Image.open(portrait), np.zeros((200, 200, 3), np.uint8)):
        with pytest.raises(ImageError) as error:
            raylib.load_image(source, max_pixels=1000)
        assert error.value.status == "too_large"
    with pytest.raises(ImageError):
        raylib.load_image(tmp_path)
