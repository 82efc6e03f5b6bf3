"""Trains the networks that make meshes of pictures; the same command goes on with a run that was stopped.

Without any option it trains the paper's MeshNet (meshnet_paper) on faces rendered from the shipped face model, in
minutes on two cores.

Examples:
    python jobs/train_meshnet.py
    python jobs/train_meshnet.py --config configs/meshnet_paper.yaml --data.labelled.celebamask celebamask --dry-run
    python jobs/train_meshnet.py --config configs/babymeshnet_teapot.yaml
    python jobs/train_meshnet.py --config configs/meshnet_stage1.yaml --face.synthetic faces --face.validation others
    # beside a training with other settings:
    python jobs/report.py --compare out/meshnet_paper out/meshnet_paper_mse
"""

from __future__ import annotations

from raylib.config import TRAIN_MESHNET, TrainMeshConfig, TrainRegressorConfig
from raylib.runtime.command import Command, main


def run(config: TrainMeshConfig) -> int:
    """Trains and says where the results and the report are."""
    from raylib.report.choice import report_at_end

    if isinstance(config, TrainRegressorConfig):
        from raylib.training.regressor.run import run_face_training

        results = run_face_training(config)
    else:
        from raylib.training.paper.run import run_training

        results = run_training(config)
    print(f"results: {results}")
    report_at_end(config.out)
    return 0


def plan(config: TrainMeshConfig) -> None:
    """Says what a run would do."""
    from rich.console import Console

    from raylib.training.plans import print_meshnet_plan

    print_meshnet_plan(config, Console())


COMMAND = Command(run, TRAIN_MESHNET, __doc__ or "", plan, continues=True, on_ray=True)

if __name__ == "__main__":
    main(COMMAND)
