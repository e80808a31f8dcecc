"""How the generated demo pictures look: shapes of the things, their paint, textures of the ground.

A shape is a signed distance in pixels, negative inside, from which follow its mask, a smooth edge, a dark rim
and a soft shadow. Shapes: H W rows and columns; colours are 0 to 1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image

Size = tuple[int, int]
HUE_SPREAD = 0.02  # standard deviation of the hue around its class's own
ODD_LOOKS = 0.04  # part of the objects with any hue and pattern: colour alone does not tell the class


class Shape(NamedTuple):
    """A placed shape: `distance` (H, W) in pixels, coordinates `u` and `v` (H, W) in units of its radius."""

    distance: np.ndarray
    u: np.ndarray
    v: np.ndarray
    radius: float
    full_area: int  # pixels, those beyond the picture's edge included


class Look(NamedTuple):
    """The paint of an object: two colours (3,), the pattern that mixes them, and how often it repeats."""

    colour: np.ndarray
    second: np.ndarray
    pattern: str
    frequency: float


def smooth_noise(rng: Generator, size: Size, cells: int | tuple[int, int]) -> np.ndarray:
    """Return noise (H, W) of about unit spread that varies over 1 / `cells` (rows, columns) of a picture."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    grid = rng.normal(size=(rows + 2, columns + 2)).astype(np.float32)
    picture = Image.fromarray(grid).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float64)


# ---- shapes: distance from the border in units of the radius, negative inside ----


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - 1


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(u, v) - 0.74) - 0.26


def _box(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.86


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    side = np.maximum(np.sqrt(3) / 2 * np.abs(u) - v / 2, v)
    return side - 0.5 * 1.1


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    wedge = np.pi / 5
    angle = np.abs((np.arctan2(u, -v) + wedge) % (2 * wedge) - wedge)  # folded to half a spike
    x, y = np.hypot(u, v) * np.cos(angle), np.hypot(u, v) * np.sin(angle)
    inner = 0.48 * np.array((np.cos(wedge), np.sin(wedge)))
    normal = np.array((inner[1], 1 - inner[0])) / np.hypot(inner[1], 1 - inner[0])
    return (x - 1) * normal[0] + y * normal[1]


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 1, b - 0.34), np.maximum(a - 0.34, b - 1))


# name: (distance, hue, own pattern, least width as a part of the height)
SHAPES: dict[str, tuple[Callable, float, str, float]] = {
    'disc': (_disc, 0.02, 'rays', 0.75),
    'ring': (_ring, 0.80, 'sectors', 0.80),
    'box': (_box, 0.09, 'planks', 0.65),
    'triangle': (_triangle, 0.47, 'bands', 0.80),
    'star': (_star, 0.155, 'glow', 0.90),
    'cross': (_cross, 0.66, 'checks', 0.85),
}
PATTERNS: dict[str, Callable] = {  # how much of the second colour, 0 to 1, at u, v
    'rays': lambda u, v, f: 0.8 * np.clip(np.hypot(u + 0.3, v + 0.35), 0, 1),
    'sectors': lambda u, v, f: 0.9 * (np.sin(np.arctan2(v, u) * round(2 * f)) > 0),
    'planks': lambda u, v, f: 0.9 * (np.abs((u * f) % 1 - 0.5) > 0.38),
    'bands': lambda u, v, f: 0.9 * ((v * f) % 1 > 0.5),
    'glow': lambda u, v, f: np.clip(1.1 - 1.6 * np.hypot(u, v), 0, 1),
    'checks': lambda u, v, f: 0.85 * (((u * f) % 1 > 0.5) ^ ((v * f) % 1 > 0.5)),
}


def draw_shape(rng: Generator, name: str, radius: float, centre: tuple[float, float], size: Size) -> Shape:
    """Place the shape `name`, turned and narrowed by chance, with its middle at row and column `centre`."""
    border, _, _, narrowest = SHAPES[name]
    angle, narrow = rng.uniform(0, 2 * np.pi), rng.uniform(narrowest, 1)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5  # pixel middles
    y, x = (y - centre[0]) / radius, (x - centre[1]) / radius
    u, v = (x * np.cos(angle) + y * np.sin(angle)) / narrow, y * np.cos(angle) - x * np.sin(angle)
    lattice_v, lattice_u = np.mgrid[-1.2:1.2:48j, -1.2:1.2:48j]
    full_area = (border(lattice_u, lattice_v) < 0).mean() * 2.4**2 * narrow * radius**2
    return Shape(border(u, v) * radius * np.sqrt(narrow), u, v, radius, int(full_area))


def choose_look(rng: Generator, name: str) -> Look:
    """Choose colours and pattern of one object: mostly those of its class, sometimes any."""
    _, hue, pattern, _ = SHAPES[name]
    hue = hue + HUE_SPREAD * rng.normal()
    if rng.random() < ODD_LOOKS:
        hue, pattern = rng.random(), str(rng.choice(list(PATTERNS)))
    saturation, value = rng.uniform(0.6, 0.95), rng.uniform(0.75, 1)
    colour = np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))
    if rng.random() < 0.5 or pattern == 'glow':
        second = np.array(colorsys.hsv_to_rgb((hue + 0.06) % 1, 0.25 * saturation, 1))  # pale
    else:
        second = np.array(colorsys.hsv_to_rgb((hue - 0.04) % 1, saturation, 0.5 * value))  # dark
    return Look(colour, second, pattern, rng.uniform(1.6, 2.6))


def paint_shape(rng: Generator, canvas: np.ndarray, shape: Shape, look: Look) -> None:
    """Paint the shape, its rim and its soft shadow onto `canvas` (H, W, 3), in place."""
    distance, radius = shape.distance, shape.radius
    drop = max(1, round(0.12 * radius))  # the light comes from the upper left
    shadow = np.full_like(distance, np.inf)
    shadow[drop:, drop:] = distance[:-drop, :-drop]
    canvas *= 1 - 0.45 * np.clip(0.5 - shadow / (2 + 0.15 * radius), 0, 1)[..., None]

    mix = PATTERNS[look.pattern](shape.u, shape.v, look.frequency)[..., None]  # (H, W, 1)
    paint = look.colour * (1 - mix) + look.second * mix  # (H, W, 3)
    y, x = np.mgrid[: distance.shape[0], : distance.shape[1]]
    inside = distance < 0
    if inside.any():  # lighter towards the light
        slope = (x + y) - (x + y)[inside].mean()
        paint = paint * (1 - 0.16 * np.clip(slope / (1.2 * radius), -1, 1))[..., None]
    rim = np.clip(1.3 + distance / max(1.0, 0.07 * radius), 0, 1)[..., None]
    paint = paint * (1 - 0.5 * rim) + rng.normal(0, 0.02, (*distance.shape, 1))
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas *= 1 - cover
    canvas += paint * cover


# ---- grounds ----


def _colours(dark: tuple, bright: tuple, amount: np.ndarray) -> np.ndarray:
    amount = np.clip(amount, 0, 1)[..., None]
    return np.array(dark) * (1 - amount) + np.array(bright) * amount  # (H, W, 3)


def _grass(rng: Generator, size: Size) -> np.ndarray:
    blades = smooth_noise(rng, size, (size[0] // 7, size[1] // 2)) + 0.6 * smooth_noise(rng, size, 24)
    return _colours(
        (0.10, 0.25, 0.07), (0.45, 0.62, 0.22), 0.45 + 0.2 * blades + 0.12 * smooth_noise(rng, size, 4)
    )


def _water(rng: Generator, size: Size) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    bend = 2.2 * smooth_noise(rng, size, (3, 4)) + 0.8 * smooth_noise(rng, size, (14, 7))
    waves = np.sin(y * 2 * np.pi / rng.uniform(7, 12) + x * rng.uniform(-0.08, 0.08) + bend)
    crests = np.clip(waves - 0.75, 0, 1) * 1.4
    return _colours((0.10, 0.24, 0.36), (0.55, 0.75, 0.85), 0.3 + 0.17 * waves + crests)


def _sand(rng: Generator, size: Size) -> np.ndarray:
    grain = 0.09 * rng.normal(size=size) + 0.06 * smooth_noise(rng, size, (size[0] // 3, size[1] // 3))
    return _colours((0.52, 0.43, 0.30), (0.88, 0.80, 0.62), 0.55 + grain + 0.16 * smooth_noise(rng, size, 5))


def _brick(rng: Generator, size: Size) -> np.ndarray:
    length, course = rng.uniform(17, 24), rng.uniform(8, 11)
    y, x = np.mgrid[: size[0], : size[1]] + rng.uniform(0, 20, (2, 1, 1))
    row = np.floor(y / course).astype(int)
    along = x / length + 0.5 * (row % 2)
    tint = rng.random((256, 256))[row % 256, np.floor(along).astype(int) % 256]  # each brick its own
    joint = (y % course < 1.4) | (along % 1 * length < 1.4)
    wall = _colours((0.36, 0.20, 0.17), (0.60, 0.36, 0.29), tint + 0.12 * rng.normal(size=size))
    mortar = _colours((0.55, 0.53, 0.50), (0.75, 0.73, 0.70), 0.5 + 0.2 * rng.normal(size=size))
    return np.where(joint[..., None], mortar, wall)


GROUNDS: dict[str, Callable] = {'grass': _grass, 'water': _water, 'sand': _sand, 'brick': _brick}
