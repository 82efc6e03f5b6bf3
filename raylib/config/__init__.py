"""Configuration of every job as frozen dataclasses, one module a job; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from raylib.config.benchmark import (
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkYaleBConfig,
)
from raylib.config.evaluate import (
    BASELINES,
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateShapeConfig,
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
from raylib.config.training import (
    TrainRun,
)

__all__ = [
    "BASELINES",
    "FAILED",
    "STATUSES",
    "BenchmarkPicturesConfig",
    "BenchmarkReconstructConfig",
    "BenchmarkRenderConfig",
    "BenchmarkYaleBConfig",
    "BuildPriorConfig",
    "DetectorChoice",
    "EvaluateAppearanceConfig",
    "EvaluatePicturesConfig",
    "EvaluateSegmentationConfig",
    "EvaluateShapeConfig",
    "FaceSettings",
    "FitSettings",
    "Privacy",
    "ReconstructConfig",
    "SegmentationData",
    "SynthesisSettings",
    "SynthesizeConfig",
    "TrainRun",
    "TrainStage",
    "TrainUnetConfig",
]
