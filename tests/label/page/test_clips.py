"""Clips on the labelling page: they play as one, and answers wait for them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelling_films import pairs, segment, until

from prefrl.label.clips import CODECS, encode
from prefrl.label.records import Item, NewQuestion

DRIFT = """async ([rounds]) => {
  const videos = [...document.querySelectorAll("video")];
  const apart = [];
  let ends = 0;
  videos[0].addEventListener("ended", () => { ends += 1; });
  while (ends < rounds) {
    await new Promise(requestAnimationFrame);
    const playing = videos.every((v) => !v.paused && !v.ended && !v.seeking);
    if (playing) apart.push(Math.abs(videos[0].currentTime - videos[1].currentTime));
  }
  return apart;
}"""

HOLD = """async () => {
  const video = document.querySelector("video");
  await new Promise((done) => video.addEventListener("ended", done, { once: true }));
  const ended = performance.now();
  await new Promise((done) => video.addEventListener("playing", done, { once: true }));
  return performance.now() - ended;
}"""


# Clips --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("faster", [0, 3])
def test_clips_start_and_stay_together(visit: Any, faster: int) -> None:
    _, person = visit([(1, 2)], frames=30, speed=faster)
    person.wait("playing", "answerable")
    apart = person.page.evaluate(DRIFT, [2])
    assert len(apart) > 20
    assert max(apart) < 0.05
    assert person.page.evaluate("() => [...document.querySelectorAll('video')].every((v) => !v.loop)")
    assert 290 <= person.page.evaluate(HOLD) < 900


def test_films_of_both_codecs_play(visit: Any) -> None:
    store, person = visit([])
    frames = [np.full((48, 64, 3), 10 * place, np.uint8) for place in range(8)]
    for number, codec in enumerate(CODECS):
        segments = [segment(2 * number), segment(2 * number + 1)]
        items = tuple(Item(segment=one.digest) for one in segments)
        store.post(segments, [NewQuestion(items, codec)])
        for one, length in zip(segments, (8, 5), strict=True):
            store.put_clip(one.digest, encode(frames[:length], 24, codec))
    for _ in CODECS:
        person.wait("answerable")
        person.page.wait_for_selector("#frame:has-text('8 / 8')")
        found = person.page.evaluate("[...document.querySelectorAll('video')].map((v) => v.duration)")
        assert sorted(found) == pytest.approx([5 / 24, 8 / 24], abs=0.02)
        person.press("tie")
    person.wait("finished")
    until(lambda: len(store.current()) == 2)


def test_a_clip_that_falls_behind_is_waited_for(visit: Any) -> None:
    _, person = visit([(1, 2)], frames=60, speed=0)
    person.wait("playing")
    person.page.evaluate("""async () => {
      const [video] = document.querySelectorAll("video");
      while (video.currentTime < 0.8) await new Promise(requestAnimationFrame);
      video.currentTime -= 0.4;
      await new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    }""")
    person.page.wait_for_timeout(700)
    apart = person.page.evaluate("""() => {
      const [a, b] = [...document.querySelectorAll("video")].map((v) => v.currentTime);
      return [a, Math.abs(a - b)]; }""")
    assert apart[0] < 2.4, "the round is not over yet"
    assert apart[1] < 0.05


def test_answers_open_when_the_clips_were_seen(visit: Any) -> None:
    store, person = visit([(1, 2), (3, 4)], frames=24, speed=0)
    page = person.page
    person.wait("playing")
    assert page.get_attribute("button[data-value=left]", "aria-disabled") == "true"
    page.keyboard.press("ArrowLeft")
    page.click("button[data-value=left]", force=True)
    assert page.text_content("#said") == "Watch the clips to their ends first."
    page.keyboard.press("Space")
    page.evaluate("""() => { const seek = document.querySelector('#seek'); seek.value = '18';
      seek.dispatchEvent(new Event('input', { bubbles: true })); }""")
    page.wait_for_selector("#frame:has-text('19 / 24')")
    page.keyboard.press("Space")
    page.wait_for_selector("#frame:has-text('24 / 24')")
    assert person.state == "playing", "what was jumped over was not seen"
    assert not store.current()
    page.keyboard.press("r")
    person.wait("answerable")
    assert page.get_attribute("button[data-value=left]", "aria-disabled") == "false"


def test_pausing_stepping_and_speeds(visit: Any, tmp_path: Path) -> None:
    _, person = visit([(1, 2)], frames=24, speed=0)
    page = person.page
    person.wait("answerable")
    page.keyboard.press("r")
    page.wait_for_timeout(200)
    page.keyboard.press("Space")
    page.wait_for_selector("#transport[data-playing=false]")
    page.wait_for_timeout(200)
    at = frame(page)
    assert 0 < at < 24
    page.wait_for_timeout(200)
    assert frame(page) == at
    for key, by in ((".", 1), (".", 1), (",", -1)):
        page.keyboard.press(key)
        at += by
        page.wait_for_selector(f"#frame:has-text('{at} / 24')")
    times = page.evaluate("() => [...document.querySelectorAll('video')].map((v) => v.currentTime)")
    assert times == pytest.approx([(at - 0.5) / 24] * 2, abs=1e-3)
    for key in "[[[":
        page.keyboard.press(key)
    assert page.text_content("#speed") == "0.5\N{MULTIPLICATION SIGN}"
    page.keyboard.press("Space")
    page.wait_for_selector("#transport[data-playing=true]")
    assert page.evaluate("() => document.querySelector('video').playbackRate") == pytest.approx(0.5, rel=0.21)
    page.keyboard.press("s")
    person.wait("finished")
    kinds = events(tmp_path / "study")
    assert kinds.count("step") == 3
    assert kinds.count("speed") == 3
    assert {"pause", "play", "restart"} <= set(kinds)


def frame(page: Any) -> int:
    return int(str(page.text_content("#frame")).split(" / ")[0])


def events(folder: Path) -> list[str]:
    """Return what the page told of how the clips were looked at."""
    with closing(sqlite3.connect(folder / "labels.sqlite3")) as connection:
        return [kind for (kind,) in connection.execute("SELECT kind FROM event ORDER BY id")]


def test_keys_with_modifiers_in_fields_and_behind_dialogs(visit: Any) -> None:
    store, person = visit(pairs(3), watch="any")
    page = person.page
    person.wait("answerable")
    before = person.showing
    for key in ("Control+s", "Alt+ArrowDown", "Shift+ArrowLeft", "Meta+u"):
        page.keyboard.press(key)
    page.focus("#seek")
    page.keyboard.press("ArrowRight")
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.is_visible("#help-dialog")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    assert page.is_visible("#break-dialog")
    page.keyboard.press("s")
    page.click("#break-close")
    page.wait_for_timeout(300)
    assert person.showing == before
    assert not store.current()
    person.press("right")
    until(lambda: [answer.value for answer in store.current()] == ["right"])


def test_a_clicked_button_gives_the_space_bar_back(visit: Any) -> None:
    store, person = visit(pairs(3), watch="any")
    page = person.page
    person.wait("answerable")
    page.click("button[data-value=tie]")
    person.wait("answerable")
    page.keyboard.press("Space")
    page.wait_for_selector("#transport[data-playing=false]")
    assert len(store.current()) == 1
    page.click("#restart")
    page.keyboard.press("Space")
    page.wait_for_selector("#transport[data-playing=false]")


def test_reduced_motion_starts_paused(visit: Any, context: Any) -> None:
    context.on("page", lambda page: page.emulate_media(reduced_motion="reduce"))
    _, person = visit([(1, 2)])
    page = person.page
    person.wait("playing")
    page.wait_for_timeout(500)
    assert frame(page) == 1
    for _ in range(5):
        page.keyboard.press(".")
        page.wait_for_timeout(40)
    person.wait("answerable")


def test_the_next_question_is_here_before_it_is_asked_for(visit: Any, context: Any) -> None:
    _, person = visit(pairs(6))
    fetched: list[str] = []
    context.on("request", lambda request: fetched.append(request.url))
    for _ in range(4):
        person.wait("answerable")
        person.page.wait_for_load_state("networkidle")
        fetched.clear()
        person.answer()
        assert not [url for url in fetched if url.split("/")[-1] in person.shown()]
