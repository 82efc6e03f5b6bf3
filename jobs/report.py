"""Writes a page to look at a run: faces in 3D, distributions, failures; it opens from disk without a server.

Examples:
    python jobs/report.py --input out
    python jobs/report.py --compare out_landmarks out_meshnet --output comparison
    python jobs/report.py --input out --page-mb 5 --photographs false --dry-run
"""

from raylib.config import ReportConfig
from raylib.runtime.command import Command, main


def run(config: ReportConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from rich.console import Console

    from raylib.report.choice import write_page_of
    from raylib.runtime.progress import say

    console = Console()
    say(console, f"report    {write_page_of(config, console)}")
    return 0


def plan(config: ReportConfig) -> None:
    """Says what a run would do."""
    from rich.console import Console

    from raylib.report.choice import print_plan

    print_plan(config, Console())


COMMAND = Command(run, ReportConfig, __doc__ or "", plan)

if __name__ == "__main__":
    main(COMMAND)
