"""Kinds of questions on the labelling page, what it says, and who can use it."""

from typing import Any

from labelling_films import check_once, numbers_of, pairs, post_films, until

from prefrl.label.records import Item, NewQuestion

# Other states, other kinds ------------------------------------------------------------------------------


def test_questions_that_come_later(visit: Any) -> None:
    store, person = visit([(1, 2)])
    assert person.work() == 1
    post_films(store, [(3, 4)])
    person.wait("answerable")
    assert person.work() == 1
    check_once(store, [(1, 2), (3, 4)])


def test_ratings(visit: Any) -> None:
    groups = [(1,), (2,), (3,), (4,)]
    store, person = visit(groups, kind="rating", choose=lambda digests: numbers_of(digests)[0])
    person.page.keyboard.press("9")
    assert person.work(3) == 3
    person.wait("answerable")
    person.page.click("button[aria-label='5 of 5']")
    person.wait("finished")
    until(lambda: len(store.current()) == 4)
    assert {answer.key: answer.rating for answer in store.current()} == {"1": 1, "2": 2, "3": 3, "4": 5}


def test_rankings_of_clips(visit: Any) -> None:
    def choose(digests: list[str]) -> list[list[int]]:
        numbers = numbers_of(digests)
        order = sorted(range(4), key=lambda place: -numbers[place])
        return [order[:1], sorted(order[1:3]), order[3:]]

    store, person = visit([(1, 2, 3, 4), (8, 7, 6, 5)], kind="ranking", choose=choose)
    assert person.work() == 2
    found = {answer.key: answer.ranking for answer in store.current()}
    assert found == {"1-2-3-4": ((3,), (1, 2), (0,)), "8-7-6-5": ((0,), (1, 2), (3,))}


def test_rankings_of_factors_by_buttons(visit: Any) -> None:
    store, person = visit([], kind="ranking")
    names = ("energy", "a <b>bold</b> one", "comfort")
    store.post([], [NewQuestion(tuple(Item(factor=name) for name in names), "factors")])
    person.wait("answerable")
    page = person.page
    shown = person.shown()
    assert sorted(shown) == sorted(names), "text stays text"
    last = shown[2]
    for _ in range(2):
        page.click(f"[aria-label='{last}: better']")
    page.click(f"[aria-label='{shown[0]}: worse']")
    page.click(f"[aria-label='{shown[0]}: same place as the one above']")
    assert page.locator(".rank").all_text_contents() == ["1st", "2nd =", "2nd ="]
    page.click("text=This is my order")
    person.wait("finished")
    (answer,) = store.current()
    assert answer.ranking is not None
    assert [sorted(names[place] for place in group) for group in answer.ranking] == [
        [last],
        sorted(shown[:2]),
    ]


def test_words_of_a_study_are_text(visit: Any) -> None:
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    _, person = visit([(1, 2)], question=nasty, instructions=nasty)
    person.wait("playing", "answerable")
    assert person.page.text_content("#question") == nasty
    person.page.keyboard.press("?")
    assert nasty in str(person.page.text_content("#help-body"))
    assert person.page.locator("main img, dialog img").count() == 0


def test_names_focus_and_narrow_windows(visit: Any) -> None:
    _, person = visit(pairs(3))
    page = person.page
    person.wait("answerable")
    unnamed = """() => [...document.querySelectorAll("button, input, video, progress, dialog, section")]
      .filter((part) => !(part.textContent.trim() || part.ariaLabel || part.getAttribute("aria-labelledby")))
      .map((part) => part.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.evaluate("() => document.activeElement.id") == "question"
    reached = []
    for _ in range(11):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("() => document.activeElement.id || document.activeElement.dataset.value")
        )
    assert reached == ["restart", "back", "play", "forward", "seek", "slower", "faster",
                       "left", "tie", "right", "skip"]  # fmt: skip
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for width, height in ((400, 800), (320, 200)):  # the second is 1280 by 800 at 400 %
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        left, right = (clip.bounding_box() for clip in page.locator(".clip").all())
        assert right["y"] > left["y"] + left["height"]
