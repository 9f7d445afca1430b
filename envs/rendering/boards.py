"""Pictures of grid worlds: the board, the delivery van on it, and a window to watch it in.

Sprites are painted once per tile size (``prefrl.envs.rendering.tiles``) and then only copied.
"""

import operator
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from .tiles import Colour, Image, Tile

NUM_CODES = 12
MIN_TILE = 8
NUM_HEADINGS = 4
FIRST_BRICK_CODE = 6

ASPHALT: Colour = (205, 209, 213)
LANE_MARK: Colour = (240, 242, 243)
BRICK: Colour = (196, 128, 104)
BRICK_LIGHT: Colour = (207, 143, 118)
MORTAR: Colour = (228, 204, 188)
GRASS: Colour = (150, 190, 120)
GRASS_EDGE: Colour = (112, 156, 88)
WALL: Colour = (250, 238, 214)
ROOF: Colour = (74, 96, 134)
DOOR: Colour = (122, 82, 60)
WINDOW_PANE: Colour = (132, 190, 220)
INK: Colour = (48, 52, 60)
WOOL: Colour = (255, 255, 252)
WOOL_SHADE: Colour = (222, 224, 228)
GOLD: Colour = (253, 208, 66)
GOLD_LIGHT: Colour = (255, 229, 138)
GOLD_DARK: Colour = (176, 122, 20)
BARRIER: Colour = (234, 92, 40)
WHITE: Colour = (255, 255, 255)
LAMP: Colour = (255, 196, 64)
FINISH: Colour = (66, 160, 104)
FINISH_EDGE: Colour = (34, 112, 70)
VAN: Colour = (36, 104, 196)
VAN_DARK: Colour = (20, 60, 122)
VAN_LIGHT: Colour = (74, 142, 226)
GLASS: Colour = (200, 230, 246)
PARCEL: Colour = (214, 168, 112)
PARCEL_TAPE: Colour = (246, 226, 190)
TAIL_LIGHT: Colour = (226, 62, 56)


def _road(t: Tile) -> None:
    t.fill(t.box(-1, -1, 2, 2), ASPHALT)
    # Half of each dash lies on this tile, half on its neighbour: together they are the lane marks.
    for edge in (0.0, 1.0):
        t.fill(t.box(edge - 0.022, 0.28, edge + 0.022, 0.72), LANE_MARK)
        t.fill(t.box(0.28, edge - 0.022, 0.72, edge + 0.022), LANE_MARK)


def _bricks(t: Tile) -> None:
    t.fill(t.box(-1, -1, 2, 2), MORTAR)
    height, width, joint = 0.25, 0.5, 0.018
    for course in range(4):
        top = course * height
        # Every other course is shifted by half a brick; bricks cut by the edge go on in the next tile.
        for number in range(3):
            left = number * width - (width / 2 if course % 2 else 0.0)
            colour = BRICK_LIGHT if (course + 2 * (number % 2)) % 3 == 0 else BRICK
            brick = t.box(left + joint, top + joint, left + width - joint, top + height - joint, 0.02)
            t.fill(brick, colour)


def _house(t: Tile) -> None:
    garden = t.box(0.06, 0.06, 0.94, 0.94, 0.10)
    t.fill(garden, GRASS_EDGE)
    t.fill(garden + 0.03, GRASS)
    t.fill(t.ellipse(0.5, 0.83, 0.36, 0.05), INK, 0.25)
    t.fill(t.box(0.66, 0.18, 0.76, 0.45), DOOR)  # chimney
    t.fill(t.box(0.22, 0.42, 0.78, 0.83), WALL)
    t.fill(t.polygon((0.5, 0.13), (0.90, 0.49), (0.10, 0.49)), ROOF)
    t.fill(t.box(0.43, 0.58, 0.57, 0.83), DOOR)
    for left in (0.27, 0.62):
        t.fill(t.box(left, 0.57, left + 0.11, 0.69), WINDOW_PANE)


def _sheep(t: Tile) -> None:
    t.fill(t.ellipse(0.46, 0.86, 0.36, 0.05), INK, 0.25)
    for x in (0.29, 0.38, 0.54, 0.63):
        t.fill(t.line(x, 0.66, x, 0.84, 0.06), INK)
    curls = [(0.24, 0.52, 0.14), (0.34, 0.37, 0.14), (0.50, 0.33, 0.14), (0.64, 0.40, 0.13)]
    curls += [(0.30, 0.62, 0.13), (0.47, 0.65, 0.14), (0.62, 0.60, 0.13), (0.46, 0.50, 0.20)]
    fleece = np.minimum.reduce([t.circle(*curl) for curl in curls])
    t.fill(fleece - 0.025, INK)
    t.fill(fleece, WOOL_SHADE)
    t.fill(np.maximum(fleece, t.ellipse(0.45, 0.44, 0.38, 0.25)), WOOL)
    t.fill(t.line(0.70, 0.36, 0.62, 0.41, 0.085), INK)  # ear
    t.fill(t.line(0.75, 0.41, 0.83, 0.53, 0.20), INK)
    t.fill(t.circle(0.66, 0.31, 0.075), WOOL)
    t.fill(t.circle(0.75, 0.30, 0.065), WOOL)
    t.fill(t.circle(0.79, 0.43, 0.028), WHITE)


def _coin(t: Tile) -> None:
    t.fill(t.ellipse(0.5, 0.84, 0.26, 0.05), INK, 0.25)
    t.fill(t.circle(0.5, 0.5, 0.34), INK)
    t.fill(t.circle(0.5, 0.5, 0.315), GOLD)
    t.fill(np.abs(t.circle(0.5, 0.5, 0.225)) - 0.016, GOLD_DARK)
    t.fill(t.box(0.455, 0.36, 0.545, 0.64, 0.03), GOLD_DARK)
    upper_left = t.polygon((0.1, 0.1), (0.65, 0.1), (0.1, 0.65))
    t.fill(np.maximum(np.abs(t.circle(0.5, 0.5, 0.27)) - 0.02, upper_left), GOLD_LIGHT)


def _roadblock(t: Tile) -> None:
    t.fill(t.ellipse(0.5, 0.84, 0.42, 0.05), INK, 0.25)
    for x in (0.22, 0.78):
        t.fill(t.box(x - 0.035, 0.28, x + 0.035, 0.82), INK)
        t.fill(t.box(x - 0.11, 0.79, x + 0.11, 0.85, 0.02), INK)
        t.fill(t.circle(x, 0.23, 0.075), INK)
        t.fill(t.circle(x, 0.23, 0.05), LAMP)
    for top in (0.32, 0.56):
        board = t.box(0.08, top, 0.92, top + 0.18, 0.03)
        t.fill(board - 0.02, INK)
        t.fill(board, WHITE)
        t.fill(np.maximum(board, t.stripes(t.x + t.y, 0.28) * np.sqrt(0.5)), BARRIER)


def paint_goal(t: Tile) -> None:
    """Paint a flag of finish on a green disc."""
    t.fill(t.circle(0.5, 0.5, 0.46), FINISH_EDGE)
    t.fill(t.circle(0.5, 0.5, 0.425), FINISH)
    t.fill(t.ellipse(0.32, 0.84, 0.13, 0.04), INK, 0.35)
    t.fill(t.line(0.31, 0.17, 0.31, 0.83, 0.055), INK)
    flag = t.box(0.31, 0.18, 0.79, 0.54)
    t.fill(flag - 0.02, INK)
    t.fill(flag, WHITE)
    squares = np.maximum(t.stripes(t.x - 0.31, 0.24), t.stripes(t.y - 0.18, 0.24))
    others = np.maximum(t.stripes(t.x - 0.19, 0.24), t.stripes(t.y - 0.06, 0.24))
    t.fill(np.maximum(flag, np.minimum(squares, others)), INK)


def _van(t: Tile) -> None:
    """Paint the van from above, driving to the right."""
    for x in (0.26, 0.70):
        for y in (0.23, 0.77):
            t.fill(t.box(x - 0.09, y - 0.05, x + 0.09, y + 0.05, 0.03), INK)
    for y in (0.19, 0.81):
        t.fill(t.line(0.68, 0.5, 0.66, y, 0.05), VAN_DARK)  # mirrors
    body = t.box(0.07, 0.24, 0.94, 0.76, 0.09)
    t.fill(body - 0.02, WHITE)  # a light rim keeps it clear of bricks and of dark objects below
    t.fill(body, VAN_DARK)
    t.fill(body + 0.028, VAN)
    t.fill(t.box(0.12, 0.29, 0.62, 0.71, 0.04), VAN_LIGHT)
    t.fill(t.polygon((0.66, 0.33), (0.80, 0.28), (0.80, 0.72), (0.66, 0.67)), GLASS)
    for y in (0.32, 0.68):
        t.fill(t.ellipse(0.905, y, 0.03, 0.05), LAMP)
        t.fill(t.box(0.07, y - 0.05, 0.10, y + 0.05, 0.01), TAIL_LIGHT)
    t.fill(t.box(0.24, 0.37, 0.50, 0.63, 0.02), PARCEL)
    t.fill(t.box(0.34, 0.37, 0.40, 0.63), PARCEL_TAPE)


# Codes 1 to 5 on asphalt and 7 to 11 on bricks, in this order.
_OBJECTS: tuple[Callable[[Tile], None], ...] = (paint_goal, _house, _sheep, _coin, _roadblock)


@lru_cache(maxsize=8)
def _cell_images(tile: int) -> Image:
    """Return the picture of every cell code, [code, tile, tile, rgb], read-only since it is shared."""
    images = np.empty((NUM_CODES, tile, tile, 3), dtype=np.uint8)
    for code in range(NUM_CODES):
        canvas = Tile(tile)
        (_bricks if code >= FIRST_BRICK_CODE else _road)(canvas)
        if code % FIRST_BRICK_CODE:
            _OBJECTS[code % FIRST_BRICK_CODE - 1](canvas)
        images[code] = np.round(canvas.rgba[..., :3])
    images.flags.writeable = False
    return images


@lru_cache(maxsize=8)
def _sprites(
    paint: Callable[[Tile], None], tile: int
) -> tuple[tuple[NDArray[np.uint16], NDArray[np.uint16]], ...]:
    """Return (colour times alpha [tile, tile, 3], 255 - alpha [tile, tile, 1]) for each heading."""
    canvas = Tile(tile)
    paint(canvas)
    right = np.round(canvas.rgba)
    sprites = []
    for rgba in (np.rot90(right), np.rot90(right, -1), right[:, ::-1], right):  # up, down, left, right
        premultiplied = (rgba[..., :3] * 255).astype(np.uint16)
        rest = (255 - rgba[..., 3:]).astype(np.uint16)
        premultiplied.flags.writeable = rest.flags.writeable = False
        sprites.append((premultiplied, rest))
    return tuple(sprites)


def _check_tile(tile: int) -> int:
    try:
        size = operator.index(tile)
    except TypeError:
        size = 0
    if size < MIN_TILE:
        raise ValueError(f"tile must be a whole number of pixels, at least {MIN_TILE}; got {tile!r}")
    return size


def draw_board(cells: NDArray[np.int64], *, tile: int = 48) -> Image:
    """Draw the board without the vehicle.

    Args:
        cells: Cell codes [height, width]: 0 road, 1 goal, 2 house, 3 sheep, 4 coin, 5 roadblock, 6 bricks,
            and 7 to 11 the objects of 1 to 5 on bricks.
        tile: Side of one cell in pixels, at least 8.

    Returns:
        A picture [height * tile, width * tile, rgb] that belongs to the caller.

    Raises:
        ValueError: If ``cells`` is no non-empty two-dimensional array of integers, holds an unknown code, or
            ``tile`` is too small.
    """
    tile = _check_tile(tile)
    board = np.asarray(cells)
    if board.ndim != 2 or board.size == 0 or not np.issubdtype(board.dtype, np.integer):
        raise ValueError(
            "cells must be a non-empty integer array [height, width]; "
            f"got shape {board.shape} and dtype {board.dtype}"
        )
    unknown = np.unique(board[(board < 0) | (board >= NUM_CODES)])
    if unknown.size:
        raise ValueError(f"cells must hold codes 0 to {NUM_CODES - 1}; got {unknown[:5].tolist()}")
    height, width = board.shape
    tiles = _cell_images(tile)[board]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(height * tile, width * tile, 3)


def draw_vehicle(
    board_image: Image,
    row: int,
    col: int,
    *,
    tile: int = 48,
    heading: int | None = 3,
    paint: Callable[[Tile], None] = _van,
) -> Image:
    """Draw the delivery van, or who else is painted, seen from above, into one cell of a copy of the board.

    Args:
        board_image: A picture from `draw_board` [height * tile, width * tile, rgb]; it is left as it is.
        row: Row of the cell, 0 at the top.
        col: Column of the cell, 0 at the left.
        tile: Side of one cell in pixels, as given to `draw_board`.
        heading: Last action, 0 up, 1 down, 2 left, 3 right; None, for a van that has not moved, faces right.
        paint: Paints who faces right on an empty tile.

    Returns:
        The new picture, of the shape of ``board_image``.

    Raises:
        ValueError: If the picture is no whole number of tiles, the cell lies outside it, or the heading is
            unknown.
    """
    tile = _check_tile(tile)
    shape = board_image.shape
    if (
        board_image.dtype != np.uint8
        or len(shape) != 3
        or shape[2] != 3
        or shape[0] % tile
        or shape[1] % tile
    ):
        raise ValueError(
            f"board_image must be uint8 [height * {tile}, width * {tile}, 3]; "
            f"got shape {shape} and dtype {board_image.dtype}"
        )
    height, width = shape[0] // tile, shape[1] // tile
    if row not in range(height) or col not in range(width):
        raise ValueError(
            f"row and col must name a cell of the {height}x{width} board; got ({row!r}, {col!r})"
        )
    if heading is not None and heading not in range(NUM_HEADINGS):
        raise ValueError(f"heading must be 0 (up), 1 (down), 2 (left), 3 (right) or None; got {heading!r}")
    row, col = int(row), int(col)  # a numpy int8 would overflow when multiplied by the tile size
    premultiplied, rest = _sprites(paint, tile)[3 if heading is None else int(heading)]
    image = board_image.copy()
    cell = image[row * tile : (row + 1) * tile, col * tile : (col + 1) * tile]
    cell[...] = (cell * rest + premultiplied) // 255
    return image


class Window:
    """A window on the screen that shows frames at a steady rate, for ``render_mode="human"``.

    Once the user closes the window, later frames are dropped, so that a long run goes on undisturbed.

    Args:
        title: Caption of the window.
        fps: Frames per second that `show` waits for, at least 1.

    Raises:
        DependencyNotInstalled: If pygame is missing.
        ValueError: If ``fps`` is less than 1.
    """

    def __init__(self, title: str, fps: int) -> None:
        if fps < 1:
            raise ValueError(f"fps must be at least 1; got {fps!r}")
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'pygame is needed for render_mode="human"; run `pip install ".[render]"`'
            ) from error
        self._pygame = pygame
        self._title = title
        self._fps = fps
        self._clock = pygame.time.Clock()
        self._screen: Any = None
        self.closed = False
        """True once the user or `close` has closed the window."""

    def show(self, frame: Image) -> None:
        """Show a picture [height, width, rgb] and wait until the next one is due.

        Raises:
            ValueError: If ``frame`` is no uint8 array of that shape.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(
                f"frame must be uint8 [height, width, 3]; got shape {frame.shape} and dtype {frame.dtype}"
            )
        if self.closed:
            return
        pygame = self._pygame
        size = (frame.shape[1], frame.shape[0])
        if self._screen is None or self._screen.get_size() != size:
            pygame.display.init()
            self._screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self._title)
        self._screen.blit(pygame.image.frombuffer(frame.tobytes(), size, "RGB"), (0, 0))
        pygame.display.flip()
        # Emptying the queue is also what keeps the desktop from declaring the window dead.
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()
            return
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window; closing it twice does no harm."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
        self.closed = True
