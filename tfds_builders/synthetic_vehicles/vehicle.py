"""An identity as a finished mesh: its body type, painted, with its marks."""

import dataclasses
import functools

import numpy as np

from tfds_builders.synthetic_vehicles.body import build_body
from tfds_builders.synthetic_vehicles.identity import PAINTS, describe
from tfds_builders.synthetic_vehicles.marks import add_marks
from tfds_builders.synthetic_vehicles.mesh import Material, Mesh, MeshBuilder, join

_SEAM_DARKENING = 0.55


def paint_mesh(mesh: Mesh, paint: tuple[float, float, float]) -> Mesh:
    """Returns the mesh with its paint and seams in the given RGB (0-255)."""
    colors = mesh.colors.copy()
    colors[mesh.materials == Material.PAINT] = paint
    colors[mesh.materials == Material.SEAM] = _SEAM_DARKENING * np.array(paint, np.float32)
    return dataclasses.replace(mesh, colors=colors)


@functools.lru_cache(maxsize=256)
def build_vehicle(seed: int, identity: int) -> Mesh:
    """Builds the mesh of an identity; kept for the shots that follow, since building costs about a shot."""
    description = describe(seed, identity)
    body = build_body(description.body)
    builder = MeshBuilder()
    add_marks(builder, body, description)
    red, green, blue = (min(255.0, channel * description.shade) for channel in PAINTS[description.color])
    return paint_mesh(join(body.mesh, builder.build()), (red, green, blue))
