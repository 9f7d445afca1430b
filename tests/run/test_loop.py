"""The training loop: schedule, metrics, callbacks, solvers, failures, interrupts, going on after a crash."""

import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest
import torch
from resuming import assert_same, crash_at, new_folder
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import prefrl
import prefrl.envs
from prefrl import DQN, DQNConfig
from prefrl.agents import Agent, QLearning, QLearningConfig
from prefrl.data import Transitions
from prefrl.run.checkpoint import load_checkpoint
from prefrl.run.folder import RunFolder
from prefrl.run.logger import read_progress
from prefrl.run.loop import Loop, RunFailedError, Terminated, deferred_signals, learn

ENV = "prefrl/Delivery-v0"
TIMING = {"time/fps", "time/time_elapsed"}


class Rows(KVWriter):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        self.rows.append((step, dict(key_values)))


def device_agent(num_envs: int = 8, seed: int = 0, **config: Any) -> QLearning:
    env = prefrl.envs.make_device(ENV, num_envs)
    return QLearning(env, QLearningConfig(**config), device="cpu", seed=seed)


def vector_agent() -> QLearning:
    return QLearning(gym.make_vec(ENV, num_envs=8), device="cpu", seed=0)


def scalar_agent() -> QLearning:
    return QLearning(gym.make("prefrl/RandomGrid-v0", stochastic=True, max_episode_steps=9), device="cpu")


def untimed(folder: RunFolder) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_progress(folder.progress_path)]


@dataclass(frozen=True)
class SolverConfig:
    steps_per_update: int = 7


class Solver(Agent):
    """Minimises |x|^2 by gradient descent; a timestep is one descent step."""

    config_class: ClassVar[type[SolverConfig]] = SolverConfig
    steps_env: ClassVar[bool] = False

    def __init__(self, steps_per_update: int = 7, bad_at: int | None = None) -> None:
        spaces = gym.make("FrozenLake-v1")
        super().__init__(spaces, SolverConfig(steps_per_update), device="cpu")
        self.x, self.bad_at = torch.ones(()), bad_at

    def act(self, obs: torch.Tensor, *, deterministic: bool = False) -> torch.Tensor:
        raise AssertionError("a solver does not step")

    def observe(self, transitions: Transitions) -> None:
        raise AssertionError("a solver does not step")

    def update(self) -> dict[str, torch.Tensor]:
        for _ in range(self.config.steps_per_update):
            self.num_timesteps += 1
            self.x *= 0.9
        bad = self.bad_at is not None and self.num_timesteps >= self.bad_at
        return {"train/x": self.x.clone(), "train/loss": torch.tensor(float("nan")) if bad else self.x**2}

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x.copy_(state["x"])


# Schedule and metrics ----------------------------------------------------------------------------------


def test_rows_are_logged_when_a_multiple_is_passed_and_at_the_end() -> None:
    agent, rows = device_agent(), Rows()
    agent.logger = Logger(None, [rows])
    assert learn(agent, 100, log_every=30) is agent
    assert agent.num_timesteps == 104  # 13 steps of 8 rows
    assert [step for step, _ in rows.rows] == [32, 64, 96, 104]
    keys = {
        "time/fps",
        "time/time_elapsed",
        "time/total_timesteps",
        "train/td_error",
        "rollout/exploration_rate",
    }
    assert all(
        keys <= set(row) <= keys | {"rollout/ep_rew_mean", "rollout/ep_len_mean"} for _, row in rows.rows
    )
    assert [row["time/total_timesteps"] for _, row in rows.rows] == [32, 64, 96, 104]
    agent.learn(8)  # adds to what was done
    assert agent.num_timesteps == 112


def test_rates_are_logged_as_they_are_then() -> None:
    agent, rows = device_agent(), Rows()
    agent.logger = Logger(None, [rows])
    learn(agent, 100, log_every=50)
    logged = [row["rollout/exploration_rate"] for _, row in rows.rows]
    expected = []
    for agent.num_timesteps in (56, 104):
        expected.append(agent.epsilon)
    assert logged == expected
    assert logged[0] > logged[1]


def test_metrics_are_means_since_the_last_row() -> None:
    solver, rows = Solver(steps_per_update=1), Rows()
    solver.logger = Logger(None, [rows])
    learn(solver, 6, log_every=3)
    logged = [row["train/x"] for _, row in rows.rows]
    assert logged == pytest.approx([(0.9 + 0.9**2 + 0.9**3) / 3, (0.9**4 + 0.9**5 + 0.9**6) / 3])


def test_on_a_device_a_row_reports_the_episodes_since_the_row_before() -> None:
    agent, rows = device_agent(64), Rows()
    agent.logger = Logger(None, [rows])
    loop = Loop(agent, 64 * 40, log_every=64 * 20)
    loop.run()
    assert all("rollout/ep_rew_mean" in row for _, row in rows.rows)
    assert loop._stepper is not None
    assert loop._stepper.episodes.totals().tolist() == [0.0, 0.0, 0.0]


def test_a_hundred_rows_by_default() -> None:
    agent, rows = device_agent(1), Rows()
    agent.logger = Logger(None, [rows])
    learn(agent, 500)
    assert [step for step, _ in rows.rows] == list(range(5, 501, 5))


@pytest.mark.parametrize("name", ["total_timesteps", "log_every", "checkpoint_every"])
def test_numbers_of_timesteps_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        learn(device_agent(), **{"total_timesteps": 10, name: 0})


def test_tensorboard_has_the_names_of_sb3(tmp_path: Path) -> None:
    learn(device_agent(64), 64 * 100, folder=new_folder(tmp_path / "run"), log_every=64 * 50)
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    names = {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "rollout/exploration_rate",
        "time/fps",
        "train/td_error",
    }
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("rollout/ep_rew_mean")] == [3200, 6400]


def test_the_public_door() -> None:
    agent = device_agent()
    assert prefrl.learn(agent, 16) is agent
    assert agent.num_timesteps == 16


@pytest.mark.parametrize("tty", [True, False])
def test_progress_bar(tty: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if tty:
        monkeypatch.setenv("FORCE_COLOR", "1")
    device_agent().learn(800, progress_bar=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "QLearning" in printed.err
    assert "100%" in printed.err
    assert "timesteps/s" in printed.err


# Solvers -----------------------------------------------------------------------------------------------


def test_a_solver_updates_until_the_target() -> None:
    solver = Solver()
    learn(solver, 20)
    assert solver.num_timesteps == 21
    assert solver.x.item() == pytest.approx(0.9**21)


def test_a_solver_resumes(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        learn(Solver(1), 50, folder=folder, checkpoint_every=10, log_every=5, callback=crash_at(33))
    solver = Solver(1)
    learn(solver, 50, folder=folder, resume=True, checkpoint_every=10, log_every=5)
    whole, other = Solver(1), new_folder(tmp_path / "other")
    learn(whole, 50, folder=other, checkpoint_every=10, log_every=5)
    assert torch.equal(solver.x, whole.x)
    assert untimed(folder) == untimed(other)


def test_a_solver_that_stands_still_is_told_so() -> None:
    with pytest.raises(RuntimeError, match="must advance num_timesteps"):
        learn(Solver(steps_per_update=0), 5)


# Callbacks ---------------------------------------------------------------------------------------------


class Diary(BaseCallback):
    """Writes down what it is called for."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.entries: list[str] = []
        self.stop_at = stop_at

    def _init_callback(self) -> None:
        self.entries.append("init")

    def _on_training_start(self) -> None:
        assert self.training_env is self.model.get_env()
        self.entries.append("start")

    def _on_rollout_start(self) -> None:
        self.entries.append("(")

    def _on_step(self) -> bool:
        assert {"infos", "dones", "rewards", "new_obs", "actions"} <= set(self.locals)
        self.logger.record("custom/steps", self.n_calls)
        self.entries.append(str(self.num_timesteps))
        return self.num_timesteps != self.stop_at

    def _on_rollout_end(self) -> None:
        self.entries.append(")")

    def _on_training_end(self) -> None:
        self.entries.append("end")


def test_callbacks_are_called_as_in_sb3() -> None:
    first, second = Diary(), Diary()
    agent, rows = device_agent(), Rows()
    agent.logger = Logger(None, [rows])
    learn(agent, 16, callback=[first, second], log_every=8)
    assert first.entries == second.entries == ["init", "start", "(", "8", ")", "(", "16", ")", "end"]
    assert [row["custom/steps"] for _, row in rows.rows] == [1, 2]


def test_a_callback_stops_the_run_which_is_then_logged_and_saved(tmp_path: Path) -> None:
    agent, diary = device_agent(), Diary(stop_at=24)
    folder = new_folder(tmp_path / "run")
    learn(agent, 8000, callback=diary, folder=folder, log_every=4000)
    assert agent.num_timesteps == 24
    assert diary.entries[-1] == "end"
    assert [row["time/total_timesteps"] for row in read_progress(folder.progress_path)] == ["24"]
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 24


def test_a_function_is_a_callback() -> None:
    agent = device_agent()
    learn(agent, 800, callback=lambda local, _: local["self"].agent.num_timesteps < 16)
    assert agent.num_timesteps == 16


def test_eval_callback_stops_at_a_threshold() -> None:
    stop = StopTrainingOnRewardThreshold(30.0)
    env = Monitor(gym.make(ENV))
    callback = EvalCallback(env, callback_on_new_best=stop, eval_freq=100, n_eval_episodes=10, verbose=0)
    agent = device_agent(512, learning_rate_decay=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(agent, 512 * 2000, callback=callback)
    assert 0 < agent.num_timesteps < 512 * 2000
    assert callback.best_mean_reward > 30.0


# Failures ----------------------------------------------------------------------------------------------


def test_nan_in_a_metric_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(FloatingPointError, match=r"train/loss is nan at timestep 25; .*failed\.pt"):
        learn(Solver(1, bad_at=23), 100, folder=folder, checkpoint_every=10, log_every=25)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 20
    assert load_checkpoint(folder.path / "failed.pt")["num_timesteps"] == 25


def test_nan_never_gets_into_a_checkpoint(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(FloatingPointError, match="train/loss is nan at timestep 30"):
        learn(Solver(1, bad_at=23), 100, folder=folder, checkpoint_every=10, log_every=50)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 20


def test_infinity_stops_a_run_without_a_folder() -> None:
    agent = device_agent(initial_value=1e308)
    agent.q *= float("inf")
    with pytest.raises(FloatingPointError, match=r"train/td_error is (nan|inf) at timestep 8$"):
        learn(agent, 100, log_every=8)


def test_an_infinite_reward_stops_the_run() -> None:
    env = gym.wrappers.TransformReward(gym.make(ENV, max_episode_steps=3), lambda reward: float("inf"))
    with pytest.raises(FloatingPointError, match="is inf"):
        learn(QLearning(env, device="cpu"), 100, log_every=10)


# Interrupts --------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Ctrl-C does what it usually does, even where the tests run in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(BaseCallback):
    """Sends itself Ctrl-C."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return True


def test_an_interrupt_waits_for_the_step_and_a_checkpoint(tmp_path: Path) -> None:
    folder, agent = new_folder(tmp_path / "run"), device_agent()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        learn(agent, 8000, callback=Interrupt(48), folder=folder)
    checkpoint = load_checkpoint(folder.checkpoint_path)
    assert checkpoint["num_timesteps"] == agent.num_timesteps == 48
    assert torch.equal(checkpoint["agent"]["q"], agent.q)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_interrupt_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), deferred_signals(all_of_them=True) as asked:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second interrupt was lost")
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_another_thread() -> None:
    agent = device_agent()
    thread = threading.Thread(target=lambda: learn(agent, 80))
    thread.start()
    thread.join()
    assert agent.num_timesteps == 80


# Going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [[700], [90, 330, 1500]])
@pytest.mark.parametrize("make", [device_agent, vector_agent, scalar_agent])
def test_resumed_equals_uninterrupted(
    make: Callable[[], QLearning], crashes: list[int], tmp_path: Path
) -> None:
    settings = {"total_timesteps": 1600, "log_every": 70, "checkpoint_every": 300}
    whole_folder, whole = new_folder(tmp_path / "whole"), make()
    learn(whole, **settings, folder=whole_folder)

    folder = new_folder(tmp_path / "crashed")
    for crash in crashes:
        with pytest.raises(RuntimeError, match="crash"):
            learn(make(), **settings, folder=folder, resume=True, callback=crash_at(crash))
    agent = make()
    learn(agent, **settings, folder=folder, resume=True)

    assert torch.equal(agent.q, whole.q)
    assert torch.equal(agent.visits, whole.visits)
    assert agent.num_timesteps == whole.num_timesteps
    assert untimed(folder) == untimed(whole_folder)
    first_rows = ["70", "140", "210"] if make is scalar_agent else ["72", "144", "216"]
    assert [row["time/total_timesteps"] for row in untimed(folder)][:3] == first_rows
    ours, theirs = (load_checkpoint(f.checkpoint_path) for f in (folder, whole_folder))
    for key in ("agent", "stepper", "metrics", "num_timesteps", "target"):
        assert_same(ours[key], theirs[key])
    assert ours["seconds"] > 0


def test_resume_reaches_the_target_of_the_interrupted_call(tmp_path: Path) -> None:
    folder, agent = new_folder(tmp_path / "run"), device_agent()
    learn(agent, 80)
    with pytest.raises(RuntimeError, match="crash"):
        learn(agent, 160, folder=folder, checkpoint_every=8, callback=crash_at(120))
    again = device_agent()
    learn(again, 160, folder=folder, resume=True)
    assert again.num_timesteps == 240


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    loop = Loop(device_agent(), 800, folder=folder, checkpoint_every=400, callback=crash_at(401))
    with pytest.raises(RuntimeError, match="crash"):
        loop.run()
    saved = load_checkpoint(folder.checkpoint_path)["seconds"]
    resumed = Loop(device_agent(), 800, folder=folder, resume=True)
    assert resumed.seconds == saved > 0
    resumed.run()
    assert resumed.seconds > saved


def test_resume_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        learn(device_agent(), 800, folder=folder, log_every=80, checkpoint_every=400, callback=crash_at(300))
    assert read_progress(folder.progress_path)
    assert not folder.checkpoint_path.exists()
    agent, whole = device_agent(), device_agent()
    learn(agent, 800, folder=folder, log_every=80, resume=True)
    learn(whole, 800)
    assert torch.equal(agent.q, whole.q)
    assert [row["time/total_timesteps"] for row in untimed(folder)] == [str(80 * k) for k in range(1, 11)]


def test_resume_of_a_complete_run_adds_nothing(tmp_path: Path) -> None:
    folder, agent = new_folder(tmp_path / "run"), device_agent()
    learn(agent, 800, folder=folder)
    rows, again = untimed(folder), device_agent()
    learn(again, 800, folder=folder, resume=True)
    assert again.num_timesteps == 800
    assert torch.equal(again.q, agent.q)
    assert untimed(folder) == rows


def test_other_environments_go_on_with_new_episodes(tmp_path: Path) -> None:
    def make() -> QLearning:
        return QLearning(gym.make_vec("FrozenLake-v1", num_envs=4), device="cpu")

    folder = new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        learn(make(), 800, folder=folder, checkpoint_every=400, callback=crash_at(500))
    agent = make()
    learn(agent, 800, folder=folder, resume=True)
    assert agent.num_timesteps == 800
    assert agent.visits.sum() > 0
    assert len(read_progress(folder.progress_path)) == 100


# What an exception leaves behind -----------------------------------------------------------------------


class Simulator(gym.Wrapper[Any, Any, Any, Any]):
    """Fails at a step, and cannot be restored."""

    def __init__(self, at: int, error: Exception) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.at, self.error, self.steps = at, error, 0

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == self.at:
            raise self.error
        return super().step(action)


def simulated(at: int, error: Exception | None = None) -> DQN:
    env = Simulator(at, error or RuntimeError("simulator lost:\nand more"))
    return DQN(env, DQNConfig(hidden=(8,), learning_starts=10), device="cpu")


def test_what_was_learned_before_the_environment_failed_is_kept(tmp_path: Path) -> None:
    folder, agent = new_folder(tmp_path / "run"), simulated(50)
    message = (
        r"^RuntimeError: simulator lost: at timestep 49; what was learned is kept: go on with `prefrl resume"
    )
    with pytest.raises(RunFailedError, match=message) as failed:
        learn(agent, 100, folder=folder, checkpoint_every=20)
    assert isinstance(failed.value.__cause__, RuntimeError)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 49
    again = simulated(1000)
    learn(again, 100, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert again.num_timesteps == 100


def test_an_error_in_the_first_step_is_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no such thing$"):
        learn(simulated(1, ValueError("no such thing")), 100, folder=new_folder(tmp_path / "run"))
    with pytest.raises(RunFailedError, match=r"^RuntimeError: simulator lost:$"):
        learn(simulated(1), 100, folder=new_folder(tmp_path / "other"))
    assert not list(tmp_path.glob("*/*.pt"))
    with pytest.raises(RuntimeError, match=r"^simulator lost:\nand more$"):
        learn(simulated(50), 100)  # without a folder there is nowhere to keep it


def test_a_reward_that_is_no_number_leaves_what_was_learned(tmp_path: Path) -> None:
    class Nan(Simulator):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return obs, reward if self.steps < 50 else math.nan, *rest

    agent = DQN(Nan(10_000, ValueError()), DQNConfig(hidden=(8,), learning_starts=10), device="cpu")
    folder = new_folder(tmp_path / "run")
    with pytest.raises(
        FloatingPointError, match=r"reward is nan after timestep 49; .*what was learned is kept"
    ):
        learn(agent, 100, folder=folder)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 49


def test_an_update_that_fails_leaves_the_last_checkpoint_and_its_own_state(tmp_path: Path) -> None:
    class Failing(Solver):
        def update(self) -> dict[str, torch.Tensor]:
            if self.num_timesteps == 25:
                raise KeyError("weights")
            return super().update()

    folder = new_folder(tmp_path / "run")
    with pytest.raises(RunFailedError, match=r"^KeyError: 'weights' at timestep 25; .* is in .*failed\.pt$"):
        learn(Failing(1), 100, folder=folder, checkpoint_every=10)
    assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 20
    assert load_checkpoint(folder.path / "failed.pt")["num_timesteps"] == 25


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_ends_the_process_waits_for_a_checkpoint(name: str, tmp_path: Path) -> None:
    number, folder = getattr(signal, name), new_folder(tmp_path / "run")
    agent, here = device_agent(), signal.signal(getattr(signal, name), signal.SIG_DFL)  # nohup ignores one

    def end(local: Any, _: Any) -> bool:
        if agent.num_timesteps == 48:
            os.kill(os.getpid(), number)
        return True

    try:
        with pytest.raises(Terminated, match=name) as stopped:
            learn(agent, 8000, callback=end, folder=folder)
        assert stopped.value.signum == number
        assert load_checkpoint(folder.checkpoint_path)["num_timesteps"] == 48
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, here)


def test_learning_logs_to_a_folder_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent, logs = device_agent(), tmp_path / "new" / "logs"
    prefrl.learn(agent, 80, log_every=40)
    assert not list(tmp_path.iterdir())
    prefrl.learn(agent, 80, log_every=40, log_dir=logs)
    prefrl.learn(agent, 80, log_every=40, log_dir=logs)
    steps = [row["time/total_timesteps"] for row in read_progress(logs / "progress.csv")]
    assert steps == ["120", "160", "200", "240"]
    assert list(logs.glob("events.out.tfevents.*"))
    assert agent.logger is None or not agent.logger.output_formats
    assert capsys.readouterr().out == ""
