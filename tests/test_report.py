"""The page of a reconstruction without a browser: what it holds, what it must not hold, how large it is."""

import base64
import hashlib
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_runs import HOSTILE, add_files, face_rows, failed_rows, png, write_run
from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.io.storage import Location
from raylib.morphable.model import load_prior
from raylib.report.choice import report_at_end
from raylib.report.geometry import SIGMA_STEP_MM, STEP_MM, SharedTopology, pack_mesh
from raylib.report.index import FIGURES, choose, figure_values, read_index
from raylib.report.page import DATA_FOLDER, json_text
from raylib.report.reconstruction import FACES_A_PACK, write_report

WEB = Path(__file__).resolve().parents[1] / "raylib" / "report" / "web"


def report(output: Path, **settings) -> str:
    path = write_report(ReportConfig(input=str(output), **settings), Console(file=io.StringIO()))
    assert path == str(output / "report.html")
    return Path(path).read_text()


def block(html: str, name: str):
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def unpacked(mesh: dict, size: int) -> dict[str, np.ndarray]:
    """Reads what the page's script reads, the other way to do it: NumPy's cumulative sums."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(mesh["data"])), np.uint8)
    out, at = {}, 0
    for name in mesh["arrays"]:
        columns = {"verts": 3, "sigma": 1, "albedo": 3, "colors": 3}.get(name, 1)
        wide = name in ("verts", "sigma")
        raw = data[at : at + size * columns * (2 if wide else 1)]
        at += len(raw)
        if name == "source":
            out[name] = raw
            continue
        if wide:
            raw = np.ascontiguousarray(raw.reshape(2, -1).T).view("<i2").ravel()
        out[name] = np.cumsum(raw.reshape(columns, size), axis=1, dtype=raw.dtype).T.squeeze()
    assert at == len(data)
    return out


def test_a_packed_mesh_comes_back_to_its_step():
    prior = load_prior()
    base, rng = prior.mean.numpy(), np.random.default_rng(0)
    verts = base + rng.normal(0, 8, base.shape).astype(np.float32)
    sigma = rng.gamma(2, 0.7, len(base)).astype(np.float32)
    albedo, seen = rng.random(base.shape, np.float32), rng.random(len(base), np.float32)
    source = rng.integers(0, 3, len(base)).astype(np.uint8)
    mesh = pack_mesh(verts, base, visibility=seen, source=source, albedo=albedo, colors=None, sigma=sigma)
    assert mesh["arrays"] == ["verts", "visibility", "source", "albedo", "sigma"]
    got = unpacked(mesh, len(base))
    assert np.abs(base + got["verts"] * STEP_MM - verts).max() < 0.51 * STEP_MM
    assert np.abs(got["sigma"] * SIGMA_STEP_MM - sigma).max() < 0.51 * SIGMA_STEP_MM
    assert np.array_equal(got["source"], source)
    assert np.abs(got["visibility"] / 255 - seen).max() < 0.51 / 255
    encoded = got["albedo"] / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    assert np.abs(linear - albedo).max() < 0.006  # half a step of sRGB where it is steepest


def test_json_in_a_page_ends_no_script_and_is_no_number_that_json_lacks():
    value = {"name": list(HOSTILE), "odd": "\udcff.jpg", "figures": [1.0, float("nan"), 1 / 3]}
    text = json_text(value)
    assert "<" not in text and "\u2028" not in text
    back = json.loads(text.encode())
    assert back["name"] == list(HOSTILE) and back["figures"] == [1, None, 0.33333] and back["odd"] == "\udcff.jpg"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """A run of good faces with files, two of them in one image, and of failures with hostile names."""
    output = tmp_path_factory.mktemp("mixed") / "out"
    rows = face_rows(5)
    rows[1] |= {"image_uri": rows[0]["image_uri"], "image_sha256": rows[0]["image_sha256"], "face_index": 1}
    rows[1]["face_id"] = rows[0]["face_id"].replace("-0", "-1")
    add_files(output, rows)
    return write_run(output, rows + failed_rows())


def test_the_page_holds_the_run(mixed):
    html = report(mixed)
    data = block(html, "data")
    assert data["totals"]["images"] == 9 and data["totals"]["faces"] == 5
    assert data["totals"]["images_with_several_faces"] == 1
    assert data["totals"]["images_by_status"] == {
        "ok": 4, "decode_error": 1, "timeout": 1, "no_face": 1, "native_crash": 1, "too_large": 1
    }  # fmt: skip
    rows = data["rows"]
    assert [rows["folder"]["texts"][c] + n for c, n in zip(rows["folder"]["codes"], rows["name"], strict=True)][
        5:
    ] == [f"/photographs/{name}" for name in HOSTILE]
    # Everything that a run names lies where the page's links point.
    for row, bits in zip(read_index(Location(str(mixed))).to_pylist()[:5], rows["files"][:5], strict=True):
        assert bits == 0b1111
        sha, face_id = row["face_id"].split("-")[0], row["face_id"]
        for column, end in {"obj": ".obj", "glb": ".glb", "texture": ".png", "preview": "-preview.png"}.items():
            assert row[f"{column}_uri"] == f"meshes/{sha}/{face_id}{end}"
    assert set(rows["figures"]) == {f.key for f in FIGURES} - {"photometric_psnr", "sigma_mean_mm"}
    for figure in data["figures"]:
        assert sum(figure["counts"]) == figure["n"] and len(figure["edges"]) == len(figure["counts"]) + 1
    faces = block(html, "pack-faces0")
    assert len(faces) == 5 and all("photo" in face and "texture" in face for face in faces)
    verts = np.asarray(face_rows(5)[3]["verts_mm"]).reshape(-1, 3)
    got = load_prior().mean.numpy() + unpacked(faces[3]["mesh"], len(verts))["verts"] * STEP_MM
    assert np.abs(got - verts).max() < 0.51 * STEP_MM
    assert [thumb is not None for thumb in block(html, "pack-thumbs0")] == [True] * 5 + [False] * 5


def test_the_page_may_run_its_own_script_and_load_nothing(mixed):
    html = report(mixed)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None and "default-src 'none'" in policy[1] and "connect-src" not in policy[1]
    code = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(code) == 1
    assert base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode() in policy[1]
    outside = re.findall(r"""(?:src|href)=["'](?!data:)([^"']+)""", html.replace(code[0], ""))
    assert outside == []


def test_a_large_run_goes_beside_the_page_and_old_pieces_go(mixed):
    first = report(mixed, page_mb=0.001)
    pieces = sorted(p.name for p in (mixed / DATA_FOLDER).iterdir())
    assert pieces == ["report-faces0.js", "report-thumbs0.js"] and 'id="pack-' not in first
    call = (mixed / DATA_FOLDER / "report-faces0.js").read_text()
    start = 'physfacePack("faces0",'
    assert call.startswith(start) and len(json.loads(call[len(start) : -3])) == 5
    assert 'id="pack-faces0"' in report(mixed) and not list((mixed / DATA_FOLDER).iterdir())


def test_what_too_large_a_run_lists(tmp_path):
    rows = face_rows(30)
    rows[7]["landmark_nme"] = 0.9
    output = write_run(tmp_path / "out", rows + failed_rows())
    table = read_index(Location(str(output)))
    chosen = choose(table, figure_values(table), 12)
    assert len(chosen) == 12 and sorted(set(chosen)) == chosen.tolist()
    assert 7 in chosen and sum(i >= 30 for i in chosen) >= 3
    data = block(report(output, max_faces=12), "data")
    assert data["rows"]["count"] == 12 and data["totals"]["rows"] == 35
    assert data["figures"][0]["n"] == 30  # distributions count all
    assert sum(place is not None for place in data["rows"]["place"]) == len(chosen[chosen < 30])


@pytest.mark.parametrize("privacy", ["no_pixels", "landmarks_only"])
def test_privacy_keeps_pixels_out(tmp_path, privacy, photographs):
    """Even where pictures lie in the output, and the photograph where the row says."""
    rows = face_rows(2)
    photo = photographs / "astronaut.png"
    rows[0] |= {"image_uri": str(photo), "image_sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}
    loud = np.full((64, 64, 3), (255, 0, 255), np.uint8)
    output = tmp_path / "out"
    add_files(output, rows, texture=png(loud), preview=png(np.tile(loud, (5, 25, 1))[:288, :1440]))
    html = report(write_run(output, rows, privacy=privacy))
    for face in block(html, "pack-faces0"):
        assert "photo" not in face and "texture" not in face
    for (thumb,) in block(html, "pack-thumbs0"):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumb)))).astype(int)
        assert np.ptp(picture, axis=2).max() < 8  # grey clay


def test_hidden_names_stay_hidden_and_their_photographs_unread(tmp_path, photographs):
    photo = photographs / "astronaut.png"
    shown = {"image_uri": str(photo), "image_sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}
    rows = face_rows(1)
    rows[0] |= shown
    seen = block(report(write_run(tmp_path / "seen", rows)), "pack-faces0")[0]
    assert "photo" in seen
    hidden = report(write_run(tmp_path / "Ada Lovelace", rows, hide_names=True))
    assert "photo" not in block(hidden, "pack-faces0")[0] and "Lovelace" not in hidden
    assert "photo" not in block(report(tmp_path / "seen", photographs=False), "pack-faces0")[0]
    rows[0]["image_sha256"] = "0" * 64  # another photograph has taken its place
    assert "photo" not in block(report(write_run(tmp_path / "changed", rows)), "pack-faces0")[0]


def test_a_run_that_did_not_end_shows_what_lies_there(tmp_path, photographs):
    photo = photographs / "astronaut.png"
    rows = face_rows(FACES_A_PACK + 1)
    rows[0] |= {"image_uri": str(photo), "image_sha256": hashlib.sha256(photo.read_bytes()).hexdigest()}
    output = tmp_path / "out"
    add_files(output, rows[1:])
    write_run(output, rows)
    (output / "run.json").unlink()
    html = report(output)
    first, second = block(html, "pack-faces0")[:2]
    assert "photo" not in first and "texture" in second  # nobody said that photographs may be read
    assert len(block(html, "pack-faces1")) == 1
    # Without run.json the model is not known: a GLB tells the topology.
    assert block(html, "data")["rows"]["topologies"]["2113"]["verts"] == 2113
    assert first["anchors"] == [-1] * 68 and first["distances_px"] == [None] * 68


def test_the_topology_of_a_glb_is_the_model_s(mixed):
    prior = SharedTopology.of_model(load_prior())
    glb = next((mixed / "meshes").rglob("*.glb")).read_bytes()
    got = SharedTopology.of_glb(glb, "prior")
    assert np.array_equal(got.faces, prior.faces) and np.abs(got.uv - prior.uv).max() < 1e-6
    broken = glb.replace(b"TEXCOORD_0", b"TEXCOORD_9")
    with pytest.raises(ValueError, match="TEXCOORD_0"):
        SharedTopology.of_glb(broken, "")


def test_inputs_that_are_no_run_are_said_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run: expected run.json or faces/\*.parquet in it"):
        report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        report(tmp_path)
    with pytest.raises(ConfigError, match="expected the output of a run, or several"):
        ReportConfig()
    with pytest.raises(ConfigError, match="at least two runs"):
        ReportConfig(compare=["a"])


def test_a_run_outlives_its_report(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "part-0.parquet").write_bytes(b"no table")
    console = Console(file=io.StringIO(), width=200)
    report_at_end(str(tmp_path), console=console)
    assert "no report (" in console.file.getvalue() and "jobs/report.py" in console.file.getvalue()


def test_the_committed_script_is_built_from_the_sources():
    names = sorted(p.name for p in (WEB / "src").iterdir())
    digest = hashlib.sha256()
    for path in [*(WEB / "src" / name for name in names), WEB / "build.mjs", WEB / "package-lock.json"]:
        digest.update(path.read_bytes())
    script = (WEB.parent / "assets" / "report.js").read_text()
    assert digest.hexdigest() in script.partition("\n")[0], "make report-assets"
    assert "</script" not in script.lower()
    lock = json.loads((WEB / "package-lock.json").read_text())
    assert all("resolved" not in package for package in lock["packages"].values())
    licence = (WEB.parent / "assets" / "THREE-LICENSE").read_text()
    assert "MIT License" in licence and "three.js" in licence
