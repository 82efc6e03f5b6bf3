"""The trained network that corrects landmark fits, and what is computed around it."""
