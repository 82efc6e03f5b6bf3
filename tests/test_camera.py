"""Angles, projections and the signs that the module states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raylib.geometry.camera import FRONTAL, Camera, euler_deg, focal_from_fov, rotation_from_euler_deg

angle = st.floats(-80, 80)


@settings(deadline=None)
@given(yaw=st.floats(-170, 170), pitch=angle, roll=st.floats(-170, 170))
def test_angles_round_trip_through_a_rotation(yaw, pitch, roll):
    angles = torch.tensor([[yaw, pitch, roll]], dtype=torch.float64)
    R = rotation_from_euler_deg(angles)
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64)[None])
    assert torch.linalg.det(R).item() > 0
    torch.testing.assert_close(euler_deg(R), angles, atol=1e-6, rtol=0)


def test_signs_are_the_documented_ones():
    turned, up, tilted = rotation_from_euler_deg(torch.tensor([[30.0, 0, 0], [0, 30.0, 0], [0, 0, 30.0]]))
    nose, crown = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 1, 0])
    assert (turned @ nose)[0] > 0.4  # the subject's left is the image's right
    assert (up @ nose)[1] < -0.4  # image y points down
    assert (tilted @ crown)[0] > 0.4  # clockwise


def test_a_frontal_face_projects_upright_and_unmirrored():
    camera = Camera(
        torch.tensor([FRONTAL]), torch.tensor([[0.0, 0, 500]]), torch.tensor([1000.0]), torch.tensor([[256.0, 200]])
    )
    origin, left, crown, nose = camera.project(torch.tensor([[[0.0, 0, 0], [50, 0, 0], [0, 50, 0], [0, 0, 50]]]))[0]
    assert origin.tolist() == [256, 200]
    assert left.tolist() == [256 + 100, 200] and crown.tolist() == [256, 200 - 100]
    assert nose.tolist() == [256, 200]
    assert camera.to_camera(torch.tensor([[[0.0, 0, 50]]]))[0, 0, 2] == 450  # out of the face is towards the camera


def test_focal_length_sees_the_extent_under_the_angle():
    focal = focal_from_fov(40.0, torch.tensor([512.0]))
    assert torch.rad2deg(2 * torch.atan(256 / focal)).item() == pytest.approx(40.0, abs=1e-4)
