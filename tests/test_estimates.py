"""The camera of a crop sees a face where the crop shows it."""

import numpy as np
import torch

from raylib.detection.alignment import FaceCrop, crop_transform
from raylib.fitting.estimates import FaceBatch
from raylib.geometry.camera import Camera, rotation_from_euler_deg
from raylib.morphable.model import load_prior


def test_crop_camera_projects_to_the_crop():
    prior = load_prior()
    R = rotation_from_euler_deg(torch.tensor([[20.0, -8.0, 25.0], [-35.0, 5.0, -17.0]]))
    T = torch.tensor([[30.0, -12.0, 700.0], [-55.0, 40.0, 1500.0]])
    principal = torch.tensor([[300.0, 210.0], [640.0, 480.0]])
    camera = Camera(R, T, torch.tensor([900.0, 2500.0]), principal)
    photo = camera.project(prior.mean.expand(2, -1, -1))
    landmarks = photo[:, prior.landmark_verts]
    to_photo = np.stack([crop_transform(points.numpy(), 256) for points in landmarks])
    crops = np.zeros((2, 256, 256, 3), np.uint8)
    faces = FaceBatch(landmarks, camera.focal_px, principal, crops, to_photo)
    for size in (256, 128):
        seen = faces.crop_camera(camera, size).project(prior.mean.expand(2, -1, -1)).numpy()
        for i in range(2):
            expected = FaceCrop(crops[i], to_photo[i]).points_from_photo(photo[i].numpy().astype(np.float64))
            assert np.abs(seen[i] - expected * size / 256).max() < 1e-2
        assert (np.linalg.det(faces.crop_camera(camera, size).R.numpy()) > 0.999).all()
