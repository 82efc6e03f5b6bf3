"""Runs the reconstruction on photographs that installed packages carry, and on a damaged file.

Examples:
    python jobs/demo.py
    python jobs/demo.py --output out/quick --refine 0
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from raylib.config import DemoConfig, ReconstructConfig
from raylib.runtime.command import Command, main

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


def run(config: DemoConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from raylib.reconstruction.run import reconstruct
    from raylib.report.choice import report_at_end

    out = Path(config.output)
    write_photographs(out / "photographs")
    photographs, faces = str(out / "photographs"), str(out / "faces")
    job = ReconstructConfig(input=photographs, output=faces, refine=config.refine)
    status = reconstruct(job)
    report_at_end(job.output)
    return status


def plan(config: DemoConfig) -> None:
    """Says what a run would do."""
    for name in (*PHOTOGRAPHS.values(), "truncated.png"):
        print(f"would write and reconstruct {config.output}/photographs/{name}")
    print(f"would write rows, meshes and report.html to {config.output}/faces")


COMMAND = Command(run, DemoConfig, __doc__ or "", plan, continues=True, on_ray=True)

if __name__ == "__main__":
    main(COMMAND)
