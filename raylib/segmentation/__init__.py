"""What each pixel of a face shows: labels, and the network that finds them."""
