"""Faces in photographs: detectors, landmarks, aligned crops."""
