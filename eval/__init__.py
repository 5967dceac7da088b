"""Scores, tables and ceilings. It sees only folders of images, meshes and JSON, and does not know how they were made."""
