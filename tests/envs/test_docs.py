"""The page on environments: its code runs, its numbers and its picture are the library's."""

import re

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import pytest


@pytest.fixture(scope="module")
def page(project_root):
    return (project_root / "docs" / "environments.md").read_text("utf-8")


def test_the_code_on_the_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    names = {}
    try:
        for block in blocks:
            exec(block, names)
    finally:
        gym.registry.pop("Room-v0", None)
    assert names["fast"].step(np.zeros((4096, 1)))[1].shape == (4096,)
    stated = re.findall(r"^(\S.*?) +# (-?[0-9.]+)", page, re.MULTILINE)
    assert len(stated) == 2
    for statement, number in stated:
        assert eval(statement, names_of_delivery()) == pytest.approx(float(number), abs=1e-9), statement


def names_of_delivery():
    env = gym.make("prefrl/Delivery-v0").unwrapped
    return {"env": env, "model": env.tabular_model()}


def test_the_picture_is_the_current_render(project_root):
    path = project_root / "docs" / "images" / "delivery.png"
    assert path.stat().st_size <= 60_000
    env = gym.make("prefrl/Delivery-v0", render_mode="rgb_array")
    env.reset(options={"cell": (5, 3)})
    shown = np.round(plt.imread(path)[..., :3] * 255).astype(np.uint8)
    np.testing.assert_array_equal(shown, env.render())
