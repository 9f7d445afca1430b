"""Policies trained by the pair losses against closed forms and what papers say.

The experiments stand in ``scripts/reproduce_pair_losses.py``, which measures them on more seeds.
"""

import pytest
import torch

from prefrl.run.study.claims import measure_claims
from scripts import loaded

study = loaded("reproduce_pair_losses.py")


@pytest.mark.parametrize(
    "claim", ["simpo_length", "vpo_offline", "constrained_clip", "constrained_cpo", "cpl"]
)
def test_a_trained_policy_is_what_was_claimed(claim: str) -> None:
    found = measure_claims({claim: study.CLAIMS[claim]}, [0])[claim]
    assert found["holds"], found["spread"]


def test_dpo_and_ipo_end_at_their_exact_optima() -> None:
    """Off an uneven reference: rewards by DPO, (p - 1/2) / beta of two arms by IPO; not at the start."""
    assert max(study.exact_optima(0, steps=600).values()) < 1e-3
    assert min(study.exact_optima(0, steps=5).values()) > 0.1


def test_gradients_of_means_are_those_of_sums_at_equal_lengths() -> None:
    """SimPO without margin is DPO without a reference with beta / length: through the agent, to 1e-7."""
    data, _ = study.worth_of_tokens(0, 50)
    longest = (data.first.lengths == study.LONG) & (data.second.lengths == study.LONG)
    data, start = data[longest], torch.randn(study.LONG + 1, study.TOKENS, dtype=torch.float64)
    gradients = []
    for settings in (
        {"loss": "simpo", "beta": 3.0, "margin": 0.0},
        {"loss": "cpl", "beta": 3.0 / study.LONG, "bias": 1.0},
        {"loss": "cpl", "beta": 3.0, "bias": 1.0},
    ):
        agent = study.table_agent(data, study.LONG + 1, study.TOKENS, 1, logits=start, **settings)
        gradients.append(agent.weights.gradient.clone())
    assert (gradients[0] - gradients[1]).abs().max() < 1e-7
    assert (gradients[0] - gradients[2]).abs().max() > 1e-3


@pytest.mark.slow
def test_an_optimist_finds_better_arms_where_others_get_stuck() -> None:
    """Beta 1/2; from one start the optimist's loss leads to whatever is likely already."""
    found = measure_claims({"vpo_online": study.CLAIMS["vpo_online"]}, range(8))["vpo_online"]
    assert found["holds"], found["spread"]  # seen: 220 and 393 on the mean
    mean = {name: sum(values) / 8 for name, values in found["numbers"].items()}
    assert mean["from_one_start"] > mean["plain"]


@pytest.mark.slow
def test_labels_that_drift_do_not_save_an_agent_with_adam() -> None:
    """Its steps are as long for a pair in a thousand; by plain descent the wrong pair is unlearned."""
    found = study.one_wrong_pair(0)
    assert found["dpo_c_over_a"] > 1.0
    assert 0.0 < found["dynamic_c_over_a"] < 1.0
    assert found["dynamic_a_over_b"] < 2.0
