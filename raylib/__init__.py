"""Face photographs to 3D face meshes with physically meaningful appearance, from Python or in bulk on Ray.

import raylib

model = raylib.FaceReconstructor(device="cpu")
photo = raylib.load_image("portrait.jpg")
for face in model(photo):
    face.save("portrait.glb")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylib.errors import ConfigError, ImageError, RaylibError
    from raylib.io.photo import Photo, load_image
    from raylib.pipeline import FaceReconstructor, ReconstructedFace

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "FaceReconstructor",
    "ImageError",
    "Photo",
    "RaylibError",
    "ReconstructedFace",
    "__version__",
    "load_image",
]

_MODULES = {
    "ConfigError": "raylib.errors",
    "FaceReconstructor": "raylib.pipeline",
    "ImageError": "raylib.errors",
    "Photo": "raylib.io.photo",
    "RaylibError": "raylib.errors",
    "ReconstructedFace": "raylib.pipeline",
    "load_image": "raylib.io.photo",
}
"""Where each public name is defined; imported when it is first used, since torch takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
