"""MinAtar (Young & Tian 2019, arXiv 1903.03176): five small Atari-like games, from their own package."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from prefrl.envs.core.checks import check_render_mode, reject_unknown_options

CELL_PIXELS = 32
"""Width of a cell in pictures."""

BACKGROUND = (16, 18, 26)
GRID = (26, 29, 40)

# Painted in this order, so that what matters lies on top.
COLOURS: dict[str, dict[str, tuple[int, int, int]]] = {
    "asterix": {
        "trail": (70, 74, 92),
        "enemy": (226, 84, 72),
        "gold": (250, 202, 62),
        "player": (92, 176, 250),
    },
    "breakout": {
        "trail": (96, 84, 60),
        "brick": (196, 98, 74),
        "paddle": (92, 176, 250),
        "ball": (252, 226, 120),
    },
    "freeway": {
        # the faster (1) the warmer
        "speed5": (56, 72, 110),
        "speed4": (64, 98, 110),
        "speed3": (94, 108, 84),
        "speed2": (122, 96, 64),
        "speed1": (134, 72, 66),
        "car": (226, 226, 232),
        "chicken": (250, 202, 62),
    },
    "seaquest": {
        "trail": (54, 70, 92),
        "oxygen_guage": (110, 206, 240),
        "diver_guage": (250, 202, 62),
        "diver": (250, 160, 62),
        "enemy_fish": (120, 200, 110),
        "enemy_sub": (226, 84, 72),
        "enemy_bullet": (246, 142, 150),
        "friendly_bullet": (240, 240, 246),
        "sub_back": (58, 108, 176),
        "sub_front": (92, 176, 250),
    },
    "space_invaders": {
        # an alien's cell also bears its direction, which says no more than the alien's motion
        "alien": (120, 200, 110),
        "enemy_bullet": (246, 142, 150),
        "friendly_bullet": (240, 240, 246),
        "cannon": (92, 176, 250),
    },
}
"""Colour of each game's channels."""

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}
"""How many kinds of object each game tells apart."""

MINIMAL_ACTIONS = {"asterix": 5, "breakout": 3, "freeway": 3, "seaquest": 6, "space_invaders": 4}
"""How many actions each game's minimal set has."""

# Of the package's game object: what never changes, and the random numbers, which have a place of their own.
_FIXED = {"channels", "action_map", "ramping", "random"}


def spaces(game: str) -> tuple[gym.spaces.Box, gym.spaces.Discrete]:
    """Return the spaces of a game with its minimal action set; the package, slow to load, is not asked."""
    boolean: Any = np.bool_  # which Box takes, but its types do not know
    observations = gym.spaces.Box(0, 1, (10, 10, CHANNELS[game]), boolean)
    return observations, gym.spaces.Discrete(MINIMAL_ACTIONS[game])


class MinAtarEnv(gym.Env[Any, Any]):
    """Five Atari games reduced to ten by ten cells: quick to play, hard enough to tell agents apart.

    ## Description
    MinAtar (Young & Tian, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement
    Learning Experiments", 2019, arXiv 1903.03176), played by the authors' own package: `pip install
    ".[minatar]"`. Ids: `prefrl/MinAtar-Asterix-v0`, `-Breakout-v0`, `-Freeway-v0`, `-Seaquest-v0` and
    `-SpaceInvaders-v0`.

    ## Action Space
    `Discrete(n)`: the game's minimal set, of the package's 0 stay, 1 left, 2 up, 3 right, 4 down, 5 fire.

    | game | n | actions |
    |---|---|---|
    | Asterix | 5 | stay, left, up, right, down |
    | Breakout | 3 | stay, left, right |
    | Freeway | 3 | stay, up, down |
    | Seaquest | 6 | all |
    | SpaceInvaders | 4 | stay, left, right, fire |

    With probability `sticky_action_prob` the previous action is repeated instead of the one given.

    ## Observation Space
    `Box(0, 1, (10, 10, channels), bool)`: which kinds of object are in a cell (row, column). Channels:
    Asterix 4, Breakout 4, Freeway 7, Seaquest 10, SpaceInvaders 6; `env.unwrapped.channels` has their names.

    ## Rewards
    The package's, as floats: 1 for a piece of gold, a brick, a road crossed, an enemy or an alien hit; 0 to
    10 for surfacing with six divers in Seaquest. Nothing is subtracted.

    ## Starting State
    The package's. `reset(seed=...)` seeds `np_random`, which all of the game's randomness is drawn from;
    resets without a seed go on from there. An episode starts with "stay" as its previous action (the package
    itself carries the last action over from the episode before).

    ## Episode End
    Terminates when the game is lost; Freeway terminates after about 2,500 steps. MinAtar has no limit, and
    a policy that never fails would play for ever, so `gym.make` truncates after 5,000 steps: our choice.

    ## Arguments
    - `sticky_action_prob` (0.1): probability that the previous action is repeated.
    - `difficulty_ramping` (True): enemies become faster and more frequent (Asterix, Seaquest, SpaceInvaders).
    - `minimal_action_set` (True): False gives all six actions in every game.
    - `render_mode`: None, "rgb_array" or "human".

    ## Version History
    - v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "human"], "render_fps": 15}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        *,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        minimal_action_set: bool = True,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        if game not in COLOURS:
            raise ValueError(f"game is {game!r}; allowed are {sorted(COLOURS)}")
        if not 0.0 <= sticky_action_prob <= 1.0:
            raise ValueError(f"sticky_action_prob is {sticky_action_prob}; it must be a probability")
        self._package = _make_game(game, float(sticky_action_prob), bool(difficulty_ramping))
        self._game = self._package.env
        self.game = game
        self.channels: tuple[str, ...] = tuple(
            sorted(self._game.channels, key=self._game.channels.__getitem__)
        )
        self.actions: tuple[int, ...] = tuple(
            self._package.minimal_action_set() if minimal_action_set else range(self._package.num_actions())
        )
        self.observation_space = spaces(game)[0]
        self.action_space = gym.spaces.Discrete(len(self.actions))
        self.render_mode = render_mode
        self._started = False
        self._window: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``.

        Raises:
            ValueError: if there are options, for there are none.
        """
        super().reset(seed=seed)
        reject_unknown_options(options, ())
        self._draw_from_np_random()
        self._package.last_action = 0
        self._package.reset()
        self._started = True
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: int) -> tuple[NDArray[np.bool_], float, bool, bool, dict[str, Any]]:
        """Advance by one step; see ``gymnasium.Env.step``.

        Raises:
            ValueError: if the action lies outside the action space.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        self._check_started("step")
        if not self.action_space.contains(action):
            raise ValueError(f"action must lie in {self.action_space}; got {action!r}")
        reward, terminated = self._package.act(self.actions[operator.index(action)])
        if self.render_mode == "human":
            self.render()
        return self._observation(), float(reward), bool(terminated), False, {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything a bit-equal continuation needs, in plain numbers, lists and arrays."""
        self._check_started("state_dict")
        game = {name: copy.deepcopy(x) for name, x in vars(self._game).items() if name not in _FIXED}
        return {
            "game": game,
            "last_action": int(self._package.last_action),
            "rng": dict(self.np_random.bit_generator.state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Raises:
            ValueError: if it comes from another game.
        """
        current = {name: x for name, x in vars(self._game).items() if name not in _FIXED}
        given = state["game"]
        if given.keys() != current.keys():
            raise ValueError(f"state is of a game with {sorted(given)}; {self.game} has {sorted(current)}")
        for name, value in current.items():
            setattr(self._game, name, _restored(name, value, given[name]))
        self._package.last_action = int(state["last_action"])
        self.np_random.bit_generator.state = dict(state["rng"])
        self._draw_from_np_random()
        self._started = True

    def _draw_from_np_random(self) -> None:
        # A RandomState over np_random's own bit generator: one stream, and one state to save.
        self._package.random = self._game.random = np.random.RandomState(self.np_random.bit_generator)

    def _observation(self) -> NDArray[np.bool_]:
        state: NDArray[np.bool_] = self._game.state()
        return state

    def _check_started(self, method: str) -> None:
        if not self._started:
            raise gym.error.ResetNeeded(f"call reset() before {method}()")

    def render(self) -> Any:
        """Return the picture [320, 320, 3] ("rgb_array"), or show it ("human")."""
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make(..., render_mode="rgb_array" or "human")')
            return None
        self._check_started("render")
        frame = self._draw()
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            from prefrl.envs.rendering.boards import Window

            self._window = Window(f"MinAtar {self.game}", self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def _draw(self) -> NDArray[np.uint8]:
        cells = np.empty((10, 10, 3), np.uint8)
        cells[:] = BACKGROUND
        obs = self._observation()
        for name, colour in COLOURS[self.game].items():
            cells[obs[:, :, self.channels.index(name)]] = colour
        frame = cells.repeat(CELL_PIXELS, 0).repeat(CELL_PIXELS, 1)
        frame[::CELL_PIXELS] = frame[:, ::CELL_PIXELS] = GRID
        return frame

    def close(self) -> None:
        """Close the window, if one is open."""
        if self._window is not None:
            self._window.close()
            self._window = None


def _make_game(game: str, sticky_action_prob: float, difficulty_ramping: bool) -> Any:
    try:
        from minatar import Environment
    except ImportError as error:
        raise ImportError('MinAtar is not installed: pip install ".[minatar]"') from error
    return Environment(game, sticky_action_prob=sticky_action_prob, difficulty_ramping=difficulty_ramping)


def _restored(name: str, current: Any, given: Any) -> Any:
    """Return a saved attribute; arrays may have become tensors on the way through a file."""
    if isinstance(current, np.ndarray):
        if tuple(given.shape) != current.shape:
            raise ValueError(f"state has {name} of shape {tuple(given.shape)}; it must be {current.shape}")
        return np.asarray(given).astype(current.dtype)
    return copy.deepcopy(given)
