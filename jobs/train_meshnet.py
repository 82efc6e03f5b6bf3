"""Trains the networks that make meshes of pictures: `jobs/train_meshnet.py --config configs/meshnet_paper.yaml`.

Without any option it trains MeshNet on faces rendered from the shipped face model, in minutes on two cores.
"""

from __future__ import annotations

from raylib.cli import main
from raylib.config import TrainMeshnetConfig


def run(config: TrainMeshnetConfig) -> int:
    """Trains and says where the results are."""
    from raylib.training.meshnet_ray import run_training

    print(f"results: {run_training(config)}")
    return 0


if __name__ == "__main__":
    main(run, TrainMeshnetConfig, __doc__ or "")
