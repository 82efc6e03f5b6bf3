"""Configuration of every job as frozen dataclasses, one module a job; the only place where defaults live.

Imports neither torch nor ray, so that a mistake in a configuration is reported at once.
"""

from raylib.config.benchmark import (
    BenchmarkBucketConfig,
    BenchmarkPicturesConfig,
    BenchmarkReconstructConfig,
    BenchmarkRenderConfig,
    BenchmarkStagesConfig,
    BenchmarkTrainConfig,
    BenchmarkYaleBConfig,
)
from raylib.config.choice import (
    Choice,
)
from raylib.config.demo import (
    DemoConfig,
)
from raylib.config.evaluate import (
    BASELINES,
    EvaluateAppearanceConfig,
    EvaluatePicturesConfig,
    EvaluateShapeConfig,
)
from raylib.config.face_meshnet import (
    FaceLossWeights,
    FaceMeshNetSettings,
)
from raylib.config.meshnet import (
    TRAIN_MESHNET,
    BabySettings,
    LossWeights,
    MeshnetData,
    PaperSettings,
    SceneSettings,
    TermWeights,
    TrainBabyMeshnetConfig,
    TrainMeshConfig,
    TrainPaperConfig,
    TrainRegressorConfig,
)
from raylib.config.prior import (
    BuildPriorConfig,
)
from raylib.config.reconstruct import (
    FAILED,
    REPLACED,
    STATUSES,
    DetectorChoice,
    FaceSearchSettings,
    FaceSettings,
    FitSettings,
    Privacy,
    ReconstructConfig,
)
from raylib.config.report import (
    ReportConfig,
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
    "REPLACED",
    "STATUSES",
    "TRAIN_MESHNET",
    "BabySettings",
    "BenchmarkBucketConfig",
    "BenchmarkPicturesConfig",
    "BenchmarkReconstructConfig",
    "BenchmarkRenderConfig",
    "BenchmarkStagesConfig",
    "BenchmarkTrainConfig",
    "BenchmarkYaleBConfig",
    "BuildPriorConfig",
    "Choice",
    "DemoConfig",
    "DetectorChoice",
    "EvaluateAppearanceConfig",
    "EvaluatePicturesConfig",
    "EvaluateSegmentationConfig",
    "EvaluateShapeConfig",
    "FaceLossWeights",
    "FaceMeshNetSettings",
    "FaceSearchSettings",
    "FaceSettings",
    "FitSettings",
    "LossWeights",
    "MeshnetData",
    "PaperSettings",
    "Privacy",
    "ReconstructConfig",
    "ReportConfig",
    "SceneSettings",
    "SegmentationData",
    "SynthesisSettings",
    "SynthesizeConfig",
    "TermWeights",
    "TrainBabyMeshnetConfig",
    "TrainMeshConfig",
    "TrainPaperConfig",
    "TrainRegressorConfig",
    "TrainRun",
    "TrainStage",
    "TrainUnetConfig",
]
