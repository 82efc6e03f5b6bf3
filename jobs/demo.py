"""Runs the reconstruction on photographs that installed packages carry, and on a damaged file.

Example: python jobs/demo.py
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from raylib.config import ReconstructConfig

PHOTOGRAPHS = {
    "astronaut.png": "astronaut.png",
    "camera.png": "man with camera.png",
    "chelsea.png": "cat.png",
    "coffee.png": "coffee cup.png",
}
"""Photographs of scikit-image (public domain or CC0), and the names that they get."""


def write_photographs(folder: Path) -> None:
    """Fills a folder with the photographs and one file that ends too early."""
    spec = find_spec("skimage")
    assert spec is not None and spec.origin is not None
    folder.mkdir(parents=True, exist_ok=True)
    for source, name in PHOTOGRAPHS.items():
        shutil.copyfile(Path(spec.origin).parent / "data" / source, folder / name)
    whole = (folder / "astronaut.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 3])


if __name__ == "__main__":
    from raylib.reconstruction.run import reconstruct
    from raylib.report.reconstruction import report_run

    out = Path("out/demo")
    write_photographs(out / "photographs")
    photographs, faces = str(out / "photographs"), str(out / "faces")
    config = ReconstructConfig(input=photographs, output=faces, method="meshnet", refine=30)
    status = reconstruct(config)
    report_run(config)
    sys.exit(status)
