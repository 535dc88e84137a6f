"""Files: atomic writes, video, meshes, Radiance pictures."""
