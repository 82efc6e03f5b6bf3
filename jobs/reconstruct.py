"""Reconstructs the faces of a folder or bucket of photographs: rows, meshes, textures, previews and a report.

Examples:
    python jobs/reconstruct.py --input photos --output out
    python jobs/reconstruct.py --input photos --output out --refine 30
    python jobs/reconstruct.py --input s3://bucket/portraits --output s3://bucket/meshes --dry-run
    python jobs/reconstruct.py --input photos --output out --faces.hog-upsample 1 --retry failed
"""

from raylib.config import ReconstructConfig
from raylib.runtime.command import Command, main


def run(config: ReconstructConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from raylib.reconstruction.run import reconstruct
    from raylib.report.choice import report_at_end

    status = reconstruct(config)
    if config.write_report:
        report_at_end(config.output, config.storage_options)
    return status


def plan(config: ReconstructConfig) -> None:
    """Says what a run would do."""
    from rich.console import Console

    from raylib.reconstruction.plan import print_plan

    print_plan(config, Console())


COMMAND = Command(run, ReconstructConfig, __doc__ or "", plan, continues=True, on_ray=True)

if __name__ == "__main__":
    main(COMMAND)
