"""The page in a real browser: it asks for nothing, complains of nothing, and does what a person expects of it."""

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from browser import Tab, browser
from PIL import Image
from report_runs import HOSTILE, add_files, face_rows, failed_rows, write_run
from rich.console import Console

from raylib.config import ReportConfig
from raylib.geometry.mesh import vertex_normals
from raylib.lighting.spherical_harmonics import self_shadow_transfer
from raylib.morphable.model import load_prior
from raylib.report.reconstruction import write_report

pytestmark = pytest.mark.slow

WEB = Path(__file__).resolve().parents[1] / "raylib" / "report" / "web"


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


def write(output: Path, **settings) -> Path:
    return Path(write_report(ReportConfig(input=str(output), **settings), Console(file=io.StringIO())))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """The page of good faces with files, two in one image, of estimated ones, and of failures with hostile names."""
    output = tmp_path_factory.mktemp("browser") / "out"
    rows = face_rows(6)
    rows[1] |= {"image_uri": rows[0]["image_uri"], "image_sha256": rows[0]["image_sha256"], "face_index": 1}
    rows[1]["face_id"] = rows[0]["face_id"].replace("-0", "-1")
    add_files(output, rows)
    estimated = face_rows(2, seed=9, estimated=True)
    for row, name in zip(estimated, ("estimated 1.jpg", HOSTILE[1]), strict=True):
        row |= {"image_uri": f"/other/{name}", "preview_uri": rows[0]["preview_uri"]}
    return write(write_run(output, rows + estimated + failed_rows()))


@pytest.fixture
def tab(chromium, mixed):
    opened = Tab(chromium, mixed)
    yield opened
    assert opened.complaints == []
    assert opened.requests == [mixed.resolve().as_uri()]
    assert opened.page.evaluate("window.hacked") is None
    opened.context.close()


def tally(tab) -> str:
    return tab.page.inner_text(".tally")


def names(tab) -> list[str]:
    """Names of the tiles in the order in which they stand."""
    return tab.page.eval_on_selector_all(
        ".tile:not([hidden])",
        """tiles => tiles.map(t => [t.getBoundingClientRect(), t.querySelector('.name').textContent])
            .sort(([a], [b]) => a.y - b.y || a.x - b.x).map(([, name]) => name)""",
    )


def base(name: str) -> str:
    """What stands after the last slash, as the page splits a path."""
    return name.rpartition("/")[2]


def changed(before: bytes, after: bytes) -> float:
    """Share of pixels that differ by more than what compression of a moving light would explain."""
    first, second = (np.asarray(Image.open(io.BytesIO(p)).convert("RGB")).astype(int) for p in (before, after))
    return float((np.abs(first - second).max(axis=2) > 4).mean())


def test_filters_search_and_order(tab):
    page = tab.page
    assert tally(tab) == "13 of 13 rows"
    errors = page.evaluate("physface.page.rows.figures.landmark_nme")
    by_error = sorted((i for i in range(13) if errors[i] is not None), key=lambda i: -errors[i])
    every = page.evaluate("physface.page.rows.name")
    assert names(tab)[:8] == [every[i] for i in by_error]
    page.click("button[title='Turn the order round']")
    assert names(tab)[-8:] == [every[i] for i in reversed(by_error)]
    page.click("[data-status=decode_error]")
    assert tally(tab) == "1 of 13 rows" and names(tab) == [base(HOSTILE[0])]
    page.click("[data-status='']")
    page.select_option("select[aria-label='Faces an image']", "more")
    assert tally(tab) == "2 of 13 rows"
    page.select_option("select[aria-label='Faces an image']", "")
    page.fill("input[type=search]", "other estim")
    assert names(tab) == ["estimated 1.jpg"]
    page.fill("input[type=search]", "nothing has this name")
    assert tally(tab) == "0 of 13 rows" and page.is_visible(".empty")
    page.fill("input[type=search]", "")
    page.click("#tab-figures")
    bar = page.locator(".bin[role=button]").first
    label = bar.get_attribute("aria-label")
    bar.click()
    assert tally(tab).split()[0] == label.rsplit(": ")[-1]  # as many rows as the bar counts


def test_hostile_names_are_text(tab):
    shown = names(tab)
    assert set(map(base, HOSTILE)) <= set(shown)
    tab.page.click("#tab-failures")
    listed = tab.page.locator(".line:not([hidden]) .name").all_text_contents()
    assert sorted(listed) == sorted(map(base, HOSTILE))
    why = tab.page.locator(".line:not([hidden]) .why").all_text_contents()
    assert any("cannot read </script><script>" in text for text in why)
    tab.page.click("#tab-faces")
    tab.open_face("</script>")
    assert tab.page.inner_text(".viewer h2") == base(HOSTILE[1])
    assert f"/other/{HOSTILE[1]}" in tab.page.locator(".viewer dd").all_text_contents()
    assert tab.page.evaluate("document.scripts.length") == 4  # data, faces, thumbnails, the page's own


def test_a_face_turns_and_the_lamp_moves(tab):
    tab.open_face("/photographs 0000")
    page = tab.page
    assert "#face=" in page.url
    page.keyboard.press("2")
    first = tab.stage()
    assert changed(first, tab.stage()) == 0
    box = page.locator(".stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 160, y + 20, steps=4)
    page.mouse.up()
    turned = tab.stage()
    assert changed(first, turned) > 0.15
    ball = page.locator(".ball").bounding_box()
    page.mouse.move(ball["x"] + 30, ball["y"] + 80)
    page.mouse.down()
    page.mouse.move(ball["x"] + 8, ball["y"] + 60, steps=3)
    page.mouse.up()
    lit = tab.stage()
    assert changed(turned, lit) > 0.15
    page.keyboard.press("s")
    assert changed(lit, tab.stage()) > 0.005  # without self-shadow
    page.keyboard.press("s")
    page.keyboard.press("w")
    assert changed(lit, tab.stage()) > 0.02
    page.keyboard.press("w")
    page.keyboard.press("r")
    page.keyboard.press("ArrowRight")
    assert changed(lit, tab.stage()) > 0.05
    heading = page.inner_text(".viewer h2")
    page.keyboard.press("j")
    page.wait_for_function("text => document.querySelector('.viewer h2').textContent !== text", arg=heading)
    page.keyboard.press("Escape")
    page.wait_for_function("() => !location.hash.includes('face=')")
    assert not page.locator(".viewer").is_visible()


def test_what_a_row_lacks_is_said(tab):
    tab.open_face("/photographs 00003")
    page = tab.page
    off = page.eval_on_selector_all("[data-view]:disabled", "all => all.map(b => b.dataset.view)")
    assert off == ["albedo", "lit", "sigma"]
    assert page.inner_text(".why-not") == "Albedo, Lit, Uncertainty: not estimated by method landmarks."
    page.keyboard.press("3")  # the key of a view that cannot be had
    assert page.locator("[data-view=texture][aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    tab.open_face("estimated")
    # Every view is there; the photograph is cast on the mesh, since the texture is albedo.
    assert page.locator("[data-view]:disabled").count() == 0
    shots = {}
    for view in ("texture", "shape", "albedo", "lit", "error", "sigma", "seen"):
        page.click(f"[data-view={view}]")
        shots[view] = tab.stage()
    for one, other in zip(list(shots)[:-1], list(shots)[1:], strict=True):
        assert changed(shots[one], shots[other]) > 0.1, (one, other)
    page.click("[data-view=lit]")
    page.locator(".light button").first.click()  # the lamp instead of the estimated light
    assert changed(shots["lit"], tab.stage()) > 0.1
    page.click("[data-view=error]")
    assert "albedo under the estimated light" in page.inner_text(".legend")


def test_the_bare_shape_in_bright_light_is_neither_white_nor_black(tab):
    """An estimated light has no scale of its own: albedo may be dark and light bright, or the other way round."""
    tab.open_face("estimated")
    page = tab.page
    page.click("[data-view=shape]")
    page.locator(".light button").nth(1).click()  # the estimated light, which is bright
    shot = np.asarray(Image.open(io.BytesIO(tab.stage())).convert("L")).astype(float)
    middle = shot[shot.shape[0] // 4 : -shot.shape[0] // 4, shot.shape[1] // 3 : -shot.shape[1] // 3]
    assert 60 < np.median(middle) < 245 and (middle > 252).mean() < 0.05


def test_a_heat_map_ends_where_nearly_all_values_lie(tab):
    tab.open_face("estimated")
    tab.page.click("[data-view=sigma]")
    sigma = np.sort(np.asarray(face_rows(2, seed=9, estimated=True)[0]["sigma_mm"]))
    top = sigma[int(0.98 * (len(sigma) - 1))]
    written = tab.page.locator(".legend span").nth(2).inner_text()
    assert written.endswith(" mm") and abs(float(written.removesuffix(" mm")) - top) < 0.06 * top


def test_the_mesh_lies_on_the_photograph(tab):
    tab.open_face("/photographs 00004")
    page = tab.page
    page.keyboard.press("o")
    page.keyboard.press("2")
    page.locator(".lamp input").nth(1).fill("100")
    page.locator(".slider input").first.fill("100")
    assert page.is_visible(".photo")
    # The silhouette on the screen is that of the projected vertices.
    shot = np.asarray(Image.open(io.BytesIO(tab.stage())).convert("RGB")).astype(int)
    side = min(shot.shape[:2])
    top, left = ((n - side) // 2 for n in shot.shape[:2])
    shown = np.abs(shot[top : top + side, left : left + side] - 90).max(axis=2) > 12  # the photograph is plain grey
    shown[[0, -1]] = shown[:, [0, -1]] = False  # its edge blends with what is behind it
    at = page.evaluate("""async () => {
        const [, index] = physface.page.rows.place[4];
        const detail = JSON.parse(document.getElementById('pack-faces0').textContent)[index];
        return {square: detail.square};
    }""")
    row = face_rows(6)[4]
    verts = np.asarray(row["verts_mm"]).reshape(-1, 3) @ np.asarray(row["R"]).reshape(3, 3).T + row["T_mm"]
    px = verts[:, :2] / verts[:, 2:] * row["focal_px"] + row["principal_px"]
    x0, y0, width = at["square"]
    on = (px - [x0, y0]) / width * side
    rows_, columns = np.nonzero(shown)
    seen = np.array([columns.min(), rows_.min(), columns.max(), rows_.max()])
    assert np.abs(seen - [*on.min(axis=0), *on.max(axis=0)]).max() < 3
    page.keyboard.press("l")
    assert page.locator(".marks circle").count() == 136


def test_self_shadow_is_the_renderer_s(tab):
    prior = load_prior()
    verts = prior.verts(torch.randn(1, len(prior.identity), generator=torch.Generator().manual_seed(3)))
    normals = vertex_normals(verts, prior.faces)
    expected = self_shadow_transfer(verts, normals, prior.faces)[0]
    got = tab.page.evaluate(
        """([verts, faces]) => {
            const v = new Float32Array(verts);
            return Array.from(physface.selfShadowTransfer(v, physface.vertexNormals(v, faces), faces));
        }""",
        [verts.flatten().tolist(), prior.faces.flatten().tolist()],
    )
    difference = (torch.tensor(got).reshape(-1, 9) - expected).abs()
    # A ray that grazes a triangle may count on one side alone.
    assert difference.mean() < 1e-5 and (difference.amax(1) > 1e-3).float().mean() < 0.01


def download(tab, kind: str, folder: Path) -> Path:
    with tab.page.expect_download() as waiting:
        tab.page.click(f"[data-save={kind}]")
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


@pytest.mark.parametrize("words", ["/photographs 00002", "estimated"])
def test_downloads_are_meshes_in_metres_and_millimetres(tab, tmp_path, words):
    tab.open_face(words)
    path = download(tab, "glb", tmp_path)
    mesh = trimesh.load(path, force="mesh", process=False)
    row = face_rows(6)[2] if "2" in words else face_rows(2, seed=9, estimated=True)[0]
    verts = np.asarray(row["verts_mm"]).reshape(-1, 3)
    assert path.stem == row["face_id"] and len(mesh.faces) == 4096
    assert np.abs(mesh.vertices * 1000 - verts).max() < 0.02
    up = mesh.vertices[load_prior().landmark_verts[27]] - mesh.vertices[load_prior().landmark_verts[8]]
    assert up[1] > 0.05  # the bridge of the nose is above the chin
    if "2" in words:
        assert mesh.visual.material.baseColorTexture.size == (64, 64)
    else:
        content = path.read_bytes()  # trimesh drops colours beside a material
        length = int.from_bytes(content[12:16], "little")
        document = json.loads(content[20 : 20 + length])
        view = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]["bufferView"]
        start = 28 + length + document["bufferViews"][view]["byteOffset"]
        stored = np.frombuffer(content, np.float32, 3 * 2113, start).reshape(-1, 3)
        assert np.abs(stored - np.asarray(row["albedo"]).reshape(-1, 3)).max() < 0.01
    assert_valid(path)
    obj = trimesh.load(download(tab, "obj", tmp_path), force="mesh", process=False)
    assert np.abs(np.sort(obj.vertices, axis=0) - np.sort(verts, axis=0)).max() < 0.02


def assert_valid(*paths: Path) -> None:
    """Asserts that the Khronos validator finds neither errors nor warnings in GLB files."""
    if shutil.which("node") is None or not (WEB / "node_modules" / "gltf-validator").is_dir():
        pytest.skip("node or npm's gltf-validator is not there")
    code = """
        const validator = require("gltf-validator"), { readFileSync } = require("fs");
        Promise.all(process.argv.slice(1).map((path) => validator.validateBytes(new Uint8Array(readFileSync(path)))))
            .then((reports) => console.log(JSON.stringify(reports.map((report) => report.issues))));
    """
    ran = subprocess.run(["node", "-e", code, *map(str, paths)], cwd=WEB, capture_output=True, text=True, check=True)
    issues = json.loads(ran.stdout)
    assert len(issues) == len(paths)
    for path, found in zip(paths, issues, strict=True):
        assert found["numErrors"] == found["numWarnings"] == 0, (path, found["messages"])


def test_the_run_s_own_glb_files_are_valid(mixed):
    files = sorted((mixed.parent / "meshes").rglob("*.glb"))
    assert len(files) == 6
    assert_valid(*files)


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone(chromium, mixed, dark):
    tab = Tab(chromium, mixed, phone=True, dark=dark)
    page = tab.page
    # Nothing is wider than the screen, and what is to be touched is large enough.
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    tab.page.locator(".tile:not([hidden])").first.tap()
    page.wait_for_selector(".viewer[data-state=complete]")
    page.locator("[data-view=shape]").tap()
    first = tab.stage()
    ball = page.locator(".ball")
    ball.scroll_into_view_if_needed()
    box = ball.bounding_box()
    page.touchscreen.tap(box["x"] + 20, box["y"] + 60)
    page.locator(".stage").scroll_into_view_if_needed()
    assert changed(first, tab.stage()) > 0.1
    for selector in (".viewer header .icon", "[data-view]", "[data-save]"):
        for box in page.locator(selector).evaluate_all("all => all.map(b => b.getBoundingClientRect().height)"):
            assert box >= 32
    back = page.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor")
    assert (sum(int(v) for v in back[4:-1].split(",")) < 200) == dark
    page.locator("[aria-label=Close]").tap()
    page.locator(".theme").tap()
    page.locator(".theme").tap()  # auto, light, dark
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(v) for v in back[4:-1].split(",")) < 200
    assert tab.complaints == [] and len(tab.requests) == 1
    tab.context.close()


def test_every_tab_fits_a_phone(chromium, tmp_path):
    failed = failed_rows(("x" * 120 + ".jpg", *HOSTILE))
    for n, row in enumerate(failed):
        row["error_message"] += n * " /a/path/without/a/blank" + n * "/and/none"
    tab = Tab(chromium, write(write_run(tmp_path / "out", face_rows(120, estimated=True) + failed)), phone=True)
    assert tab.tap_through() == 4
    told = tab.page.locator(".run").text_content()  # the last tab
    assert "Passed over by the listing" in told and "hidden1234" in told
    assert tab.complaints == []
    tab.context.close()


def test_privacy_leaves_shape_and_landmarks_to_look_at(chromium, tmp_path):
    shape = write(write_run(tmp_path / "shape", face_rows(2), privacy="no_pixels"))
    tab = Tab(chromium, shape)
    tab.open_face("")
    assert tab.page.get_attribute("[data-view=texture]", "title") == "the run keeps pixels out of its output"
    assert tab.page.locator("[data-view=shape][aria-pressed=true]").count() == 1
    assert tab.complaints == []
    tab.context.close()
    rows = face_rows(2)
    for row in rows:
        row["verts_mm"] = row["vertex_source"] = row["vertex_visibility"] = None
    tab = Tab(chromium, write(write_run(tmp_path / "points", rows, privacy="landmarks_only")))
    tab.page.click(".tile:not([hidden])")
    tab.page.wait_for_selector(".viewer[data-state=flat]")
    assert tab.page.locator(".marks circle").count() == 68 and tab.complaints == []
    tab.context.close()


def test_two_thousand_faces(chromium, tmp_path):
    rows = face_rows(2000)
    folder = tmp_path / "out"
    add_files(folder, rows[:1])
    for row in rows[1:]:  # pictures of their own would say no more of the page
        row |= {column: rows[0][column] for column in ("texture_uri", "preview_uri")}
    page_path = write(write_run(folder, rows))
    assert page_path.stat().st_size < 50e6
    tab = Tab(chromium, page_path)
    page = tab.page
    assert tally(tab) == "2,000 of 2,000 rows"
    assert page.locator("*").count() < 900  # the grid holds what the window shows
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height > 20000
    seen = set()
    for share in np.linspace(0, 1, 15):
        page.evaluate("y => scrollTo(0, y)", height * share)
        tab.drawn()
        tiles = page.locator(".tile:not([hidden])")
        assert 20 < tiles.count() < 120
        seen |= set(names(tab))
    assert len(seen) > 400 and page.locator("*").count() < 1500
    page.wait_for_function("() => document.querySelector('.tile:not([hidden]) img[src]')")
    tab.open_face("01777")
    face = page.evaluate("physface.page.rows.place[1777]")
    beside = [url.rsplit("/", 1)[-1] for url in tab.requests[1:]]
    assert beside == [f"report-{face[0]}.js"]  # one piece was loaded, from beside the page
    assert all(url.startswith("file://") for url in tab.requests) and tab.complaints == []
    tab.context.close()
