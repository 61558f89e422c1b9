"""Cameras: where each looks from, in what light, and what its sensor does to the picture."""

import dataclasses
import functools

import numpy as np

RGB = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class CameraStyle:
    """From what range each camera of an installation is drawn.

    Attributes:
        elevation: Lowest and highest camera, degrees above the horizon.
        distance: Nearest and farthest, metres.
        azimuth_jitter: Half range of a vehicle's heading within one camera, degrees.
        dusk_share: Share of cameras that see dusk.
        night_share: Share of cameras that see night; the rest see day.
        resolution: Worst and best sensor resolution, as a share of the pixels asked for.
        blur: Largest blur (defocus or motion), as a share of the picture's width.
        noise: Largest standard deviation of sensor noise, in grey levels of 255.
        cast: Largest colour cast: a channel's gain departs from 1 by up to this much.
        margin: Least and greatest border round the vehicle's box, as a share of its longer side.
    """

    elevation: tuple[float, float] = (9.0, 32.0)
    distance: tuple[float, float] = (10.0, 24.0)
    azimuth_jitter: float = 10.0
    dusk_share: float = 0.18
    night_share: float = 0.12
    resolution: tuple[float, float] = (0.7, 1.0)
    blur: float = 0.008
    noise: float = 6.0
    cast: float = 0.10
    margin: tuple[float, float] = (0.02, 0.10)


# Crops as in VeRi-776: taken at 50 or so pixels a metre, mostly sharp.
SURVEILLANCE = CameraStyle()
# Crops as in VRIC: motion blur, soft focus and sensors that resolve less than the file's pixels.
LOW_RESOLUTION = CameraStyle(
    elevation=(7.0, 36.0), resolution=(0.4, 0.95), blur=0.022, noise=9.0, cast=0.12, night_share=0.18
)


@dataclasses.dataclass(frozen=True)
class Camera:
    """One camera of an installation.

    Attributes:
        azimuth: Of the camera seen from the vehicle, degrees; 0 is straight ahead, 90 its left.
        elevation: Degrees above the horizon.
        distance: Metres.
        sun: (3,) float32 unit vector towards the light, in the vehicle's axes.
        sun_rgb: (3,) float32 strength of direct light.
        ambient_rgb: (3,) float32 strength of light from the sky.
        sky_rgb: (3,) float32 colour of the sky, 0-255.
        lamps: How brightly vehicles' lamps shine, 0 by day to 1 at night.
        tone: (1, 256, 3) uint8 lookup table: exposure, contrast and colour cast.
        resolution: Sensor resolution as a share of the pixels asked for.
        defocus: Gaussian blur, standard deviation as a share of the picture's width.
        motion: Motion blur along the image, as a share of the picture's width.
        noise: Standard deviation of sensor noise in grey levels.
        scenery: Seeds the background, which is the same for all its shots.
    """

    azimuth: float
    elevation: float
    distance: float
    sun: np.ndarray
    sun_rgb: np.ndarray
    ambient_rgb: np.ndarray
    sky_rgb: np.ndarray
    lamps: float
    tone: np.ndarray
    resolution: float
    defocus: float
    motion: float
    noise: float
    scenery: int


@dataclasses.dataclass(frozen=True)
class View:
    """The camera's pose for one shot, with the pinhole projection that goes with it.

    Attributes:
        position: (3,) float32 in the vehicle's axes, metres.
        axes: (3, 3) float32; rows are the image's right, the image's down, and the viewing direction.
    """

    position: np.ndarray
    axes: np.ndarray

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projects (N, 3) points.

        Returns:
            (N, 2) float32 image-plane coordinates (x right, y down, focal length 1) and (N,) depth in metres.
        """
        local = (points - self.position) @ self.axes.T
        depth = np.maximum(local[:, 2], np.float32(0.05))
        return local[:, :2] / depth[:, None], depth


def _tone_table(gain: np.ndarray, gamma: float, lift: float) -> np.ndarray:
    levels = np.arange(256, dtype=np.float64)[:, None] / 255
    curve = lift + (1 - lift) * np.minimum(levels * gain, 1.0) ** gamma
    return np.clip(np.rint(255 * curve), 0, 255).astype(np.uint8)[None]


@functools.lru_cache(maxsize=1024)
def make_camera(seed: int, camera: int, style: CameraStyle) -> Camera:
    """Returns a camera; a pure function of its arguments.

    Azimuths follow a low-discrepancy sequence over the camera index, so that any dozen neighbouring
    cameras hold front, rear and some side views.
    """
    rng = np.random.Generator(np.random.PCG64([seed, 2, camera]))
    offset = float(np.random.Generator(np.random.PCG64([seed, 3])).random())
    turn = (offset + camera * 0.6180339887498949) % 1.0
    # Roads are watched from their ends: 45 % fronts, 40 % rears, 15 % sides.
    sign = 1.0 if rng.random() < 0.5 else -1.0
    if turn < 0.45:
        azimuth = sign * (10 + 42 * turn / 0.45)
    elif turn < 0.85:
        azimuth = 180 + sign * (10 + 42 * (turn - 0.45) / 0.40)
    else:
        azimuth = sign * (65 + 50 * (turn - 0.85) / 0.15)
    elevation = rng.uniform(*style.elevation)
    distance = rng.uniform(*style.distance)
    hour = rng.random()
    sun_azimuth = np.deg2rad(azimuth + rng.uniform(-100, 100))
    sun_elevation = np.deg2rad(rng.uniform(30, 65))
    if hour < style.night_share:
        ambient, direct = np.array([0.40, 0.42, 0.52]), np.array([0.50, 0.44, 0.32]) * rng.uniform(0.7, 1.1)
        sky, lamps = np.array([26, 30, 46]), 1.0
    elif hour < style.night_share + style.dusk_share:
        ambient, direct = np.array([0.54, 0.51, 0.57]), np.array([0.60, 0.44, 0.28]) * rng.uniform(0.8, 1.2)
        sky, lamps = np.array([196, 160, 140]), 0.55
        sun_elevation = np.deg2rad(rng.uniform(12, 25))
    else:
        overcast = rng.random()
        ambient = np.array([0.56, 0.58, 0.62]) + 0.26 * overcast
        direct = np.array([0.74, 0.69, 0.60]) * (1 - 0.75 * overcast)
        sky, lamps = np.array([186, 206, 228]) + overcast * np.array([24, 10, -6]), 0.0
    sun = np.array(
        [
            np.cos(sun_elevation) * np.cos(sun_azimuth),
            np.cos(sun_elevation) * np.sin(sun_azimuth),
            np.sin(sun_elevation),
        ]
    )
    gain = rng.uniform(0.88, 1.12) * (1 + rng.uniform(-style.cast, style.cast, size=3))
    tone = _tone_table(gain, float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.0, 0.07)))
    moving = rng.random() < 0.5
    blur = style.blur * rng.random()
    return Camera(
        azimuth=float(azimuth),
        elevation=float(elevation),
        distance=float(distance),
        sun=sun.astype(np.float32),
        sun_rgb=direct.astype(np.float32),
        ambient_rgb=ambient.astype(np.float32),
        sky_rgb=sky.astype(np.float32),
        lamps=lamps,
        tone=tone,
        resolution=float(rng.uniform(*style.resolution)),
        defocus=float(blur * 0.5),
        motion=float(1.6 * blur) if moving else 0.0,
        noise=float(style.noise * rng.uniform(0.2, 1.0)),
        scenery=int(rng.integers(2**31)),
    )


def aim(camera: Camera, style: CameraStyle, length: float, height: float, rng: np.random.Generator) -> View:
    """Draws the pose of one shot.

    Args:
        camera: The camera.
        style: Its installation's style, for the jitter.
        length: Of the vehicle, metres; a camera keeps at least 1.5 lengths away.
        height: Of the vehicle, metres; the camera looks at its middle.
        rng: The shot's generator.
    """
    azimuth = np.deg2rad(camera.azimuth + style.azimuth_jitter * rng.uniform(-1, 1))
    elevation = np.deg2rad(camera.elevation + rng.uniform(-2.5, 2.5))
    distance = max(camera.distance * rng.uniform(0.8, 1.25), 1.5 * length)
    target = np.array([0.0, 0.0, 0.45 * height])
    direction = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    forward = -direction
    right = np.cross(forward, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    roll = np.deg2rad(rng.uniform(-2, 2))
    right, down = np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right
    axes = np.stack([right, down, forward]).astype(np.float32)
    return View((target + distance * direction).astype(np.float32), axes)
