"""What Blender makes of meshes; runs under the Python that has its module bpy (see `make blender-check`).

    .venv-blender/bin/python tests/blender_check.py FILE.glb FILE.obj ...

Imports each file into an empty scene, as Blender's menu does, and prints one JSON list with an entry a file.
"""

import json
import sys
from pathlib import Path

import bpy


def imported(path: Path) -> dict:
    """Returns the scene that a file becomes; its lengths are Blender's units, which are metres, its up is +z."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bring = bpy.ops.import_scene.gltf if path.suffix == ".glb" else bpy.ops.wm.obj_import
    bring(filepath=str(path))
    objects = list(bpy.context.scene.objects)
    return {
        "file": path.name,
        "objects": [thing.name for thing in objects],
        "meshes": [_mesh(thing) for thing in objects if thing.type == "MESH"],
    }


def _mesh(thing) -> dict:
    mesh = thing.data
    place = thing.matrix_world
    verts = [tuple(place @ vertex.co) for vertex in mesh.vertices]
    turn = place.to_quaternion()
    return {
        "name": thing.name,
        "verts": verts,
        "low": [min(along) for along in zip(*verts, strict=True)],
        "high": [max(along) for along in zip(*verts, strict=True)],
        "faces": [list(polygon.vertices) for polygon in mesh.polygons],
        "smooth": all(polygon.use_smooth for polygon in mesh.polygons),
        "corner_normals": [tuple(turn @ normal.vector) for normal in mesh.corner_normals],
        "corner_uv": [tuple(corner.uv) for corner in mesh.uv_layers.active.data] if mesh.uv_layers else None,
        "materials": [_material(slot.material) for slot in thing.material_slots],
        "attributes": {
            a.name: [getattr(value, "value", None) for value in a.data] for a in mesh.attributes if a.name[:1] == "_"
        },
        "colors": [colors.name for colors in mesh.color_attributes],
        "properties": sorted(thing.keys()),
    }


def _material(material) -> dict:
    """Returns a material's kinds of shaders, and the size of the picture that colours what is seen."""
    tree = material.node_tree
    pictures = [
        node.image
        for node in tree.nodes
        if node.type == "TEX_IMAGE" and node.image is not None and _reaches_output(node)
    ]
    return {
        "name": material.name,
        "shaders": sorted(node.type for node in tree.nodes),
        "textures": [list(picture.size) for picture in pictures if picture.has_data or picture.pixels],
    }


def _reaches_output(node) -> bool:
    """Returns whether the colour of a node arrives at the material's output."""
    if node.type == "OUTPUT_MATERIAL":
        return True
    ends = [link.to_node for output in node.outputs for link in output.links]
    return any(_reaches_output(end) for end in ends)


if __name__ == "__main__":
    found = [imported(Path(name)) for name in sys.argv[1:]]
    print(json.dumps(found))
