"""The on-device face: what it offers, its noise, and that it never waits for the device."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import prefrl.envs
from prefrl.envs.core.backend import NumpyBackend
from prefrl.envs.core.device import TorchBackend

FAMILIES = [(env_id, {}) for env_id in prefrl.envs.REGISTRY]
FAMILIES += [("prefrl/RandomGrid-v0", {"stochastic": True, "layout_seed": 2})]


@pytest.mark.parametrize(("env_id", "kwargs"), FAMILIES)
def test_device_face_offers_what_the_others_offer(env_id, kwargs):
    env = prefrl.envs.make_device(env_id, 3, seed=0, float_dtype=torch.float64, **kwargs)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    rewards = env.step(torch.zeros(env.action_space.shape, dtype=torch.int64))[1]
    assert rewards.dtype is torch.float64, "and seed= has reset it"
    host = set(dir(gym.make_vec(env_id, 3, **kwargs)))
    assert {name for name in host if not name.startswith("_")} <= set(dir(env))


def test_generator_on_the_host_gives_the_same_numbers():
    """With generator_device the stream does not depend on the device; on the CPU the two are one."""
    starts = [
        prefrl.envs.make_device("prefrl/Delivery-v0", 9, generator_device=place).reset(seed=3)[0]
        for place in (None, "cpu")
    ]
    assert torch.equal(*starts)


def test_normal_noise_has_the_right_moments():
    for backend in (NumpyBackend(), TorchBackend("cpu")):
        draws = np.asarray(backend.random(0).normal(20_000, 2))
        assert draws.shape == (20_000, 2)
        assert abs(draws.mean()) < 0.03
        assert abs(draws.std() - 1.0) < 0.03
        uniform = np.asarray(backend.random(0).uniform(20_000))
        assert uniform.min() >= 0.0
        assert uniform.max() < 1.0
        assert abs(uniform.mean() - 0.5) < 0.01


# No waiting for the device ---------------------------------------

FAKE_DEVICE = """
import torch
from torch.utils._pytree import tree_leaves
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import prefrl.envs
from prefrl.envs.grids.delivery import DeliveryDynamics
from prefrl.envs.core.device import TorchBackend
from prefrl.envs.core.vector import BatchedEnv

_setup_privateuseone_for_python_backend("gpu")


class Impatient(BatchedEnv):
    def _advance_all(self, before, *rest):
        if before.done.any():
            raise RuntimeError
        return super()._advance_all(before, *rest)


with FakeTensorMode():
    place = {"device": "gpu", "generator_device": "cpu"}
    for env_id, kwargs in FAMILIES:
        for mode in ("NextStep", "SameStep", "Disabled"):
            env = prefrl.envs.make_device(env_id, 8, autoreset_mode=mode, seed=0, **place, **kwargs)
            actions = torch.zeros(env.action_space.shape, dtype=torch.int64, device="gpu")
            for _ in range(3):
                *arrays, infos = env.step(actions)
                assert {a.device.type for a in tree_leaves([arrays, infos])} == {"gpu"}, env_id
            env.reset(options={"reset_mask": arrays[2] | arrays[3]})
            env.load_state_dict(env.state_dict())
            env.step(actions)
    env = Impatient(DeliveryDynamics, 8, backend=TorchBackend(**place))
    env.reset(seed=0)
    try:
        env.step(torch.zeros(8, dtype=torch.int64, device="gpu"))
    except DataDependentOutputException:
        print("refused to wait")
"""


@pytest.mark.slow
def test_device_face_never_waits_for_the_device():
    """Under torch's fake accelerator any look at a value raises, as the impatient environment shows."""
    code = FAKE_DEVICE.replace("FAMILIES", repr(FAMILIES))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "refused to wait\n"
