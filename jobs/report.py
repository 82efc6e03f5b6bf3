"""Writes a page to look at a run: faces in 3D, distributions, failures; it opens from disk without a server.

Examples:
    python jobs/report.py --input out
    python jobs/report.py --compare out_landmarks out_meshnet --output comparison
"""

from raylib.cli import main
from raylib.config import ReportConfig


def run(config: ReportConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from rich.console import Console

    from raylib.report.choice import write_page_of

    console = Console()
    console.print(f"report    {write_page_of(config, console)}", soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    main(run, ReportConfig, __doc__ or "")
