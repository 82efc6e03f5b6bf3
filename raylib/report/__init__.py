"""Pages to look at what a job left behind; they open from disk, without server or network."""
