"""How far one reconstructed face is from the truth, in every measure of the report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int

from raylib.evaluation.faces import Prediction, TrueFace
from raylib.evaluation.shape.regions import FACE_REGIONS
from raylib.geometry.camera import Camera, euler_deg
from raylib.geometry.closest import MeshSurface, surface_normals
from raylib.geometry.landmarks68 import NOSE_TIP, OUTER_EYE
from raylib.geometry.mesh import face_areas_normals
from raylib.geometry.similarity import Alignment
from raylib.metrics.scan_error import (
    FACE_RADIUS_MM,
    ScanError,
    aligned_error,
    angles_deg,
    refine_alignment,
    surface_error,
)
from raylib.morphable.model import REGIONS, load_prior

FIGURES = (
    "normals_deg", "surface", "vertex_mm", "vertex_normals_deg", *FACE_REGIONS, "regions", "pose_deg", "landmark_nme",
)  # fmt: skip
"""Figures of a face that are averaged over faces; NaN where one is not defined."""

_MIN_REGION_POINTS = 20


@dataclass(frozen=True)
class ShapeErrors:
    """The errors of one reconstructed face.

    Attributes:
        distances: of the scan's points after a similarity, millimetres.
        distances_rigid: the same after a rigid motion, where size counts.
        anchor: for each distance the prior's vertex that stands for its place.
        figures: see `FIGURES`; lengths in millimetres, angles in degrees, `landmark_nme` as a share, `surface` in
            times the truth's: see `area_near`.
        alignment: the similarity that laid the reconstruction onto the truth.
        yaw_deg: of the head in the picture, NaN where it is not known.
    """

    distances: Float[np.ndarray, " n"]
    distances_rigid: Float[np.ndarray, " m"]
    anchor: Int[np.ndarray, " n"]
    figures: dict[str, float]
    alignment: Alignment = field(repr=False)
    yaw_deg: float = float("nan")


def shape_errors(
    prediction: Prediction, face: TrueFace, regions: dict[str, Int[np.ndarray, " m"]], align: bool = True
) -> ShapeErrors:
    """Returns how far a reconstruction is from the truth.

    Args:
        prediction: the reconstruction.
        face: the truth.
        regions: the truth's `region_points`.
        align: lay the reconstruction onto the truth; otherwise it is measured where it stands.

    Raises:
        ValueError: too few landmarks are on both sides, or a vertex is not finite.
    """
    if not np.isfinite(prediction.verts).all():
        raise ValueError("it has vertices that are not finite")
    surface = MeshSurface(prediction.verts, prediction.faces)
    if align:
        error = surface_error(surface, prediction.landmarks, face.scan, face.landmarks)
        rigid = surface_error(surface, prediction.landmarks, face.scan, face.landmarks, with_scale=False)
    else:
        error = rigid = aligned_error(surface, Alignment.identity(), face.scan, face.landmarks[NOSE_TIP])
    figures = dict.fromkeys(FIGURES, float("nan"))
    if face.scan_normals is not None:
        found = surface.normals_at(error.closest) @ error.alignment.R.T
        figures["normals_deg"] = float(angles_deg(found, face.scan_normals[error.points]).mean())
    nose_tip = face.landmarks[NOSE_TIP]
    if true_area := area_near(face.verts, face.faces, nose_tip):
        mine = area_near(error.alignment.apply(prediction.verts), prediction.faces, nose_tip)
        figures["surface"] = mine / true_area
    if prediction.in_prior_topology and face.in_prior_topology:
        figures |= _dense_errors(prediction, face, align)
    figures |= _region_errors(surface, error, face, regions, align)
    photo = face.photo
    if prediction.camera is not None and photo is not None and photo.camera is not None:
        figures["pose_deg"] = pose_error_deg(prediction.camera, error.alignment, photo.camera)
        if photo.landmarks_px is not None:
            figures["landmark_nme"] = landmark_nme(prediction, face)
    return ShapeErrors(
        error.distances.astype(np.float32),
        rigid.distances.astype(np.float32),
        face.anchor[error.points].astype(np.int32),
        figures,
        error.alignment,
        float("nan") if photo is None or photo.camera is None else float(euler_deg(photo.camera.R)[0, 0]),
    )


def area_near(
    verts: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], nose_tip: Float[np.ndarray, " 3"]
) -> float:
    """Returns the area, mm^2, of the triangles whose centre lies within 95 mm of the nose tip.

    Against the truth's it tells what scan to mesh cannot: a surface crumpled into layers passes near every point.
    """
    area = face_areas_normals(torch.tensor(verts)[None], torch.tensor(faces))[0][0].numpy()
    near = np.linalg.norm(verts[faces].mean(1) - nose_tip, axis=1) <= FACE_RADIUS_MM
    return float(area[near].sum())


def _dense_errors(prediction: Prediction, face: TrueFace, align: bool) -> dict[str, float]:
    """Returns distance and angle between normals of corresponding vertices after the best similarity."""
    prior = load_prior()
    assert prior.regions is not None
    face_part = np.linalg.norm(face.verts - face.landmarks[NOSE_TIP], axis=1) <= FACE_RADIUS_MM
    face_part &= prior.regions.numpy() != REGIONS.index("inner_mouth")
    best = Alignment.of_points(prediction.verts[face_part], face.verts[face_part])
    fit = best if align else Alignment.identity()
    distance = np.linalg.norm(fit.apply(prediction.verts[face_part]) - face.verts[face_part], axis=1)
    mine = surface_normals(prediction.verts, prediction.faces)[face_part] @ fit.R.T
    true = surface_normals(face.verts, face.faces)[face_part]
    return {"vertex_mm": float(distance.mean()), "vertex_normals_deg": float(angles_deg(mine, true).mean())}


def _region_errors(
    surface: MeshSurface, error: ScanError, face: TrueFace, regions: dict[str, Int[np.ndarray, " m"]], align: bool
) -> dict[str, float]:
    """Returns the mean distance of each region after it alone was laid onto the reconstruction, and their mean.

    What one part of a face gets wrong moves the alignment of the whole and shows as an error elsewhere; aligned by
    itself a region tells of its own shape (Chai et al., ECCV 2022).
    """
    out = {}
    for name, index in regions.items():
        if len(index) < _MIN_REGION_POINTS:
            return {}
        points = face.scan[index]
        own = refine_alignment(surface, error.alignment, points) if align else error.alignment
        out[name] = float(own.scale * surface.distance(own.undo(points)).mean())
    return out | {"regions": float(np.mean(list(out.values())))}


def pose_error_deg(predicted: Camera, alignment: Alignment, true: Camera) -> float:
    """Returns the angle by which the reconstructed head is turned against the true one, as the camera sees them.

    The alignment takes part, so that models whose own frames look up or down a little are not charged for it.

    Args:
        predicted: camera of the reconstruction, a batch of one.
        alignment: what lays the reconstruction onto the truth.
        true: camera of the truth, a batch of one.
    """
    turn = predicted.R[0].double().numpy() @ alignment.R.T @ true.R[0].double().numpy().T
    sine = np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return float(np.degrees(np.arctan2(sine, np.trace(turn) - 1)))


def landmark_nme(prediction: Prediction, face: TrueFace) -> float:
    """Returns the mean distance of projected from true visible landmarks as a share of that of the outer eye corners.

    The latter is the one that the picture would show if the eyes lay across the line of sight, so that a turned head
    does not count for more. Landmarks that the reconstruction does not define are left out.
    """
    photo = face.photo
    assert photo is not None and photo.camera is not None and photo.landmarks_px is not None
    assert prediction.camera is not None
    projected = prediction.camera.project(torch.from_numpy(prediction.landmarks)[None])[0].numpy()
    distance = np.linalg.norm(projected - photo.landmarks_px, axis=1)
    counted = np.isfinite(distance)
    if photo.landmark_visible is not None:
        counted &= photo.landmark_visible
    if not counted.any():
        return float("nan")
    eyes = face.landmarks[list(OUTER_EYE)]
    depth = photo.camera.to_camera(torch.from_numpy(eyes)[None].to(photo.camera.R))[0, :, 2].mean()
    across = np.linalg.norm(eyes[1] - eyes[0]) * float(photo.camera.focal_px[0]) / float(depth)
    return float(distance[counted].mean() / across)
