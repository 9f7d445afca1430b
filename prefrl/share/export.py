"""A trained policy as a program of its own: observations in, actions out, without prefrl.

What is exported is the agent's deterministic ``act``, from the environment's observations to its actions:
flattening, indicators, scaling of pictures and normalisation are in it, and so are the argmax or the scaling
to the bounds of the actions. The number of rows is open.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn

from prefrl.agents.base import Agent
from prefrl.config import Count, Natural, Settings
from prefrl.data import map_obs
from prefrl.data.devices import tensor_on
from prefrl.data.files.atomic import atomic_path
from prefrl.data.files.spaces import space_to_json
from prefrl.run.folder import RunFolder, write_json
from prefrl.run.launch import open_recipe

TOLERANCE = 1e-4
"""How far exported actions of a Box may be from the agent's, in units of the largest one."""


@dataclass(frozen=True)
class ExportCommand(Settings):
    """Write a run's policy as a program that needs no prefrl: torch.export, ONNX."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder with a checkpoint."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: RUN/policy)")] = (
        None
    )
    """Folder of policy.pt2, policy.onnx and policy.json."""

    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2",)
    """pt2 is read by torch.export.load, onnx by ONNX Runtime (extra: export)."""

    learner: Natural = 0
    """Which of many learners."""

    checks: Count = 1_000
    """Observations, drawn from the space, that the program is compared with the agent on."""

    def run(self) -> None:
        """Write the files, print what they agree in, and the path of policy.json in the last line."""
        folder = RunFolder.open(self.folder)
        agent, _ = open_recipe(folder).evaluation(folder)
        alone = list(agent.alone())
        if self.learner >= len(alone):
            raise ValueError(f"learner is {self.learner}; this run has learners 0 to {len(alone) - 1}")
        out = self.out or self.folder / "policy"
        made = export_policy(alone[self.learner], out, self.formats, checks=self.checks)
        folder.announce(made, {"num_timesteps": agent.num_timesteps, **_numbers(made)})


def export_policy(
    agent: Agent, out: Path, formats: tuple[str, ...] = ("pt2",), *, checks: int = 1_000, seed: int = 0
) -> Path:
    """Write an agent's deterministic policy; return the path of ``policy.json``, which says what it takes.

    Args:
        agent: a single learner.
        out: folder, made where it is missing.
        formats: "pt2", "onnx" or both.
        checks: observations drawn from the space on which each program is compared with the agent.
        seed: draws them.

    Raises:
        ImportError: for "onnx" without the extra.
        ValueError: if the policy is no fixed program of tensors, or the program acts otherwise.
    """
    if not formats or set(formats) - {"pt2", "onnx"}:
        raise ValueError(f"formats is {formats}; allowed are pt2 and onnx, one at least")
    if agent.keeps_state:
        raise ValueError(
            f"{type(agent).__name__} acts by what it did before; a program without a state cannot"
        )
    obs = sampled(agent, checks, seed)
    with torch.no_grad():
        wanted = agent.act(obs, deterministic=True)
        program = traced(agent, map_obs(lambda part: part[:2], obs))
        compared = {"pt2": agreement(program.module()(obs), wanted)}
        if compared["pt2"] < 1.0:
            raise ValueError(f"the exported policy of {type(agent).__name__} agrees with it in a share of "
                             f"{compared['pt2']:.4g} of {checks} observations only")  # fmt: skip
        files: dict[str, bytes] = {}
        if "pt2" in formats:
            buffer = io.BytesIO()
            with _quiet():
                torch.export.save(program, buffer)
            files["policy.pt2"] = buffer.getvalue()
        if "onnx" in formats:
            files["policy.onnx"], acts = to_onnx(program)
            compared["onnx"] = agreement(torch.as_tensor(acts(obs)), wanted)
            if compared["onnx"] < 1.0:
                warnings.warn(f"policy.onnx acts as the agent does on a share of {compared['onnx']:.4g} of "
                              f"{checks} observations; where actions are worth the same, rounding decides",
                              stacklevel=2)  # fmt: skip
    described = {
        "agent": type(agent).__name__,
        "files": sorted(files),
        "inputs": _inputs(obs),
        "observation_space": _finite(space_to_json(agent.observation_space)),
        "action_space": _finite(space_to_json(agent.action_space)),
        "agreement": {name: compared[name] for name in formats},
        "checks": checks,
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with atomic_path(out / name) as path:
            path.write_bytes(content)
    write_json(out / "policy.json", described)
    return out / "policy.json"


def sampled(agent: Agent, count: int, seed: int) -> Any:
    """Return observations [count, ...] drawn from an agent's space, on its device."""
    space = agent.observation_space
    space.seed(seed)
    rows = [space.sample() for _ in range(count)]
    if isinstance(space, gym.spaces.Dict):
        return {name: _rows([row[name] for row in rows], agent) for name in space}
    return _rows(rows, agent)


def _rows(rows: list[Any], agent: Agent) -> Tensor:
    return tensor_on(agent.device, np.stack([np.asarray(row) for row in rows]))


class _Policy(nn.Module):
    """The deterministic policy of an agent; what it is made of becomes constants of the program."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._act = agent.act

    def forward(self, obs: Any) -> Tensor:
        """Return actions [n, ...] for observations [n, ...]."""
        return self._act(obs, deterministic=True)


def traced(agent: Agent, example: Any) -> Any:
    """Return an agent's policy as a ``torch.export.ExportedProgram`` for any number of rows.

    Raises:
        ValueError: if it is no fixed program of tensors.
    """
    rows = torch.export.Dim("batch", min=1)
    shapes = {name: {0: rows} for name in example} if isinstance(example, Mapping) else {0: rows}
    try:
        with _quiet():
            return torch.export.export(
                _Policy(agent), (example,), dynamic_shapes={"obs": shapes}, strict=False
            )
    except Exception as error:  # torch raises whatever its tracers meet
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the policy of {type(agent).__name__} is no fixed program of tensors ({reason}); policies of "
            "one network or table can be exported, those that plan, draw, or act by another library cannot"
        ) from error


def to_onnx(program: Any) -> tuple[bytes, Any]:
    """Return a program in ONNX, and a function that runs it.

    Raises:
        ImportError: without the extra ``export``.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise ImportError(f'{error.name} is not installed: pip install ".[export]"') from error
    with _quiet():
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    content: bytes = written.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def acts(obs: Any) -> Any:
        parts = list(obs.values()) if isinstance(obs, Mapping) else [obs]
        names = [each.name for each in session.get_inputs()]
        return session.run(None, {n: part.cpu().numpy() for n, part in zip(names, parts, strict=True)})[0]

    return content, acts


def agreement(found: Tensor, wanted: Tensor) -> float:
    """Return the share of rows in which actions are the same: equal, or of a Box within :data:`TOLERANCE`."""
    found = found.to(wanted.device)
    if wanted.is_floating_point():
        far = (found - wanted).abs() / wanted.abs().max().clamp(min=1.0)
        same = far <= TOLERANCE
    else:
        same = found == wanted
    return float(same.reshape(len(wanted), -1).all(1).to(torch.float64).mean())


def _finite(value: Any) -> Any:
    """Return JSON values with null for a bound that is infinite."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporters say about themselves from the user."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.setLevel(level)


def _inputs(obs: Any) -> dict[str, Any]:
    """Return name, type and shape of what a program takes."""
    parts = obs if isinstance(obs, Mapping) else {"obs": obs}
    return {
        name: {"dtype": str(part.dtype).removeprefix("torch."), "shape": ["batch", *part.shape[1:]]}
        for name, part in parts.items()
    }


def _numbers(described: Path) -> dict[str, float]:
    from prefrl.run.folder import read_json

    return {f"agreement/{name}": value for name, value in read_json(described)["agreement"].items()}
