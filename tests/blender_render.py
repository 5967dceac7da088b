"""Render a mesh file without lights in Blender's Cycles. It imports bpy, but nothing of this project.

    python tests/blender_render.py FILE POSES.json OUT.npy

POSES.json: {"size": pixels, "fov": degrees, "samples": rays a pixel, "poses": [[4][4] camera to world, ...]}, of a camera that
looks along its -z, in a world with y up. OUT.npy: [poses, size, size, 4], linear light, premultiplied by opacity, the first row
is the upper one.
"""

import json
import math
import sys
import tempfile
from pathlib import Path

import bpy
import numpy as np
from mathutils import Color, Matrix

Y_UP_TO_Z_UP = Matrix(((1, 0, 0, 0), (0, 0, -1, 0), (0, 1, 0, 0), (0, 0, 0, 1)))  # as Blender's importers turn a file


def load(file: Path) -> None:
    """Load a file into an empty scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if file.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(file))
    elif file.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(file), forward_axis="NEGATIVE_Z", up_axis="Y")
    else:
        bpy.ops.wm.ply_import(filepath=str(file), forward_axis="NEGATIVE_Z", up_axis="Y", import_colors="SRGB")


def unlit(material: bpy.types.Material, stored_as_srgb: bool) -> None:
    """Make a material emit its base colour. A colour without a texture may be sRGB, as in this project's OBJ files."""
    tree = material.node_tree
    surface = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    shine, out = tree.nodes.new("ShaderNodeEmission"), tree.nodes.new("ShaderNodeOutputMaterial")
    colour = surface.inputs["Base Color"]
    if colour.is_linked:
        tree.links.new(colour.links[0].from_socket, shine.inputs["Color"])
    else:
        red, green, blue, alpha = colour.default_value
        colour = Color((red, green, blue))
        shine.inputs["Color"].default_value = (*(colour.from_srgb_to_scene_linear() if stored_as_srgb else colour), alpha)
    tree.links.new(shine.outputs["Emission"], out.inputs["Surface"])
    out.is_active_output = True


def coloured_by_vertices(mesh: bpy.types.Object) -> None:
    """Give a mesh a material that shows the colours of its vertices."""
    material = bpy.data.materials.new("vertices")
    material.use_nodes = True
    tree = material.node_tree
    colours = tree.nodes.new("ShaderNodeVertexColor")
    colours.layer_name = mesh.data.color_attributes[0].name
    surface = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
    tree.links.new(colours.outputs["Color"], surface.inputs["Base Color"])
    mesh.data.materials.append(material)


def main() -> None:
    """Render every pose."""
    file, request, out = (Path(word) for word in sys.argv[1:])
    asked = json.loads(request.read_text())
    load(file)
    for mesh in [thing for thing in bpy.context.scene.objects if thing.type == "MESH"]:
        if not mesh.data.materials and mesh.data.color_attributes:
            coloured_by_vertices(mesh)
    for material in bpy.data.materials:
        unlit(material, file.suffix == ".obj")
    scene, size = bpy.context.scene, asked["size"]
    scene.render.engine, scene.cycles.device = "CYCLES", "CPU"
    scene.cycles.samples, scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = asked["samples"], False, False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 1.0
    scene.render.filter_size = 1.0
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
    scene.render.image_settings.color_mode = "RGBA"
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.angle = math.radians(asked["fov"])
    scene.collection.objects.link(camera)
    scene.camera = camera
    pictures = []
    with tempfile.TemporaryDirectory() as folder:
        for number, pose in enumerate(asked["poses"]):
            camera.matrix_world = Y_UP_TO_Z_UP @ Matrix(pose)
            scene.render.filepath = str(Path(folder) / f"{number}.exr")
            bpy.ops.render.render(write_still=True)
            picture = bpy.data.images.load(scene.render.filepath)
            pictures.append(np.array(picture.pixels[:], np.float32).reshape(size, size, 4)[::-1])
    np.save(out, np.stack(pictures))


if __name__ == "__main__":
    main()
