"""Reconstructs the faces of a folder or bucket of photographs: rows, meshes, textures, previews and a report.

Example: python jobs/reconstruct.py --input photos --output out --faces.hog_upsample 1
"""

from raylib.cli import main
from raylib.config import ReconstructConfig


def run(config: ReconstructConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from raylib.reconstruction.run import reconstruct
    from raylib.report.reconstruction import report_run

    status = reconstruct(config)
    if config.write_report:
        report_run(config)
    return status


if __name__ == "__main__":
    main(run, ReconstructConfig, __doc__ or "")
