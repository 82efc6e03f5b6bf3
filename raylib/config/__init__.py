"""Configuration of every job as frozen dataclasses, one module a job; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from raylib.config.benchmark import (
    BenchmarkBucketConfig,
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkYaleBConfig,
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

__all__ = [
    "FAILED",
    "STATUSES",
    "BenchmarkBucketConfig",
    "BenchmarkPicturesConfig",
    "BenchmarkReconstructConfig",
    "BenchmarkRenderConfig",
    "BenchmarkYaleBConfig",
    "BuildPriorConfig",
    "DetectorChoice",
    "EvaluateSegmentationConfig",
    "FaceSettings",
    "FitSettings",
    "Privacy",
    "ReconstructConfig",
    "SegmentationData",
    "TrainStage",
    "TrainUnetConfig",
]
