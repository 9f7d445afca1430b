"""Somebody who answers on the labelling page by keys and clicks alone, and a browser that complains."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = "PREFRL_CHROMIUM"
"""Environment variable with the path of a chromium."""

ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)

PAIR_KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown", "skip": "s"}

PATIENCE_MS = 15_000
"""How long the page may take for anything."""


@contextmanager
def chromium() -> Iterator[Any]:
    """Return Playwright's browser; skip where there is none."""
    path = os.environ.get(CHROMIUM)
    if not path:
        pytest.skip(f"{CHROMIUM} does not name a chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Complaints:
    """Whatever goes wrong in the pages of a browser's context: console, errors, requests, statuses."""

    def __init__(self, context: Any) -> None:
        self.found: list[str] = []
        self.allowed: list[str] = []
        self.over = False
        context.on("console", lambda message: self._add(f"console: {message.text}"))
        context.on("weberror", lambda error: self._add(f"error: {error.error}"))
        context.on("requestfailed", lambda request: self._add(f"failed: {request.url} {request.failure}"))
        context.on("response", self._look)

    def _look(self, response: Any) -> None:
        if response.status >= 400:
            self._add(f"status {response.status}: {response.url}")

    def _add(self, text: str) -> None:
        if not self.over and not any(re.search(pattern, text) for pattern in self.allowed):
            self.found.append(text)

    def allow(self, *patterns: str) -> None:
        """Take complaints of these kinds as expected from now on."""
        self.allowed += patterns

    def check(self) -> None:
        """Fail if there was any; what is broken off when the browser closes does not count."""
        self.over = True
        assert not self.found, "\n".join(self.found)


class ScriptedPerson:
    """Looks at the page of a study, and acts by keys and clicks only.

    Args:
        page: Playwright's page.
        choose: what to answer, of the digests of the clips on view in their order (names of factors where
            there are no clips): "left", "right", "tie" or "skip"; a rating; or groups of places, best first.
    """

    def __init__(self, page: Any, choose: Callable[[list[str]], Any]) -> None:
        self.page = page
        self.choose = choose
        page.set_default_timeout(PATIENCE_MS)

    def enter(self, link: str, speed: int = 0) -> None:
        """Open the link, read the introduction and begin.

        Args:
            link: as the server prints it.
            speed: how many steps faster than usual the clips are to play.
        """
        self.page.goto(link)
        self.wait("intro")
        self.page.keyboard.press("Enter")
        for _ in range(speed):
            self.page.keyboard.press("]")

    @property
    def state(self) -> str:
        """State of the page."""
        return str(self.page.get_attribute("body", "data-state"))

    def wait(self, *states: str) -> str:
        """Wait for one of these states of the page; return which it is."""
        names = ", ".join(f'body[data-state="{state}"]' for state in states)
        self.page.wait_for_selector(names, state="attached", timeout=PATIENCE_MS)
        return self.state

    @property
    def showing(self) -> int:
        """Number of the showing on view."""
        return int(self.page.get_attribute("body", "data-showing"))

    @property
    def practising(self) -> bool:
        """Whether the question on view is for practice."""
        return bool(self.page.get_attribute("body", "data-practice") == "true")

    def shown(self) -> list[str]:
        """Return the digests of the clips on view, or the names of the factors, in the order shown."""
        clips = self.page.locator(".clip").all()
        if clips:
            return [str(clip.get_attribute("data-clip")) for clip in clips]
        rows = self.page.locator(".ranking li").all()
        rows.sort(key=lambda row: int(row.get_attribute("data-item")))
        return [str(row.locator(".name").text_content()) for row in rows]

    def answer(self) -> Any:
        """Answer the question on view once it takes answers.

        Returns:
            What was answered; None if the study is finished.
        """
        if self.wait("answerable", "finished") == "finished":
            return None
        before = self.showing
        value = self.choose(self.shown())
        self.press(value)
        self.page.wait_for_selector(
            f'body:not([data-showing="{before}"]), body:is([data-state="finished"], [data-state="waiting"])',
            state="attached",
            timeout=PATIENCE_MS,
        )
        return value

    def press(self, value: Any) -> None:
        """Press the keys of an answer."""
        keyboard = self.page.keyboard
        if isinstance(value, str):
            keyboard.press(PAIR_KEYS[value])
        elif isinstance(value, int):
            keyboard.press(str(value))
        else:
            self._order(value)
            keyboard.press("Enter")

    def _order(self, groups: Sequence[Sequence[int]]) -> None:
        """Put a ranking in order, from the best place to the worst."""
        keyboard = self.page.keyboard
        flat = [place for group in groups for place in group]
        current = list(range(len(flat)))
        for target, place in enumerate(flat):
            keyboard.press(str(place + 1))
            for _ in range(current.index(place) - target):
                keyboard.press("ArrowUp")
            current.remove(place)
            current.insert(target, place)
        for group in groups:
            for place in group[1:]:
                keyboard.press(str(place + 1))
                keyboard.press("=")

    def work(self, most: int = 10_000) -> int:
        """Answer until the study is finished, or so many questions; return how many."""
        for number in range(most):
            if self.answer() is None:
                return number
        return most
