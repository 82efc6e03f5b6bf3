"""Configuration of every job as frozen dataclasses, one module a job; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from raylib.config.benchmark import (
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkYaleBConfig,
)
from raylib.config.face_meshnet import (
    FaceLossWeights,
    FaceMeshNetSettings,
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
from raylib.config.synthesize import (
    SynthesisSettings,
    SynthesizeConfig,
)

__all__ = [
    "FAILED",
    "STATUSES",
    "BenchmarkPicturesConfig",
    "BenchmarkReconstructConfig",
    "BenchmarkRenderConfig",
    "BenchmarkYaleBConfig",
    "BuildPriorConfig",
    "DetectorChoice",
    "EvaluateSegmentationConfig",
    "FaceLossWeights",
    "FaceMeshNetSettings",
    "FaceSettings",
    "FitSettings",
    "Privacy",
    "ReconstructConfig",
    "SegmentationData",
    "SynthesisSettings",
    "SynthesizeConfig",
    "TrainStage",
    "TrainUnetConfig",
]
