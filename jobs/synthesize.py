"""Makes synthetic faces with known geometry, albedo, light, pose, expression and labels, as Parquet.

Examples:
    python jobs/synthesize.py --output out/synthetic --count 1000
    python jobs/synthesize.py --config configs/synthesize.yaml --output s3://bucket/faces --dry-run
    python jobs/synthesize.py --output out/held_out --split test --count 200 --settings.size-px 512
"""

from raylib.config import SynthesizeConfig
from raylib.runtime.command import Command, main


def run(config: SynthesizeConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from raylib.synthesis.run import synthesize

    return synthesize(config)


def plan(config: SynthesizeConfig) -> None:
    """Says what a run would do."""
    from rich.console import Console

    from raylib.synthesis.run import print_plan

    print_plan(config, Console())


COMMAND = Command(run, SynthesizeConfig, __doc__ or "", plan, continues=True, on_ray=True)

if __name__ == "__main__":
    main(COMMAND)
