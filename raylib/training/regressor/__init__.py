"""Training of the network that corrects landmark fits."""
