"""600 photographs in a bucket, of which 100 are bad in thirteen ways, by a server that tells secrets."""

import io
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import yaml
from fault_runs import Run, assert_complete, make_photographs, png_header
from PIL import Image
from s3_gate import KEY, SECRET, answer, gated_s3, options

GOOD = 500


def encoded(picture: Image.Image, kind: str, **how) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def bad_ones(face: Image.Image) -> dict[str, tuple[bytes, str]]:
    """Returns 100 files by name, each with the status that its row should have; only some are beyond help."""
    numbers = random.Random(600)
    whole = encoded(face, "JPEG", quality=90)
    turned = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    def unlike(n: int) -> Image.Image:  # rows and meshes are told apart by content
        return face.point(lambda v: max(0, v - n))

    kinds: dict[str, tuple[int, str, object]] = {
        "truncated.jpg": (20, "decode_error", lambda n: whole[: numbers.randrange(1, int(0.9 * len(whole)))]),
        "wrong-type.jpg": (10, "decode_error", lambda n: encoded(face, "PDF") + bytes(n)),
        "empty.png": (10, "decode_error", lambda n: b""),
        "huge.png": (8, "too_large", lambda n: png_header(30_000, 30_000 + n)),
        "zero-size.png": (8, "decode_error", lambda n: png_header(0, n)),
        "broken-exif.jpg": (10, "ok", lambda n: encoded(unlike(n), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff" + bytes(n))),
        "broken-profile.png": (8, "ok", lambda n: encoded(unlike(20 + n), "PNG", icc_profile=b"no profile" * 20)),
        "animated.gif": (
            6,
            "ok",
            lambda n: encoded(unlike(40 + 2 * n), "GIF", save_all=True, append_images=[turned] * 3, duration=50),
        ),
        "no-image.webp": (6, "decode_error", lambda n: b"Dear reader, this is a letter." + bytes(n)),
        "forbidden.jpg": (5, "error", lambda n: whole),
        "vanished.jpg": (4, "error", lambda n: whole),
        "aborts.png": (3, "native_crash", lambda n: b"poison: abort"),
        "hangs.png": (2, "timeout", lambda n: b"poison: hangs"),
    }
    files = {}
    for name, (count, status, content) in kinds.items():
        for n in range(count):
            stem, suffix = name.split(".")
            files[f"{stem} {n:02d}.{suffix}"] = (content(n), status)
    return files


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_600_images_of_which_100_are_bad(photographs, tmp_path):
    make_photographs(tmp_path / "photos", photographs / "astronaut.png", GOOD)
    face = Image.open(photographs / "astronaut.png").convert("RGB").crop((110, 0, 350, 240))
    bad = bad_ones(face)
    assert len(bad) == 100
    expected = {f"s3://album/{name}": status for name, (_, status) in bad.items()}
    expected |= {f"s3://album/{path.name}": "ok" for path in (tmp_path / "photos").iterdir()}
    assert len(expected) == 600
    home = Path(tempfile.mkdtemp(prefix="r6"))  # short enough for Ray's sockets
    with gated_s3("album") as (gate, direct):
        for path in (tmp_path / "photos").iterdir():
            direct.pipe(f"album/{path.name}", path.read_bytes())
        for name, (content, _) in bad.items():
            direct.pipe(f"album/{name}", content)

        def rule(head: str) -> bytes | None:
            verb, path = head.split(" ", 2)[:2]
            path = path.split("?")[0]
            # Some servers refuse to tell the size, which has no words; the others refuse to tell the content.
            if "forbidden" in path and (verb == "GET" or path.endswith("00.jpg")):
                return answer("403 Forbidden", f"{KEY} may not read this, although its secret is {SECRET}")
            if "vanished" in path and verb in ("GET", "HEAD"):  # it was there when the bucket was listed
                direct.rm_file(path.lstrip("/").replace("%20", " "))
            return None

        gate.rule = rule
        settings = home / "job.yaml"
        settings.write_text(yaml.safe_dump({"storage_options": options(gate.url)}))
        arguments = ["--config", str(settings), "--input", "s3://album", "--output", str(tmp_path / "out")]
        arguments += ["--method", "landmarks", "--faces.detector", "hog", "--segment", "false"]
        arguments += ["--write_preview", "false", "--write_obj", "false", "--max_texture_px", "128"]
        arguments += ["--image_timeout_s", "8"]
        runs = []
        try:
            runs.append(Run(home / "a", [*arguments, "--max_failed_fraction", "0.12"]))
            assert runs[-1].wait(800) == 1, runs[-1].log.read_text()[-3000:]
            assert "76 of 600 images failed" in runs[-1].log.read_text()
            statuses = assert_complete(tmp_path / "out", set(expected))
            assert statuses == expected
            assert Counter(statuses.values())["ok"] == GOOD + 24
            runs.append(Run(home / "b", [*arguments, "--max_failed_fraction", "0.13"]))
            assert runs[-1].wait(300) == 0, runs[-1].log.read_text()[-3000:]
            assert "0 images processed now" in runs[-1].log.read_text()
            # Neither what we write nor what Ray writes beside it may hold credentials, whoever gave them away.
            settings.unlink()
            for path in [*home.rglob("*"), *(tmp_path / "out").rglob("*")]:
                if path.is_file():
                    content = path.read_bytes()
                    assert SECRET.encode() not in content and KEY.encode() not in content, path
        finally:
            for run in runs:
                run.end()
            shutil.rmtree(home, ignore_errors=True)
