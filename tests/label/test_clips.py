"""Clips: every picture is in them, close to its source, from states or frames; a process makes them."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from prefrl.envs.simulator_states import picture
from prefrl.envs.wrappers import SimulatorStates
from prefrl.label.clips import RenderWorker, encode, render_waiting
from prefrl.label.drawing import NoDrawing, NotDrawn, Painter, choose_gl, make_drawing_env, render_segment
from prefrl.label.notes import rendering_error
from prefrl.label.records import Clip, Item, NewQuestion, StoredSegment, StudySettings
from prefrl.label.store import LabelStore

av = pytest.importorskip("av")


def decoded(clip: Clip) -> tuple[np.ndarray, float]:
    with av.open(io.BytesIO(clip.media)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), float(stream.average_rate)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in decibels."""
    return float(10.0 * np.log10(255.0**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


def acted(env_id: str, steps: int, seed: int = 0, **arguments: Any) -> tuple[StoredSegment, list[np.ndarray]]:
    """Return a segment of a random policy with its states, and the pictures of the environment itself."""
    env = SimulatorStates(gym.make(env_id, render_mode="rgb_array", **arguments))
    obs, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    seen, states, actions, frames = [obs], [info["simulator_state"][1]], [], [picture(env)]
    for _ in range(steps):
        actions.append(env.action_space.sample())
        obs, _, ended, _, info = env.step(actions[-1])
        seen.append(obs)
        states.append(info["simulator_state"][1])
        frames.append(picture(env))
        if ended:
            break
    env.close()
    arrays = {"obs": np.stack(seen), "actions": np.stack(actions), "terminated": np.array(ended)}
    return StoredSegment(arrays, np.stack(states)), frames


def pictured(count: int, value: int = 0) -> StoredSegment:
    rng = np.random.default_rng(value)
    arrays = {"obs": np.zeros((count, 2)), "actions": np.zeros(count - 1), "terminated": np.array(False)}
    smooth = rng.integers(0, 256, (count, 4, 6, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    return StoredSegment(arrays, frames=smooth)


@pytest.mark.parametrize("codec", ["vp9", "h264"])
@pytest.mark.parametrize(
    ("env_id", "size"),
    [
        ("prefrl/Pendulum-v0", (320, 320)),
        ("prefrl/TwoCoins-v0", (144, 120)),
        ("prefrl/RandomMDP-v0", (144, 98)),
        ("prefrl/CartPole-v0", (320, 212)),
    ],
)
def test_films_have_every_picture(codec: Any, env_id: str, size: tuple[int, int]) -> None:
    segment, frames = acted(env_id, 12)
    clip = encode(frames, 24, codec, (320, 320))
    film, fps = decoded(clip)
    assert (clip.width, clip.height) == size
    assert film.shape == (segment.length + 1, *size[::-1], 3)
    assert (clip.frames, clip.fps, round(fps, 1)) == (len(film), 24.0, 24.0)
    assert clip.mime == {"vp9": "video/webm", "h264": "video/mp4"}[codec]
    if frames[0].shape[0] <= 320:  # compared with what was not made smaller
        assert psnr(film[:, : frames[0].shape[0]], np.stack(frames)) > 32.0
    assert encode(frames, 24, codec, (320, 320)).digest == clip.digest


def test_nonsense_makes_no_film() -> None:
    with pytest.raises(ValueError, match="frames is empty; give at least one picture"):
        encode([], 30)
    with pytest.raises(ValueError, match=r"all must be uint8 \[height, width, 3\] of one size"):
        encode([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], 30)
    with pytest.raises(ValueError, match="all must be uint8"):
        encode([np.zeros((4, 4, 3))], 30)


@pytest.mark.parametrize("env_id", ["prefrl/Pendulum-v0", "prefrl/Delivery-v0", "prefrl/LQPlane-v0"])
def test_pictures_from_states_are_the_environments_own(env_id: str) -> None:
    segment, frames = acted(env_id, 10, seed=2)
    again = render_segment(StudySettings(environment=env_id), segment)
    assert len(again) == segment.length + 1
    np.testing.assert_array_equal(np.stack(again), np.stack(frames))


def test_mujoco_draws_the_same_from_states_without_shadows() -> None:
    study = StudySettings(environment="HalfCheetah-v5", width=160, height=120)
    try:
        env = SimulatorStates(make_drawing_env(study))
        env.reset(seed=0)
        env.unwrapped.render()
    except Exception as error:  # of the driver
        pytest.skip(f"MuJoCo draws nothing here: {error}")
    import mujoco

    inner: Any = env.unwrapped
    states, actions, frames = [env.reset(seed=1)[1]["simulator_state"][1]], [], [picture(env)]
    for _ in range(8):
        actions.append(env.action_space.sample())
        states.append(env.step(actions[-1])[4]["simulator_state"][1])
        mujoco.mj_forward(inner.model, inner.data)  # places lag a part of a step behind the state
        frames.append(picture(env))
    arrays = {"obs": np.zeros((9, 1)), "actions": np.stack(actions), "terminated": np.array(False)}
    again = render_segment(study, StoredSegment(arrays, np.stack(states)))
    far = states[-1].copy()
    far[1] += 100.0  # metres ahead: the camera runs along
    nowhere = {"obs": np.zeros((2, 1)), "actions": np.zeros((1, 6)), "terminated": np.array(False)}
    ahead = render_segment(study, StoredSegment(nowhere, np.stack([far, far])))[0].astype(int)
    assert (ahead[..., 0] - ahead[..., 2] > 40).sum() > 100  # of the brown that only the cheetah has
    assert inner.model.vis.quality.shadowsize == 0
    assert again[0].shape == (120, 160, 3)
    assert np.abs(np.diff(np.stack(again).astype(int), axis=0)).max() > 30
    np.testing.assert_array_equal(np.stack(again), np.stack(frames))


def test_two_environments_of_mujoco_draw_in_turns() -> None:
    painters = []
    for env_id in ("HalfCheetah-v5", "Hopper-v5"):
        env = SimulatorStates(gym.make(env_id))
        state = env.reset(seed=1)[1]["simulator_state"]
        arrays = {"obs": np.zeros((2, 1)), "actions": np.zeros(1), "terminated": np.array(False)}
        study = StudySettings(environment=env_id, width=64, height=64)
        painters.append((Painter(study), StoredSegment(arrays, state)))
    try:
        alone = [painter.frames(segment)[0] for painter, segment in painters]
    except NoDrawing as error:
        pytest.skip(f"MuJoCo draws nothing here: {error}")
    for _ in range(2):
        for (painter, segment), first in zip(painters, alone, strict=True):
            np.testing.assert_array_equal(painter.frames(segment)[0], first)
    for painter, _ in painters:
        painter.close()


def test_what_cannot_be_drawn_is_said() -> None:
    segment, _ = acted("prefrl/Pendulum-v0", 3)
    bare = StoredSegment(segment.arrays)
    with pytest.raises(NotDrawn, match="has neither simulator states nor frames: there is nothing to draw"):
        render_segment(StudySettings(environment="prefrl/Pendulum-v0"), bare)
    with pytest.raises(NoDrawing, match="names no environment"):
        render_segment(StudySettings(), segment)
    with pytest.raises(NoDrawing, match="env_args \\['speed=3'\\] do not suit prefrl/Pendulum-v0"):
        render_segment(StudySettings(environment="prefrl/Pendulum-v0", env_args=("speed=3",)), segment)
    with pytest.raises(NoDrawing, match="NoSuch-v0 cannot be made"):
        render_segment(StudySettings(environment="NoSuch-v0"), segment)
    with pytest.raises(NotDrawn, match=r"state has shape \(2,\); that of ScalarEnv must be \(4,\)"):
        render_segment(StudySettings(environment="prefrl/CartPole-v0"), segment)


def test_where_there_is_no_display_the_way_to_draw_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[str] = []
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name if name in there else None)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NoDrawing, match="neither EGL nor OSMesa"):
        choose_gl()
    for library, chosen in (("OSMesa", "osmesa"), ("EGL", "egl")):
        there.append(library)
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        choose_gl()
        assert os.environ["MUJOCO_GL"] == chosen
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    choose_gl()
    assert os.environ["MUJOCO_GL"] == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    choose_gl()
    assert "MUJOCO_GL" not in os.environ


def asked(*segments: StoredSegment, key: str, priority: float = 0.0) -> NewQuestion:
    return NewQuestion(tuple(Item(segment.digest) for segment in segments), key, priority)


def pendulum_study(folder: Path) -> LabelStore:
    return LabelStore.create(folder, StudySettings(environment="prefrl/Pendulum-v0", width=64, height=64))


def test_all_that_waits_is_rendered_the_most_wanted_first(tmp_path: Path) -> None:
    one, two, three, four = (acted("prefrl/Pendulum-v0", 4, seed=seed)[0] for seed in range(4))
    with pendulum_study(tmp_path / "study") as store:
        store.post(
            [one, two, three, four], [asked(one, two, key="a"), asked(three, four, key="b", priority=1.0)]
        )
        done: list[list[bool]] = []
        made = render_waiting(store, told=lambda count: done.append([row.ready for row in store.questions()]))
        assert made == 4
        assert done == [[False, False], [False, True], [False, True], [True, True]]
        assert render_waiting(store) == 0


def test_a_segment_that_cannot_be_drawn_does_not_hold_up_others(tmp_path: Path) -> None:
    one, two = acted("prefrl/Pendulum-v0", 4)[0], pictured(5)
    bare = StoredSegment(one.arrays)
    with pendulum_study(tmp_path / "study") as store:
        store.post([one, two, bare], [asked(bare, one, key="a", priority=1.0), asked(one, two, key="b")])
        with pytest.raises(NotDrawn, match="has neither simulator states nor frames"):
            render_waiting(store)
        assert [row.ready for row in store.questions()] == [False, True]
        assert len(store.unrendered(5)) == 1


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_process_renders_what_comes(tmp_path: Path) -> None:
    one, two, three = (acted("prefrl/Pendulum-v0", 4, seed=seed)[0] for seed in range(3))
    with pendulum_study(tmp_path / "study") as store:
        store.post([one, two], [asked(one, two, key="a")])
        worker = RenderWorker(store.folder)
        worker.start()
        wait_for(lambda: all(row.ready for row in store.questions()))
        store.post([three], [asked(one, three, key="b")])
        wait_for(lambda: all(row.ready for row in store.questions()))
        assert rendering_error(store.folder) is None
        store.post([StoredSegment(one.arrays)], [asked(one, StoredSegment(one.arrays), key="c")])
        wait_for(lambda: rendering_error(store.folder) is not None)
        assert "has neither simulator states nor frames" in str(rendering_error(store.folder))
        assert worker.alive
        worker.stop()
        assert not worker.alive


def test_a_process_without_an_environment_ends_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    segment, _ = acted("prefrl/Pendulum-v0", 4)
    with LabelStore.create(tmp_path / "study", StudySettings(environment="NoSuch-v0")) as store:
        store.post([segment], [asked(segment, segment, key="a")])
        worker = RenderWorker(store.folder)
        worker.start()
        wait_for(lambda: not worker.alive)
        worker.stop()
        assert "NoSuch-v0 cannot be made" in str(rendering_error(store.folder))
    assert capfd.readouterr().err == ""  # whoever started it reads it there, and says it once


@pytest.mark.skipif(sys.platform == "win32", reason="asks for processes by POSIX signals")
def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    pendulum_study(tmp_path / "study").close()
    code = (
        "import sys, time\nfrom prefrl.label.clips import RenderWorker\n"
        "worker = RenderWorker(sys.argv[1])\nworker.start()\n"
        "print(worker._process.pid, flush=True)\ntime.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "study")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone)


def test_the_environment_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = gym.make
    monkeypatch.setattr(gym, "make", lambda env_id, **args: made.append(env_id) or real(env_id, **args))
    segments = [acted("prefrl/Pendulum-v0", 2, seed=seed)[0] for seed in range(3)]
    made.clear()
    with Painter(StudySettings(environment="prefrl/Pendulum-v0")) as painter:
        for segment in segments:
            painter.frames(segment)
    assert made == ["prefrl/Pendulum-v0"]


def test_one_bad_state_is_a_segment_that_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    segments = [acted("prefrl/Pendulum-v0", 2, seed=seed)[0] for seed in range(2)]
    with Painter(StudySettings(environment="prefrl/Pendulum-v0")) as painter:
        assert len(painter.frames(segments[0])) == 3
        with monkeypatch.context() as patch:
            patch.setattr("prefrl.label.drawing.picture", lambda env: 1 / 0)
            with pytest.raises(NotDrawn, match="ScalarEnv cannot draw here: ZeroDivisionError"):
                painter.frames(segments[1])
        assert len(painter.frames(segments[1])) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display")
def test_nothing_complains_of_a_display_that_is_not_there() -> None:
    code = (
        "from prefrl.label.drawing import make_drawing_env\nfrom prefrl.label.records import StudySettings\n"
        "env = make_drawing_env(StudySettings(environment='CartPole-v1'))\nenv.reset(seed=0)\nenv.render()"
    )
    none = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER")
    bare = {name: value for name, value in os.environ.items() if name not in none}
    found = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, text=True, check=True)
    assert found.stderr == ""
