"""Trains the face segmentation network.

Examples:
    python jobs/train_unet.py --config configs/unet_small.yaml --data.fasseg DIR --data.celebamask DIR
    python jobs/report.py --input OUT    a page with its curves, afterwards
"""

from __future__ import annotations

from raylib.cli import main
from raylib.config import TrainUnetConfig


def run(config: TrainUnetConfig) -> int:
    """Trains and says where the weights are."""
    from raylib.training.unet_ray import run_training

    print(f"weights: {run_training(config)}")
    return 0


if __name__ == "__main__":
    main(run, TrainUnetConfig, __doc__ or "")
