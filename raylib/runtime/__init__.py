"""The run around the work: Ray, child processes, progress, provenance."""
