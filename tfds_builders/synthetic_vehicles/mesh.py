"""Flat polygons in 3-D with a colour, a material and a place in the painting order."""

import dataclasses
import enum

import numpy as np


class Material(enum.IntEnum):
    """How a polygon answers to light."""

    PAINT = 0  # takes the identity's paint; glossy
    SEAM = 1  # a gap between panels: the paint, darkened
    MATTE = 2  # own colour, no gloss
    GLASS = 3  # own dark colour, mirrors the sky
    LAMP = 4  # own colour, shines at night


class Part(enum.IntEnum):
    """A convex (or nearly convex) piece of a vehicle. Pieces are painted one after the other."""

    UNDERBODY = 0
    TUB = 1
    LEFT_MIRROR = 2
    RIGHT_MIRROR = 3
    CABIN = 4
    ROOF = 5
    BOX = 6


@dataclasses.dataclass(frozen=True)
class Mesh:
    """F polygons; polygon i owns the vertices `starts[i]:starts[i + 1]`.

    Attributes:
        vertices: (N, 3) float32, metres; x forward, y left, z up, the origin on the ground under the centre.
        starts: (F + 1,) int64.
        normals: (F, 3) float32, unit length, pointing outwards.
        centroids: (F, 3) float32.
        colors: (F, 3) float32, RGB in 0-255 under white light.
        materials: (F,) int64, values of `Material`.
        parts: (F,) int64, values of `Part`.
        layers: (F,) int64; within a part, higher layers are painted over lower ones.
    """

    vertices: np.ndarray
    starts: np.ndarray
    normals: np.ndarray
    centroids: np.ndarray
    colors: np.ndarray
    materials: np.ndarray
    parts: np.ndarray
    layers: np.ndarray


class MeshBuilder:
    """Collects polygons; `build` computes normals and centroids for all of them at once."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._outward: list[tuple[float, float, float]] = []
        self._colors: list[tuple[float, float, float]] = []
        self._tags: list[tuple[int, int, int]] = []

    def add(
        self,
        points: np.ndarray,
        outward: tuple[float, float, float],
        color: tuple[float, float, float],
        part: Part,
        layer: int = 0,
        material: Material = Material.MATTE,
    ) -> None:
        """Adds one polygon.

        Args:
            points: (K, 3) corners in order, either winding.
            outward: A vector that makes an acute angle with the outward normal.
            color: RGB in 0-255.
            part: The part it belongs to.
            layer: 0 for the surface of the part, more for what lies on it.
            material: How it answers to light.
        """
        self._points.append(np.asarray(points, np.float32))
        self._outward.append(outward)
        self._colors.append(color)
        self._tags.append((int(material), int(part), layer))

    def add_box(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        color: tuple[float, float, float],
        part: Part,
        layer: int = 0,
        material: Material = Material.MATTE,
    ) -> None:
        """Adds the five visible faces (all but the bottom) of an axis-parallel box."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        faces: list[tuple[list[tuple[float, float, float]], tuple[float, float, float]]] = [
            ([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], (1, 0, 0)),
            ([(x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)], (-1, 0, 0)),
            ([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], (0, 1, 0)),
            ([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], (0, -1, 0)),
            ([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], (0, 0, 1)),
        ]
        for points, outward in faces:
            self.add(np.array(points), outward, color, part, layer, material)

    def build(self) -> Mesh:
        """Returns the mesh of everything added so far."""
        vertices = np.concatenate(self._points)
        counts = np.array([len(points) for points in self._points])
        starts = np.concatenate([[0], np.cumsum(counts)])
        # Newell's formula: the sum of cross products of successive corners, about the centroid.
        centroids = np.add.reduceat(vertices, starts[:-1], axis=0) / counts[:, None].astype(np.float32)
        following = np.arange(len(vertices)) + 1
        following[starts[1:] - 1] = starts[:-1]
        relative = vertices - np.repeat(centroids, counts, axis=0)
        normals = np.add.reduceat(np.cross(relative, relative[following]), starts[:-1], axis=0)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.float32(1e-9))
        inward = np.sum(normals * np.array(self._outward, np.float32), axis=1) < 0
        normals[inward] *= -1
        materials, parts, layers = np.array(self._tags, np.int64).T
        return Mesh(
            vertices, starts, normals, centroids, np.array(self._colors, np.float32), materials, parts, layers
        )


def join(first: Mesh, second: Mesh) -> Mesh:
    """Returns one mesh with the polygons of both."""
    return Mesh(
        np.concatenate([first.vertices, second.vertices]),
        np.concatenate([first.starts[:-1], second.starts + first.starts[-1]]),
        np.concatenate([first.normals, second.normals]),
        np.concatenate([first.centroids, second.centroids]),
        np.concatenate([first.colors, second.colors]),
        np.concatenate([first.materials, second.materials]),
        np.concatenate([first.parts, second.parts]),
        np.concatenate([first.layers, second.layers]),
    )


@dataclasses.dataclass(frozen=True)
class Patch:
    """A four-cornered piece of the surface on which windows, lamps and marks are laid out.

    Seen from outside, u runs from left (0) to right (1) and v from bottom (0) to top (1).

    Attributes:
        corners: (2, 2, 3) float, indexed [v, u], metres.
        outward: A vector roughly along the outward normal.
        part: The part whose surface it is.
    """

    corners: np.ndarray
    outward: tuple[float, float, float]
    part: Part

    @property
    def width(self) -> float:
        """Width at mid height in metres."""
        left, right = self.corners.mean(axis=0)
        return float(np.linalg.norm(right - left))

    @property
    def height(self) -> float:
        """Height along the middle in metres."""
        bottom, top = self.corners.mean(axis=1)
        return float(np.linalg.norm(top - bottom))

    def at(self, uv: np.ndarray) -> np.ndarray:
        """Maps (K, 2) patch coordinates to (K, 3) points by bilinear interpolation."""
        uv = np.asarray(uv, np.float64)
        u, v = uv[:, :1], uv[:, 1:]
        (p00, p10), (p01, p11) = self.corners
        return (1 - v) * ((1 - u) * p00 + u * p10) + v * ((1 - u) * p01 + u * p11)

    def rectangle(self, u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
        """Returns the (4, 3) corners of a rectangle in patch coordinates."""
        return self.at(np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)]))
