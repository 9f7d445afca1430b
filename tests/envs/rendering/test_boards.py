"""Pictures of grid worlds: what a viewer must be able to tell apart, and what callers may rely on."""

import itertools
import sys

import gymnasium
import numpy as np
import pytest

from prefrl.envs.rendering.boards import Window, draw_board, draw_vehicle

ALL_CODES = np.arange(12).reshape(2, 6)


def tile_images(tile):
    """Return the picture of each code [12, tile, tile, 3]."""
    board = draw_board(ALL_CODES, tile=tile)
    return board.reshape(2, tile, 6, tile, 3).transpose(0, 2, 1, 3, 4).reshape(12, tile, tile, 3)


def luminance(images):
    return images @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("shape", "tile"), [((10, 10), 48), ((3, 5), 32), ((1, 1), 8), ((15, 2), 9)])
def test_board_has_one_tile_per_cell(shape, tile):
    board = draw_board(np.zeros(shape, dtype=np.int64), tile=tile)
    assert board.shape == (shape[0] * tile, shape[1] * tile, 3)
    assert board.dtype == np.uint8
    assert board.flags.c_contiguous


def test_rows_run_down_and_columns_to_the_right():
    images = tile_images(16)
    board = draw_board(np.array([[3, 0], [4, 6], [0, 1]]), tile=16)
    for (row, col), code in {(0, 0): 3, (1, 0): 4, (1, 1): 6, (2, 1): 1}.items():
        cell = board[row * 16 : (row + 1) * 16, col * 16 : (col + 1) * 16]
        np.testing.assert_array_equal(cell, images[code])


@pytest.mark.parametrize("tile", [32, 48])
def test_every_code_looks_different(tile):
    images = tile_images(tile).astype(int)
    for first, second in itertools.combinations(range(12), 2):
        # A tenth of the pixels differ by a step that the eye sees at once.
        differs = np.abs(images[first] - images[second]).max(axis=-1) > 40
        assert differs.mean() > 0.1, (first, second)


@pytest.mark.parametrize("tile", [32, 48])
@pytest.mark.parametrize("code", range(1, 6))
def test_the_same_object_stands_on_road_and_on_bricks(tile, code):
    images = tile_images(tile).astype(int)
    ground_road, ground_brick = images[0], images[6]
    on_road, on_brick = images[code], images[code + 6]
    same = (on_road == on_brick).all(axis=-1)
    drawn = (on_road != ground_road).any(axis=-1)
    assert same[drawn].mean() > 0.6, "the object itself looks alike on both grounds"
    assert (on_brick == ground_brick).all(axis=-1).mean() > 0.08, "bricks stay visible around it"


@pytest.mark.parametrize("tile", [32, 48])
def test_objects_stand_out_from_both_grounds(tile):
    images = tile_images(tile)
    for ground in (0, 6):
        background = luminance(images[ground])
        for code in range(ground + 1, ground + 6):
            contrast = np.abs(luminance(images[code]) - background)
            assert np.quantile(contrast, 0.95) > 60, code


def test_board_is_the_callers_to_change():
    first = draw_board(ALL_CODES, tile=16)
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(draw_board(ALL_CODES, tile=16), kept)
    single = draw_board(np.array([[5]]), tile=16)
    single[:] = 7
    np.testing.assert_array_equal(draw_board(ALL_CODES, tile=16), kept)


@pytest.mark.parametrize("heading", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("tile", [8, 33, 48])
def test_vehicle_changes_its_own_cell_only(tile, heading):
    board = draw_board(ALL_CODES, tile=tile)
    kept = board.copy()
    image = draw_vehicle(board, 1, 4, tile=tile, heading=heading)
    np.testing.assert_array_equal(board, kept)
    changed = (image != board).any(axis=-1)
    cell = np.zeros_like(changed)
    cell[tile:, 4 * tile : 5 * tile] = True
    assert not changed[~cell].any()
    assert changed[cell].mean() > 0.3


def test_vehicle_stands_out_on_every_ground():
    board = draw_board(ALL_CODES)
    for code in range(12):
        image = draw_vehicle(board, *divmod(code, 6)).astype(int)
        assert (
            np.quantile(np.abs(image - board).max(axis=-1).reshape(2, 48, 6, 48)[code // 6, :, code % 6], 0.8)
            > 60
        )


def test_headings_are_rotations_of_one_van():
    board = np.full((48, 48, 3), 128, dtype=np.uint8)
    up, down, left, right = (draw_vehicle(board, 0, 0, heading=heading) for heading in range(4))
    for first, second in itertools.combinations((up, down, left, right), 2):
        assert (first != second).any(axis=-1).mean() > 0.1
    np.testing.assert_array_equal(up, np.rot90(right))
    np.testing.assert_array_equal(down, np.rot90(right, -1))
    np.testing.assert_array_equal(draw_vehicle(board, 0, 0, heading=None), right)
    # The windscreen, the palest blue of the van, is at the front.
    pale = (right[..., 2] > 230) & (right[..., 0].astype(int) > 190) & (right[..., 0] < 215)
    assert np.nonzero(pale)[1].mean() > 30
    assert np.nonzero(np.rot90(pale))[0].mean() < 18


def test_vehicle_blends_like_floating_point():
    board = draw_board(ALL_CODES)
    white, black = (draw_vehicle(np.full_like(board, ground), 0, 0)[:48, :48] for ground in (255, 0))
    transparency = (white.astype(float) - black) / 255  # what the van lets through
    expected = black + transparency * board[48:, 48:96]
    actual = draw_vehicle(board, 1, 1)[48:, 48:96]
    np.testing.assert_allclose(actual, expected, atol=1.01)


def test_cells_beyond_the_range_of_their_integer_type_are_found():
    board = np.zeros((480, 480, 3), dtype=np.uint8)
    image = draw_vehicle(board, np.int8(9), np.int8(8))
    rows, cols = np.nonzero(image.any(axis=-1))
    assert rows.min() >= 432
    assert 384 <= cols.min() <= cols.max() < 432


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.array([[0, 12]]), r"cells must hold codes 0 to 11; got \[12\]"),
        (np.array([[0, -1]]), r"cells must hold codes 0 to 11; got \[-1\]"),
        (np.zeros(4, dtype=int), r"cells must be .*\[height, width\]; got shape \(4,\)"),
        (np.zeros((2, 2, 1), dtype=int), r"cells must be .*got shape \(2, 2, 1\)"),
        (np.zeros((0, 3), dtype=int), r"cells must be a non-empty .*got shape \(0, 3\)"),
        (np.zeros((2, 2)), r"cells must be .*integer.*dtype float64"),
    ],
)
def test_board_refuses_bad_cells(cells, message):
    with pytest.raises(ValueError, match=message):
        draw_board(cells)


@pytest.mark.parametrize("tile", [7, 0, -48, 12.5, "48", None])
def test_small_or_odd_tiles_are_refused(tile):
    with pytest.raises(ValueError, match="tile must be a whole number of pixels, at least 8; got"):
        draw_board(ALL_CODES, tile=tile)
    with pytest.raises(ValueError, match="tile must be a whole number of pixels, at least 8; got"):
        draw_vehicle(np.zeros((48, 48, 3), dtype=np.uint8), 0, 0, tile=tile)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row": 2}, r"row and col .*2x6 board; got \(2, 0\)"),
        ({"row": -1}, r"row and col .*got \(-1, 0\)"),
        ({"col": 6}, r"row and col .*got \(0, 6\)"),
        ({"col": 0.5}, r"row and col .*got \(0, 0.5\)"),
        ({"heading": 4}, r"heading must be .*or None; got 4"),
        ({"heading": -1}, r"heading must be .*got -1"),
        ({"heading": "up"}, r"heading must be .*got 'up'"),
        ({"tile": 32}, r"board_image must be uint8 \[height \* 32, .*got shape \(20, 60, 3\)"),
        ({"board_image": np.zeros((20, 60), dtype=np.uint8)}, r"board_image must be .*shape \(20, 60\)"),
        ({"board_image": np.zeros((20, 60, 3))}, r"board_image must be uint8 .*float64"),
    ],
)
def test_vehicle_refuses_bad_arguments(arguments, message):
    good = {"board_image": draw_board(ALL_CODES, tile=10), "row": 0, "col": 0, "tile": 10}
    with pytest.raises(ValueError, match=message):
        draw_vehicle(**{**good, **arguments})


@pytest.fixture
def pygame(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    module = pytest.importorskip("pygame")
    yield module
    module.display.quit()


def test_window_shows_the_frame_with_its_colours_and_sides(pygame):
    frame = draw_board(ALL_CODES, tile=16)
    window = Window("Delivery", fps=1000)
    window.show(frame)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, frame)
    assert pygame.display.get_caption()[0] == "Delivery"
    window.show(frame[:16])
    assert pygame.display.get_surface().get_size() == (96, 16)
    window.close()
    window.close()
    assert not pygame.display.get_init()


def test_window_keeps_the_pace(pygame):
    window = Window("slow", fps=50)
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    window.show(frame)
    start = pygame.time.get_ticks()
    for _ in range(3):
        window.show(frame)
    assert pygame.time.get_ticks() - start >= 50
    window.close()


def test_closing_the_window_does_not_end_the_run(pygame):
    window = Window("Delivery", fps=1000)
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    window.show(frame)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(frame)
    assert window.closed
    assert not pygame.display.get_init()
    window.show(frame)
    assert not pygame.display.get_init(), "a frame after the end opens no new window"
    window.close()


def test_window_refuses_bad_arguments(pygame):
    with pytest.raises(ValueError, match="fps must be at least 1; got 0"):
        Window("Delivery", fps=0)
    window = Window("Delivery", fps=10)
    with pytest.raises(ValueError, match=r"frame must be uint8 .*got shape \(8, 8\)"):
        window.show(np.zeros((8, 8), dtype=np.uint8))


def test_window_names_the_extra_when_pygame_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "\.\[render\]"'):
        Window("Delivery", fps=10)


def test_drawing_does_not_need_pygame(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert draw_vehicle(draw_board(ALL_CODES), 0, 0).any()
