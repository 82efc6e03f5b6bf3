"""Trains the face segmentation network: `jobs/train_unet.py --config configs/unet_small.yaml --data.fasseg DIR`."""

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
