"""Scores, tables and ceilings. Sees only folders of images, meshes and JSON; knows nothing of how they were made."""
