"""How fast labelling by people is, part by part.

``server``: `prefrl label serve`, in a process of its own, answers people who ask at a fixed rate. The time of
an answer runs from the moment when its request was due until its last byte is read, so that whatever keeps
one up counts for those after it. Each asks for a question, fetches its two clips, and answers; there are
answers already.

``clips``: a pair of clips is made as `prefrl label serve` makes it, drawn from stored simulator states and
encoded, by one process that has its environment open; what counts is processor time. Beside it, what a
picture of some of our environments takes.

``page``: milliseconds from the key of an answer until the next pair is on the screen, in a chromium without a
window. Needs Playwright (the extra ``dev``) and a chromium that is installed already.

``trainer``: how much slower a run is while people have the page open and do nothing than the same run with no
page, and than one that asks nobody.

Every part is measured several times; medians, minima and maxima of its numbers are reported.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from prefrl.agents import PreferenceRL, PreferenceRLConfig, SACConfig
from prefrl.cli import execute
from prefrl.envs.wrappers import SimulatorStates
from prefrl.envs.wrappers.simulator_states import with_simulator_states
from prefrl.label.clips import encode, make_clip
from prefrl.label.drawing import Painter
from prefrl.label.records import Clip, Item, NewQuestion, StoredSegment, StudySettings
from prefrl.label.store import LabelStore
from prefrl.label.teacher import HumanTeacher
from prefrl.run.flags import parse
from prefrl.run.folder import RunFolder
from prefrl.run.study.study import check_positive, run_study
from prefrl.run.study.timing import clocked, spread

Part = Literal["server", "clips", "page", "trainer"]

Numbers = dict[str, float]
"""What one measurement of a part finds, by names that say the unit."""


@dataclass(frozen=True)
class Bench:
    """How fast labelling by people is, part by part."""

    out: Path = Path("runs/bench_label")
    """Run folder, new or empty."""

    parts: tuple[Part, ...] = ("server", "clips")
    """What is measured."""

    repeats: int = 3
    """Measurements of each part."""

    seconds: int = 20
    """Server: how long one measurement takes."""

    people: int = 10
    """Server: how many ask."""

    rate: int = 50
    """Server: requests per second, of all of them together."""

    answered: int = 200
    """Server: answers that each of them has given before."""

    clip_bytes: int = 50_000
    """Server: size of a clip."""

    env_id: str = "HalfCheetah-v5"
    """Clips: the environment that is drawn."""

    frames: int = 50
    """Clips: pictures of each."""

    codec: Literal["vp9", "h264"] = "vp9"
    """Clips: how they are encoded."""

    pairs: int = 30
    """Page: pairs that are timed."""

    chromium: str = field(default_factory=lambda: os.environ.get("PREFRL_CHROMIUM", ""))
    """Page: path of a chromium; by default what PREFRL_CHROMIUM names."""

    asked: int = 100
    """Trainer: questions that wait."""

    steps: int = 2_000
    """Trainer: timesteps of a stretch."""

    stretches: int = 6
    """Trainer: stretches with people, and as many without, in a measurement."""

    def __post_init__(self) -> None:
        check_positive(self, "repeats", "seconds", "people", "rate", "clip_bytes", "frames", "pairs",
                       "asked", "steps", "stretches")  # fmt: skip
        if "page" in self.parts and not self.chromium:
            raise ValueError("chromium is empty: give the path of one, or set PREFRL_CHROMIUM")
        if self.answered < 0:
            raise ValueError(f"answered is {self.answered}; it must not be negative")
        if not self.parts:
            raise ValueError(f"parts is empty; there are {', '.join(PARTS)}")

    def run(self) -> None:
        """Run the benchmark in its folder."""
        run_study(self)

    def measure(self, folder: RunFolder) -> dict[str, Any]:
        """Return medians, minima and maxima of every part's numbers."""
        result: dict[str, Any] = {}
        for part in dict.fromkeys(self.parts):
            found = [PARTS[part](self) for _ in range(self.repeats)]
            result |= {f"{part}_{name}": spread([one[name] for one in found]) for name in found[0]}
        show(result)
        return result


def show(result: dict[str, Any]) -> None:
    """Print the numbers as a table."""
    table = Table("what", "median", "min", "max")
    for name, numbers in result.items():
        table.add_row(name, *(f"{numbers[key]:.3g}" for key in ("median", "min", "max")))
    Console().print(table)


# The server ----------------------------------------------------------------------------------------------


def measure_server(bench: Bench) -> Numbers:
    """Return quantiles of the milliseconds until an answer, and the rate that was reached."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        make_study(bench, folder)
        with serving(folder, bench.people) as links:
            port, cookies = links[0][0], [entered(*link) for link in links]
            begin = time.monotonic() + 0.5
            people = [Asking(bench, port, cookie, begin, number) for number, cookie in enumerate(cookies)]
            for person in people:
                person.start()
            for person in people:
                person.join()
    if errors := [person.error for person in people if person.error is not None]:
        raise errors[0]
    taken = sorted(1e3 * seconds for person in people for seconds in person.taken)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    last = max(person.ended for person in people) - begin
    return {
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "max_ms": taken[-1],
        "requests_per_second": len(taken) / last,
    }


class Asking(threading.Thread):
    """Somebody who asks at a fixed rate."""

    def __init__(self, bench: Bench, port: int, cookie: str, begin: float, number: int) -> None:
        super().__init__(daemon=True)
        self.taken: list[float] = []
        self.ended = begin
        self.error: BaseException | None = None
        self._port, self._cookie = port, cookie
        self._step = bench.people / bench.rate
        self._begin = begin + number / bench.rate
        self._requests = max(1, round(bench.seconds / self._step))
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def run(self) -> None:
        """Ask, and note how long each answer took."""
        try:
            for number, (method, path, body) in enumerate(islice(self._talk(), self._requests)):
                due = self._begin + number * self._step
                time.sleep(max(0.0, due - time.monotonic()))
                self._reply = self._ask(method, path, body)
                self.ended = time.monotonic()
                self.taken.append(self.ended - due)
        except BaseException as error:
            self.error = error
        finally:
            self._connection.close()

    def _talk(self) -> Iterator[tuple[str, str, Any]]:
        """Yield what is asked, one after the other, each after the answer before."""
        while True:
            yield "POST", "/api/next", {"held": []}
            showing = json.loads(self._reply)["showing"]
            for item in showing["items"]:
                yield "GET", item["clip"], None
            events = [{"kind": "play", "at_ms": 0}]
            yield "POST", "/api/answer", {"request": str(uuid.uuid4()), "showing": showing["id"],
                                          "value": "left", "seconds": 1.0, "plays": 1,
                                          "events": events}  # fmt: skip

    def _ask(self, method: str, path: str, body: Any) -> bytes:
        headers = {"Cookie": self._cookie}
        if body is not None:
            headers |= {"Origin": f"http://127.0.0.1:{self._port}", "Content-Type": "application/json"}
        self._connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
        response = self._connection.getresponse()
        found = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path} was answered with {response.status}: {found[:200]!r}")
        return found


def make_study(bench: Bench, folder: Path) -> None:
    """Make a study with enough pairs for everybody, and let everybody answer some of them."""
    wanted = bench.people * (bench.answered + bench.rate * bench.seconds)
    count = next(count for count in range(2, 10**6) if count * (count - 1) // 2 >= wanted)
    generator = random.Random(0)
    with LabelStore.create(folder, StudySettings(repeat_every=20)) as store:
        segments = [made_segment(number) for number in range(count)]
        items = [Item(segment=segment.digest) for segment in segments]
        pairs = islice(combinations(items, 2), wanted)
        store.post(segments, [NewQuestion(pair, f"pair {number}") for number, pair in enumerate(pairs)])
        for segment in segments:
            media = generator.randbytes(bench.clip_bytes)
            store.put_clip(segment.digest, Clip(media, "video/webm", 50, 320, 320, 30.0, "none"))
        for number in range(bench.people):
            annotator = store.add_annotator(f"person {number}")
            for _ in range(bench.answered):
                showing = store.next(annotator.id)
                assert showing is not None
                store.answer(annotator.id, str(uuid.uuid4()), showing.id, "left", 1.0, 1)


def made_segment(number: int) -> StoredSegment:
    """Return a segment, another one for each number."""
    arrays = {
        "obs": np.full((2, 1), float(number)),
        "actions": np.zeros((1, 1)),
        "terminated": np.array(False),
    }
    return StoredSegment(arrays, frames=np.zeros((1, 2, 2, 3), np.uint8))


@contextmanager
def serving(folder: Path, people: int) -> Iterator[list[tuple[int, str]]]:
    """Serve a study in a process of its own; yield the port and the path of each person's link."""
    command = [
        sys.executable,
        "-m",
        "prefrl.cli",
        "label",
        "serve",
        str(folder),
        "--port",
        "0",
        "--no-render",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        links = [line for line in islice(process.stdout, people + 1) if "/?token=" in line]
        if len(links) < people:
            raise RuntimeError(f"the server ended with {process.wait()}")
        found = [re.search(r":(\d+)(/\?token=\S+)", line) for line in links]
        yield [(int(match[1]), match[2]) for match in found if match]
    finally:
        process.terminate()
        process.wait()


def entered(port: int, path: str) -> str:
    """Return the cookie that a link is exchanged for."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    cookie = str(connection.getresponse().getheader("set-cookie")).partition(";")[0]
    connection.close()
    return cookie


# Clips ---------------------------------------------------------------------------------------------------


def measure_clips(bench: Bench) -> Numbers:
    """Return seconds of processor time that a pair of clips takes, and how large a clip is."""
    study = StudySettings(environment=bench.env_id, codec=bench.codec)
    pair = [acted(bench.env_id, bench.frames - 1, seed) for seed in (0, 1)]
    start = time.process_time()
    with Painter(study) as painter:
        make_clip(painter, acted(bench.env_id, 1, 2))
        opened = time.process_time()
        frames = [painter.frames(segment) for segment in pair]
        drawn = time.process_time()
        clips = [encode(each, study.fps, study.codec, (study.width, study.height)) for each in frames]
        ended = time.process_time()
    assert all(clip.frames == bench.frames for clip in clips)
    return {
        "pair_cpu_s": ended - opened,
        "opening_cpu_s": opened - start,
        "frame_cpu_ms": 1e3 * (drawn - opened) / (2 * bench.frames),
        "encoding_cpu_ms": 1e3 * (ended - drawn) / 2,
        "clip_kib": sum(len(clip.media) for clip in clips) / 2048,
        **{f"{env_id.split('/')[1]}_frame_cpu_ms": drawing_ms(env_id) for env_id in OURS},
    }


OURS = ("prefrl/Pendulum-v0", "prefrl/MountainCar-v0", "prefrl/LQPlane-v0", "prefrl/NetworkRevenue-v0")
"""Environments whose pictures are timed: those that took longest are among them."""


def acted(env_id: str, steps: int, seed: int) -> StoredSegment:
    """Return a segment of uniform actions, with its simulator states."""
    env = SimulatorStates(gym.make(env_id))
    obs, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    seen, states, actions = [obs], [info["simulator_state"][1]], []
    for _ in range(steps):
        actions.append(env.action_space.sample())
        obs, _, _, _, info = env.step(actions[-1])
        seen.append(obs)
        states.append(info["simulator_state"][1])
    env.close()
    arrays = {"obs": np.stack(seen), "actions": np.stack(actions), "terminated": np.array(False)}
    return StoredSegment(arrays, np.stack(states))


def drawing_ms(env_id: str, pictures: int = 50) -> float:
    """Return milliseconds of processor time that a picture of an environment takes."""
    env = gym.make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    env.action_space.seed(0)
    env.render()
    taken = 0.0
    for _ in range(pictures):
        env.step(env.action_space.sample())
        start = time.process_time()
        env.render()
        taken += time.process_time() - start
    env.close()
    return 1e3 * taken / pictures


# The page ------------------------------------------------------------------------------------------------

PAINTED = """() => new Promise((done) => {
  const begin = performance.now();
  const old = document.body.dataset.showing;
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
  const look = () => {
    const videos = [...document.querySelectorAll("video")];
    if ((document.body.dataset.showing ?? old) === old || videos.length < 2) {
      return requestAnimationFrame(look);
    }
    const painted = (video) => new Promise((shown) => video.requestVideoFrameCallback(shown));
    Promise.all(videos.map(painted)).then(() => done(performance.now() - begin));
  };
  look();
})"""
"""Answers, and waits until the browser has put a frame of both clips of the next pair on the screen."""


def measure_page(bench: Bench) -> Numbers:
    """Return quantiles of the milliseconds from the key of an answer until the next pair is painted."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place) / "study"
        make_films(folder, bench.pairs + 2)
        with serving(folder, 1) as links:
            browser = playwright.chromium.launch(executable_path=bench.chromium, args=["--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"http://127.0.0.1:{links[0][0]}{links[0][1]}")
            page.click("#start")
            taken = []
            for _ in range(bench.pairs):
                page.wait_for_selector("body[data-state=answerable]", state="attached")
                page.wait_for_load_state("networkidle")
                taken.append(page.evaluate(PAINTED))
            browser.close()
    cuts = statistics.quantiles(sorted(taken), n=20, method="inclusive")
    return {"next_pair_ms": statistics.median(taken), "next_pair_p95_ms": cuts[18]}


def make_films(folder: Path, pairs: int) -> None:
    """Make a study of pairs of films, 50 frames of 320 by 320 with noise that is costly to decode."""
    study = StudySettings(environment=None, fps=25, watch="any")
    generator = np.random.default_rng(0)
    with LabelStore.create(folder, study) as store:
        for number in range(pairs):
            segments = [made_segment(2 * number + side) for side in range(2)]
            items = tuple(Item(one.digest) for one in segments)
            store.post(segments, [NewQuestion(items, f"pair {number}")])
            for one in segments:
                coarse = generator.integers(0, 256, (50, 40, 40, 3), dtype=np.uint8)
                frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
                store.put_clip(one.digest, encode(frames, study.fps, study.codec))


# The trainer ---------------------------------------------------------------------------------------------


def measure_trainer(bench: Bench) -> Numbers:
    """Return how much slower a run is while people look at the page and do nothing.

    It is the same run that goes on with the page and without, and beside it one that asks nobody and keeps no
    simulator states; in turns, a short stretch each, so that what else the machine does meets all. The page
    is served by a process of its own; a person's tab asks every second, more often than a page does that is
    left alone.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "study"
        teacher = HumanTeacher(folder, "bench", StudySettings(environment="Pendulum-v1"))
        asking, alone = trainee(bench, teacher), trainee(bench, lambda questions: questions.nothing())
        for number, segment in enumerate(teacher.store.unrendered(10_000)):
            media = random.Random(number).randbytes(bench.clip_bytes)
            teacher.store.put_clip(segment.digest, Clip(media, "video/webm", 50, 320, 320, 30.0, "none"))
        taken = []
        for _ in range(bench.stretches):
            with serving(folder, 1) as links, page_left_alone(*links[0]):
                page = clocked(lambda: asking.learn(bench.steps))
            taken.append(
                [page, *(clocked(lambda a=agent: a.learn(bench.steps)) for agent in (asking, alone))]
            )
    found = {}
    for place_of, name in enumerate(("", "processor_")):
        times = [[one[place_of] for one in row] for row in taken]
        found[f"{name}idle_page_percent"] = overhead([(row[0], row[1]) for row in times])
        found[f"{name}people_percent"] = overhead([(row[0], row[2]) for row in times])
    return {**found, "steps_per_second": bench.steps / statistics.median(row[0][0] for row in taken)}


def overhead(pairs: list[tuple[float, float]]) -> float:
    """Return by how many percent the first of two times is longer: the median over pairs."""
    return 100.0 * statistics.median(one / other - 1.0 for one, other in pairs)


def trainee(bench: Bench, teacher: Any) -> PreferenceRL:
    """Return an agent that has asked all that it may, and has begun to learn."""
    env = gym.make("Pendulum-v1")
    if isinstance(teacher, HumanTeacher):
        env = with_simulator_states(env)
    config = PreferenceRLConfig(
        SACConfig(hidden=(64, 64)), num_labels=bench.asked, first_labels=bench.asked, first_session=500,
    )  # fmt: skip
    return PreferenceRL(env, config, teacher=teacher, device="cpu").learn(1_000)


@contextmanager
def page_left_alone(port: int, link: str) -> Iterator[None]:
    """Keep a tab open that shows a question, and asks every second whether there is another."""
    cookie = entered(port, link)
    stop = threading.Event()

    def look() -> None:
        held: list[int] = []
        while not stop.is_set():
            body = json.dumps({"held": held})
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/api/next", body, {
                "Cookie": cookie, "Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json",
            })  # fmt: skip
            showing = json.loads(connection.getresponse().read())["showing"]
            connection.close()
            if showing is not None and len(held) < 2:  # the question on view, and the next one
                held.append(showing["id"])
            stop.wait(1.0)

    person = threading.Thread(target=look)
    person.start()
    try:
        yield
    finally:
        stop.set()
        person.join()


PARTS: dict[Part, Callable[[Bench], Numbers]] = {
    "server": measure_server, "clips": measure_clips, "page": measure_page, "trainer": measure_trainer,
}  # fmt: skip
"""How each part is measured once."""

if __name__ == "__main__":
    sys.exit(execute(lambda: parse(Bench, description=__doc__)))
