"""Face models fitted to landmarks, and what an estimate of a face is."""
