#!/usr/bin/env bash
# MinAtar 1.0.15: coming up with six divers leaves the submarine of Seaquest with minus one, and from then on
# coming up without divers is free.
#
# Guessed: as the game's description says, six divers at the surface are all removed, and whoever comes up with
# none ends the game. Seen: six are removed, and then the one that every coming up costs, which makes -1. The
# game ends only at 0. So the submarine may come up for air again and again, at -2, -3, ..., each time with its
# oxygen filled; and of the divers it rescues next, the first is not seen and with it the count is 0: only then
# does coming up end the game again.
# What it means: agents that rescued six once live under other rules afterwards, which observations show as
# no divers, as at the start. Leave it, for scores that compare with others' in this version.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check minatar==1.0.15

"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from minatar import Environment

UP, DOWN = 2, 4


def dive_and_come_up(divers):
    """Below the surface with so many divers, in water without enemies; then up. Is that the end?"""
    game = Environment("seaquest", sticky_action_prob=0.0)
    game.act(DOWN)
    game.env.diver_count, game.env.oxygen = divers, 100
    over = game.act(UP)[1]
    return game, over


game, over = dive_and_come_up(0)
print(f"minatar {version('minatar')}: coming up with 0 divers ends the game: {over}")
assert over
game, over = dive_and_come_up(6)
counts = [game.env.diver_count]
seen = [int(game.state()[9, :, game.env.channels["diver_guage"]].sum())]
for _ in range(2):
    game.act(DOWN)
    assert not game.act(UP)[1]
    counts.append(game.env.diver_count)
    seen.append(int(game.state()[9, :, game.env.channels["diver_guage"]].sum()))
print(f"after coming up with 6, and twice more: {counts} divers, {seen} of them seen; over: {game.env.terminal}")
print(f"oxygen: {game.env.oxygen} of 200")
assert counts == [-1, -2, -3] and seen == [0, 0, 0] and not game.env.terminal, "behaviour changed"
assert game.env.oxygen == 200, "behaviour changed"
game.env.diver_count += 3  # three divers that it rescues
game.act(DOWN)
over = game.act(UP)[1]
print(f"after three more divers coming up ends the game: {over}")
assert over, "behaviour changed"
PYTHON
