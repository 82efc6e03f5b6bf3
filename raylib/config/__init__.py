"""Configuration of every job as frozen dataclasses, one module a job; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from raylib.config.benchmark import (
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkStagesConfig,
    BenchmarkTrainConfig,
    BenchmarkYaleBConfig,
)
from raylib.config.meshnet import (
    LossWeights,
    MeshnetData,
    PaperSettings,
    TrainMeshnetConfig,
)
from raylib.config.prior import (
    BuildPriorConfig,
)
from raylib.config.reconstruct import (
    FAILED,
    STATUSES,
    DetectorChoice,
    FaceSettings,
    FitSettings,
    Privacy,
    ReconstructConfig,
)
from raylib.config.segmentation import (
    EvaluateSegmentationConfig,
    SegmentationData,
    TrainStage,
    TrainUnetConfig,
)
from raylib.config.training import (
    TrainRun,
)

__all__ = [
    "FAILED",
    "STATUSES",
    "BenchmarkPicturesConfig",
    "BenchmarkReconstructConfig",
    "BenchmarkRenderConfig",
    "BenchmarkStagesConfig",
    "BenchmarkTrainConfig",
    "BenchmarkYaleBConfig",
    "BuildPriorConfig",
    "DetectorChoice",
    "EvaluateSegmentationConfig",
    "FaceSettings",
    "FitSettings",
    "LossWeights",
    "MeshnetData",
    "PaperSettings",
    "Privacy",
    "ReconstructConfig",
    "SegmentationData",
    "TrainMeshnetConfig",
    "TrainRun",
    "TrainStage",
    "TrainUnetConfig",
]
