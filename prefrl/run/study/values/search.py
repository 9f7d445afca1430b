"""What preferences out of a tree search promise, measured: online against off-policy."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym

import prefrl.envs
from prefrl.agents.preferences.search_preferences import SearchPreferences, SearchPreferencesConfig
from prefrl.run.study.claims import Claim

assert prefrl.envs.REGISTRY

ROUNDS = 5
LIMIT = 12
"""Steps in which the goal must be reached."""


def iterations(seed: int) -> dict[str, float]:
    """Success of the policy alone before and after every round, searching with itself or with the first."""
    env = gym.make("prefrl/SparseGrid-v0", layout_seed=seed)
    found: dict[str, float] = {}
    for name, online in (("online", True), ("off_policy", False)):
        agent = SearchPreferences(env, SearchPreferencesConfig(online=online), device="cpu", seed=seed)
        for done in range(ROUNDS + 1):
            if done:
                agent.update()
            policy = agent.policy_table()[0].numpy()
            found[f"{name}_{done}"] = env.unwrapped.success_rate(policy, LIMIT)  # type: ignore[attr-defined]
    return found


CLAIMS: Mapping[str, Claim] = {
    "search": Claim(
        "B5: from a mean success of .3 at most, the policy alone reaches .9 in 5 rounds in every grid",
        iterations,
        lambda n: n["online_0"].mean() <= 0.3 and n["online_5"].min() >= 0.9,
    ),
    "off_policy_search": Claim(
        "B5: comparisons of searches with the first policy reach less, by .05 on the average",
        iterations,
        lambda n: n["off_policy_5"].mean() <= n["online_5"].mean() - 0.05,
    ),
}
"""Claims of search by name."""
