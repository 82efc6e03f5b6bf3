"""Makes synthetic faces with known geometry, albedo, light, pose, expression and labels, as Parquet.

Example: python jobs/synthesize.py --config configs/synthesize.yaml --output out/synthetic --count 1000
"""

from raylib.cli import main
from raylib.config import SynthesizeConfig


def run(config: SynthesizeConfig) -> int:
    """Runs the job; its imports take seconds, so that they wait for a valid command line."""
    from raylib.synthesis_run import synthesize

    return synthesize(config)


if __name__ == "__main__":
    main(run, SynthesizeConfig, __doc__ or "")
