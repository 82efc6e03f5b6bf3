"""The pages of trainings and of comparisons: what belongs together, and that a browser shows it without complaint."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import trimesh
from browser import Tab, browser
from report_runs import face_rows, failed_rows, png, write_run
from rich.console import Console

from raylib.config import ReportConfig
from raylib.errors import ConfigError
from raylib.geometry.subdivision import hemisphere
from raylib.report.choice import write_page_of
from raylib.report.comparison import matched, run_names
from raylib.report.training import charts


def page_of(**settings) -> Path:
    return Path(write_page_of(ReportConfig(**settings), Console(file=io.StringIO())))


def write_training(folder: Path, rate: float, epochs: int = 4) -> Path:
    (folder / "strip").mkdir(parents=True)
    history = [
        {"epoch": e, "loss": 1 / e, "val_loss": 1.2 / e, "val_f1_hair": 0.5, "val_f1_skin": 0.6, "rate": rate}
        for e in range(1, epochs + 1)
    ]
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "run.json").write_text(json.dumps({"job": "train_meshnet", "config": {"learning_rate": rate}}))
    for e in range(1, epochs + 1):
        (folder / "strip" / f"epoch_{e:04d}.png").write_bytes(png(np.full((20, 60, 3), 50 * e, np.uint8)))
    (folder / "strip" / "original.png").write_bytes(png(np.full((20, 60, 3), 90, np.uint8)))
    (folder / "figure_9_faces.png").write_bytes(png(np.zeros((30, 30, 3), np.uint8)))
    dome = hemisphere(3)
    colors = np.full((len(dome.verts), 3), 200, np.uint8)
    trimesh.Trimesh(dome.verts.numpy(), dome.faces.numpy(), vertex_colors=colors, process=False).export(
        folder / "face_0.glb"
    )
    return folder


def test_terms_share_a_plot_with_their_validation_and_classes_share_one():
    history = [{"epoch": e, "mse": 1.0, "val_mse": 2.0, "val_f1_hair": 0.1, "val_psnr_db": 20.0} for e in (1, 2)]
    got = {chart["title"]: chart["lines"] for chart in charts([history, history[:1]])}
    assert list(got) == ["mse", "validation f1 by class", "validation psnr db"]
    assert [(line["run"], line["name"]) for line in got["mse"]] == [
        (0, "training"), (0, "validation"), (1, "training"), (1, "validation")
    ]  # fmt: skip
    assert got["mse"][0]["x"] == [1, 2] and got["mse"][3]["y"] == [2.0]


def test_a_network_shares_plots_with_what_it_is_compared_with():
    names = ("loss", "vertex", "val_vertex_mm", "cascade_vertex_mm", "fit_vertex_mm", "mean_vertex_mm", "mean_loss")
    got = {chart["title"]: chart["lines"] for chart in charts([[{"epoch": 1} | dict.fromkeys(names, 1.0)]])}
    assert list(got) == ["loss", "vertex", "validation vertex mm", "mean loss"]
    lines = [line["name"] for line in got["validation vertex mm"]]
    assert lines == ["network", "after the cascade", "landmark fit", "mean face"]


def test_names_of_runs_tell_them_apart():
    assert run_names(["/a/one/out", "/a/two/out/"], [False, False]) == ["one/out", "two/out"]
    assert run_names(["s3://b/x", "s3://b/y"], [False, True]) == ["x", "run 2"]
    assert run_names(["/a", "/a"], [False, False]) == ["/a (1)", "/a (2)"]


def test_faces_belong_together_by_bytes_and_boxes():
    def table(*rows):
        names = ("image_sha256", "face_index", "face_box")
        kinds = (pa.string(), pa.int32(), pa.list_(pa.float32()))
        columns = zip(*rows, strict=True)
        return pa.table({n: pa.array(c, k) for n, c, k in zip(names, columns, kinds, strict=True)})

    one = table(("p", 0, [0, 0, 10, 10]), ("p", 1, [50, 0, 60, 10]), ("q", None, None), ("only", 0, [0, 0, 9, 9]))
    two = table(("q", None, None), ("p", 0, [51, 0, 61, 10]), ("p", 1, [1, 1, 11, 11]), ("p", 2, [90, 0, 99, 9]))
    assert matched([one, two]) == [[0, 2], [1, 1], [None, 3], [2, 0]]
    far = table(("p", 0, [8, 0, 18, 10]), ("q", 0, [0, 0, 5, 5]))
    assert matched([one, far]) == [[0, None], [1, None], [None, 0], [2, None], [None, 1]]


def test_what_cannot_be_compared_is_said(tmp_path):
    training = write_training(tmp_path / "t", 0.1)
    run = write_run(tmp_path / "run", face_rows(1))
    with pytest.raises(ConfigError, match="reconstructions or trainings, not some of each"):
        page_of(compare=[str(training), str(run)])
    other = write_run(tmp_path / "other", face_rows(1, seed=5))
    with pytest.raises(ConfigError, match="these share none"):
        page_of(compare=[str(run), str(other)])
    (training / "history.json").unlink()
    with pytest.raises(ConfigError, match=r"has no history\.json"):
        page_of(input=str(training))


@pytest.mark.slow
def test_both_in_a_browser(tmp_path):
    first, second = (write_training(tmp_path / name, rate) for name, rate in (("a", 0.1), ("b", 0.2)))
    rows, changed = face_rows(3) + failed_rows(), face_rows(3)
    for row in changed:
        row["landmark_nme"] *= 2
    changed[2]["status"] = "error"
    runs = [write_run(tmp_path / "one", rows), write_run(tmp_path / "two", changed + failed_rows())]
    pages = [page_of(input=str(first)), page_of(compare=[str(first), str(second)])]
    pages.append(page_of(compare=list(map(str, runs))))
    assert [p.name for p in pages] == ["report.html", "comparison.html", "comparison.html"]
    with browser() as running:
        for page_path, columns in zip(pages[:2], (1, 2), strict=True):
            tab = Tab(running, page_path)
            assert tab.page.locator(".chart").count() == 3
            assert tab.page.locator(".chart polyline").count() == columns * 5
            for axis in tab.page.locator(".chart").all():
                ticks = axis.locator("text[text-anchor=end]").all_text_contents()[:-1]  # the last is the epoch's
                assert 2 <= len(set(ticks)) == len(ticks) <= 8
            tab.page.click("#tab-strips")
            tab.page.wait_for_selector(".truth[src]")
            assert tab.page.locator(".truth").count() == columns
            before = tab.page.wait_for_selector(".strip[src]").get_attribute("src")
            tab.page.locator(".epochs input").first.fill("0")
            tab.page.wait_for_function("before => document.querySelector('.strip').src !== before", arg=before)
            assert tab.page.locator(".epochs output").first.inner_text() == "epoch 1"
            tab.page.click("#tab-meshes")
            tab.page.locator("[data-mesh=face_0]").first.click()
            tab.page.wait_for_selector(".viewer[data-state=complete]")
            shown = tab.stage()
            tab.page.click("[data-look=shape]")
            assert tab.stage() != shown
            tab.page.click(".viewer [aria-label=Close]")
            tab.page.click("#tab-run")
            differs = tab.page.locator(".side-by-side tbody th").all_text_contents()
            assert differs == (["learning_rate"] if columns == 2 else [])
            assert tab.complaints == [] and len(tab.requests) == 1
        tab = Tab(running, pages[2])
        assert tab.page.inner_text(".tally").startswith("4 of 4 faces")  # failures of one hash are one photograph
        tab.page.click(".tile:not([hidden])")
        tab.page.wait_for_selector(".viewer[data-state=complete]")
        facts = tab.page.inner_text(".panel dl")
        tab.page.keyboard.press("b")
        tab.page.wait_for_function("facts => document.querySelector('.panel dl').innerText !== facts", arg=facts)
        assert tab.page.locator(".variants [aria-pressed=true]").inner_text().startswith("two")
        assert tab.complaints == [] and len(tab.requests) == 1
        for page_path, tabs in zip(pages, (5, 5, 3), strict=True):
            assert Tab(running, page_path, phone=True).tap_through() == tabs
