"""Trains the face segmentation network; the same command goes on with a run that was stopped.

Examples:
    python jobs/train_unet.py --config configs/unet_small.yaml --data.fasseg fasseg --data.celebamask celebamask
    python jobs/train_unet.py --config configs/unet_small.yaml --data.celebamask celebamask --dry-run
    # beside a training with other settings:
    python jobs/report.py --compare out/unet_small out/unet_paper
"""

from __future__ import annotations

from raylib.config import TrainUnetConfig
from raylib.runtime.command import Command, main


def run(config: TrainUnetConfig) -> int:
    """Trains and says where the weights and the report are."""
    from raylib.report.choice import report_at_end
    from raylib.training.segmentation.run import run_training

    print(f"weights: {run_training(config)}")
    report_at_end(config.out)
    return 0


def plan(config: TrainUnetConfig) -> None:
    """Says what a run would do."""
    from rich.console import Console

    from raylib.training.plans import print_unet_plan

    print_unet_plan(config, Console())


COMMAND = Command(run, TrainUnetConfig, __doc__ or "", plan, continues=True, on_ray=True)

if __name__ == "__main__":
    main(COMMAND)
