"""Pictures, meshes, weights and bytes: from and to disk or object storage."""
