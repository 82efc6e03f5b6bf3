"""Light, how a matte surface answers it, and colour spaces."""
