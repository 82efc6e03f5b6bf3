"""What is compared: faces whose truth is known, and what a method made of their pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from raylib.geometry.camera import Camera


@dataclass(frozen=True)
class TruePhoto:
    """A picture of a known face.

    Attributes:
        image: sRGB.
        camera: its camera and the head's pose, a batch of one, or None where it is not known.
        landmarks_px: true landmarks in pixels, or None.
        landmark_visible: which of them can be seen, or None.
    """

    image: UInt8[np.ndarray, "h w 3"]
    camera: Camera | None = None
    landmarks_px: Float[np.ndarray, "68 2"] | None = None
    landmark_visible: Bool[np.ndarray, " 68"] | None = None


@dataclass(frozen=True)
class TrueAppearance:
    """What reflects the light in a picture, and the light; colours linear, directions in canonical face space.

    Attributes:
        albedo: of the vertices of the shipped prior.
        light_sh: surroundings as spherical harmonics, without the lamp.
        lamp_direction: unit vector towards a lamp.
        lamp_color: what a white matte surface that faces the lamp reflects; 0 without one.
        labels: what each pixel of the picture shows (`segmentation.labels.Label`).
        person: faces of one person in one pose and expression, differently lit, share it.
    """

    albedo: Float[np.ndarray, "2113 3"]
    light_sh: Float[np.ndarray, "9 3"]
    lamp_direction: Float[np.ndarray, " 3"]
    lamp_color: Float[np.ndarray, " 3"]
    labels: UInt8[np.ndarray, "h w"]
    person: str


@dataclass(frozen=True)
class TrueFace:
    """A known face, millimetres in any frame.

    Attributes:
        name: unique in its set.
        keys: what a reconstruction of it may be called: the SHA-256 of its picture's file, names of the picture
            and of the scan without suffix.
        scan: points of its surface.
        scan_normals: unit normals of these points, out of the face, or None.
        anchor: for each point the vertex of the shipped prior that stands for its place on the face.
        landmarks: the 68 landmarks, NaN where they are not known; the seven of the alignment and the nose tip are.
        verts: vertices, of the mesh that is drawn.
        faces: its triangles; none for a cloud of points.
        in_prior_topology: whether `verts` are the shipped prior's 2113, so that vertices correspond.
        photo: a picture of it, or None.
        appearance: albedo and light in that picture, or None.
    """

    name: str
    keys: tuple[str, ...]
    scan: Float[np.ndarray, "n 3"]
    scan_normals: Float[np.ndarray, "n 3"] | None
    anchor: Int[np.ndarray, " n"]
    landmarks: Float[np.ndarray, "68 3"]
    verts: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    in_prior_topology: bool
    photo: TruePhoto | None = None
    appearance: TrueAppearance | None = None


@dataclass(frozen=True)
class Prediction:
    """A reconstructed face in any frame.

    Attributes:
        verts: vertices; millimetres if its size is to count.
        faces: triangles.
        landmarks: its 68 landmarks, NaN where it has none.
        in_prior_topology: whether `verts` are the shipped prior's 2113.
        camera: camera and pose under which it projects onto the picture, a batch of one, or None.
        albedo: of the vertices, linear, or None.
        colors: colours of the vertices that hold the light, sRGB 0..1, or None.
        light_sh: spherical-harmonic light in the frame of the vertices, or None.
    """

    verts: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    landmarks: Float[np.ndarray, "68 3"]
    in_prior_topology: bool = False
    camera: Camera | None = None
    albedo: Float[np.ndarray, "v 3"] | None = field(default=None, repr=False)
    colors: Float[np.ndarray, "v 3"] | None = field(default=None, repr=False)
    light_sh: Float[np.ndarray, "9 3"] | None = field(default=None, repr=False)


class Method(Protocol):
    """Something that makes faces of pictures, or has made them."""

    name: str

    def __call__(self, face: TrueFace) -> Prediction | None:
        """Returns what the method made of the face's picture; None where it made nothing."""
