"""From polygons in 3-D to pixels: culling, shading, painting order, filling."""

import cv2
import numpy as np

from tfds_builders.synthetic_vehicles.camera import Camera, View
from tfds_builders.synthetic_vehicles.mesh import Material, Mesh, Part

# Vertices reach OpenCV in fixed point with this many fractional bits.
_FRACTION_BITS = 4
_FIXED_POINT = 1 << _FRACTION_BITS


def to_pixels(plane: np.ndarray, window: np.ndarray, width: int) -> np.ndarray:
    """Maps (..., 2) image-plane coordinates to fixed-point pixels.

    Args:
        plane: Coordinates from `View.project`.
        window: (4,) x0, y0, x1, y1 of the crop in image-plane coordinates.
        width: Of the canvas in pixels.
    """
    scale = np.float32(width / (window[2] - window[0]) * _FIXED_POINT)
    return np.rint((plane - window[:2].astype(np.float32)) * scale - _FIXED_POINT / 2).astype(np.int32)


def fill(canvas: np.ndarray, points: np.ndarray, color: list[float] | tuple[float, ...]) -> None:
    """Fills one polygon given in fixed-point pixels."""
    cv2.fillPoly(canvas, [points], color, cv2.LINE_8, _FRACTION_BITS)


def painting_order(mesh: Mesh, view: View, box_front: float | None) -> np.ndarray:
    """Returns the indices of the polygons that face the camera, the first to be painted first.

    Parts are convex, or nearly, and separated by planes: which of two parts hides the other depends only
    on which side of the plane the camera is. Within a part: by layer, then from far to near.

    Args:
        mesh: The polygons.
        view: The camera's pose.
        box_front: x of the plane between a cargo box (behind it) and the cabin, if there is one.
    """
    to_camera = view.position - mesh.centroids
    visible = np.flatnonzero(np.einsum("ij,ij->i", to_camera, mesh.normals) > 0.02)
    left_near = view.position[1] > 0
    ranks = np.arange(len(Part))
    ranks[Part.UNDERBODY] = 0
    ranks[Part.TUB] = 2
    ranks[Part.CABIN] = 4
    ranks[Part.ROOF] = 6
    ranks[Part.LEFT_MIRROR] = 5 if left_near else 3
    ranks[Part.RIGHT_MIRROR] = 3 if left_near else 5
    ranks[Part.BOX] = 1 if box_front is not None and view.position[0] > box_front else 7
    distance = np.einsum("ij,ij->i", to_camera[visible], to_camera[visible])
    return visible[np.lexsort((-distance, mesh.layers[visible], ranks[mesh.parts[visible]]))]


def shade(mesh: Mesh, chosen: np.ndarray, view: View, camera: Camera) -> np.ndarray:
    """Returns (len(chosen), 3) float32 RGB of the chosen polygons under the camera's light."""
    normals, colors, materials = mesh.normals[chosen], mesh.colors[chosen], mesh.materials[chosen]
    up = normals[:, 2:]
    diffuse = np.maximum(normals @ camera.sun[:, None], np.float32(0))
    light = camera.ambient_rgb * (np.float32(0.66) + np.float32(0.34) * up) + camera.sun_rgb * diffuse
    shaded = colors * light
    eye = view.position - mesh.centroids[chosen]
    eye /= np.linalg.norm(eye, axis=1, keepdims=True)
    facing = np.clip(np.einsum("ij,ij->i", eye, normals), 0, 1)[:, None]
    grazing = (1 - facing) ** 3
    glossy = ((materials == Material.PAINT) | (materials == Material.SEAM))[:, None]
    half = eye + camera.sun
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    highlight = np.clip(np.einsum("ij,ij->i", half, normals), 0, 1)[:, None] ** 24
    sky = camera.sky_rgb * np.clip(up + np.float32(0.25), 0, 1)
    gloss = (
        np.float32(150) * highlight * camera.sun_rgb + (np.float32(0.07) + np.float32(0.38) * grazing) * sky
    )
    shaded = np.where(glossy, shaded * (1 - np.float32(0.2) * grazing) + gloss, shaded)
    glass = (materials == Material.GLASS)[:, None]
    mirror = (np.float32(0.14) + np.float32(0.5) * grazing) * camera.sky_rgb * np.clip(up + 0.5, 0.2, 1)
    shaded = np.where(glass, colors * light + mirror, shaded)
    lamp = (materials == Material.LAMP)[:, None]
    lamp_light = np.maximum(light, np.float32(0.75 + 0.35 * camera.lamps))
    return np.clip(np.where(lamp, colors * lamp_light, shaded), 0, 255).astype(np.float32)


def paint_mesh_on(
    canvas: np.ndarray, mesh: Mesh, pixels: np.ndarray, order: np.ndarray, colors: np.ndarray
) -> None:
    """Fills polygons in order.

    Args:
        canvas: (H, W, 3) uint8, painted in place.
        mesh: The polygons.
        pixels: (N, 2) int32, the mesh's vertices in fixed point.
        order: Polygon indices.
        colors: (len(order), 3) RGB.
    """
    begins = mesh.starts[order].tolist()
    ends = mesh.starts[order + 1].tolist()
    for begin, end, color in zip(begins, ends, colors.tolist(), strict=True):
        if end - begin == 4:
            cv2.fillConvexPoly(canvas, pixels[begin:end], color, cv2.LINE_8, _FRACTION_BITS)
        else:
            cv2.fillPoly(canvas, [pixels[begin:end]], color, cv2.LINE_8, _FRACTION_BITS)


def silhouette(mesh: Mesh, pixels: np.ndarray, order: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns (height, width) uint8: 1 where any polygon of `order` falls."""
    mask = np.zeros((height, width), np.uint8)
    surface = order[mesh.layers[order] == 0]
    for begin, end in zip(mesh.starts[surface].tolist(), mesh.starts[surface + 1].tolist(), strict=True):
        cv2.fillConvexPoly(mask, pixels[begin:end], 1, cv2.LINE_8, _FRACTION_BITS)
    return mask


def paint_glow(
    canvas: np.ndarray, mesh: Mesh, pixels: np.ndarray, order: np.ndarray, strength: float, reach: float
) -> None:
    """Adds the halo of lit lamps.

    Args:
        canvas: (H, W, 3) uint8, brightened in place.
        mesh: The polygons.
        pixels: (N, 2) int32, the mesh's vertices in fixed point.
        order: Indices of the polygons that face the camera.
        strength: 0 to 1.
        reach: Radius of a halo in pixels.
    """
    shrink = 4
    height, width = canvas.shape[:2]
    halo = np.zeros((height // shrink, width // shrink, 3), np.uint8)
    for index in order[mesh.materials[order] == Material.LAMP].tolist():
        points = pixels[mesh.starts[index] : mesh.starts[index + 1]]
        x, y = (points.mean(axis=0) / (_FIXED_POINT * shrink)).tolist()
        color = (strength * np.clip(mesh.colors[index], 0, 255)).tolist()
        cv2.circle(halo, (round(x), round(y)), max(1, round(0.5 * reach / shrink)), color, cv2.FILLED)
    halo = cv2.GaussianBlur(halo, (0, 0), max(0.6, 0.5 * reach / shrink))
    cv2.add(canvas, cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR), dst=canvas)
