"""Files written whole: atomic writes, video, meshes."""
