"""The labelling page in a browser, by keys and clicks: whatever happens, every answer is stored once."""

import time
import uuid
from typing import Any

from labelling_films import by_number, check_once, pairs, post_films, until
from labelling_person import Complaints, ScriptedPerson

from prefrl.label.records import NewQuestion
from prefrl.label.store import LabelStore

# Labelling ----------------------------------------------------------------------------------------------


def test_twenty_pairs_by_keys(study: Any, context: Any, complaints: Complaints) -> None:
    groups = pairs(20)
    server = study(
        groups, practice=1, question="Which one is further down?", instructions="Look.\n\nTake time."
    )
    person = ScriptedPerson(context.new_page(), by_number)
    page = person.page
    page.goto(server.start())
    person.wait("intro")
    assert page.locator("#intro h3:has-text('Example')").count() == 2
    assert page.text_content("#intro-title") == page.title() == "Which one is further down?"
    page.keyboard.press("Enter")
    person.wait("playing", "answerable")
    assert person.practising
    assert page.text_content("#place") == "Practice"
    for _ in range(6):
        page.keyboard.press("]")
    assert page.text_content("#speed") == "4\N{MULTIPLICATION SIGN}"
    person.choose = lambda digests: "left"
    person.answer()
    person.choose = by_number
    person.wait("answerable")
    assert page.text_content("#said") == "Left is better. Practice, not counted. Question 1 of 20."
    assert page.text_content("#place") == "Question 1 of 20"
    assert person.work(4) == 4
    person.wait("answerable")
    assert page.text_content("#place") == "Question 5 of 20"
    assert str(page.text_content("#said")).endswith(", stored. Question 5 of 20.")
    assert page.evaluate("document.querySelector('progress').position") == 0.2
    assert person.work() == 16
    assert page.text_content("#message-title") == "Thank you!"
    counts = page.locator("#counts dd").all_text_contents()
    assert [int(count) for count in counts] == [20 - skipped(groups), skipped(groups), 0]
    with LabelStore.open(server.folder) as store:
        check_once(store, groups)
        answers = store.current()
        assert sum(answer.practice for answer in answers) == 1
        assert {answer.places for answer in answers} == {(0, 1), (1, 0)}, "both sides are drawn"
        assert all(answer.plays >= 1 and 0.25 < answer.seconds < 60 for answer in answers)


def test_practice_says_whether_it_was_right(study: Any, context: Any, complaints: Complaints) -> None:
    groups = pairs(2)
    server = study(groups, practice=1)
    with LabelStore.open(server.folder) as store:  # before those without an answer
        items = store.questions()[-1].items
        sure = NewQuestion(items, "sure", priority=1.0, practice=True, check_answer="second")
        store.post([], [sure])
        better = str(items[1].segment)
    person = ScriptedPerson(context.new_page(), by_number)
    page = person.page
    page.goto(server.start())
    person.wait("intro")
    page.keyboard.press("Enter")
    with LabelStore.open(server.folder) as store, store._connections.reading() as connection:
        row = connection.execute("SELECT clip.digest FROM clip JOIN segment ON segment.clip = clip.id "
                                 "WHERE segment.digest = ?", (better,)).fetchone()  # fmt: skip
    wrong: list[str] = []

    def worse(digests: list[str]) -> str:
        wrong.append("left" if digests[1] == row[0] else "right")
        return wrong[-1]

    person.wait("answerable")
    person.choose = worse
    person.answer()
    person.wait("answerable")
    words = f"{wrong[0].capitalize()} is better"
    assert page.text_content("#said") == (
        f'Practice: another answer was meant, not "{words}". U shows it again. Question 1 of 2.'
    )
    page.keyboard.press("u")
    person.wait("answerable")
    person.choose = lambda digests: "right" if wrong[0] == "left" else "left"
    person.answer()
    person.wait("answerable")
    assert str(page.text_content("#said")).endswith(": right. Practice, not counted. Question 1 of 2.")


def skipped(groups: list[tuple[int, int]]) -> int:
    return sum(7 in group for group in groups)


def test_undo_of_any_depth(visit: Any) -> None:
    groups = pairs(5)
    store, person = visit(groups, choose=lambda digests: "tie")
    page = person.page
    assert person.work(4) == 4
    person.wait("answerable")
    fifth = person.showing
    for left in (3, 2, 1):
        page.keyboard.press("u")
        until(lambda left=left: len(store.current()) == left)
    page.wait_for_function("() => !document.querySelector('#previous').hidden")
    assert page.text_content("#previous") == "Your answer was: Both are equal"
    person.choose = by_number
    assert person.work(3) == 3
    person.wait("answerable")
    assert person.showing == fifth, "the question that undo put aside comes back"
    page.click("#undo")  # by the button, and twice more than there are answers
    for _ in range(5):
        page.keyboard.press("u")
    until(lambda: not store.current())
    page.wait_for_selector("text=There is nothing to undo.")
    assert person.work() == 5
    check_once(store, groups)
    assert store.totals().undone == 7


def test_undos_that_come_fast(visit: Any) -> None:
    store, person = visit(pairs(4))
    assert person.work(3) == 3
    person.wait("answerable")
    person.page.route("**/clip/*", lambda route: (time.sleep(0.1), route.continue_()))
    for _ in range(3):  # also while the clips of the question before are on their way
        person.page.keyboard.press("u")
        person.page.wait_for_timeout(50)
    until(lambda: not store.current())
    person.page.wait_for_function("() => document.body.dataset.unsent === '0'")
    assert person.work() == 4
    check_once(store, pairs(4))


def test_more_undos_than_a_tab_may_hold(visit: Any, context: Any) -> None:
    groups = [(first, second) for first in range(1, 12) for second in range(12, 22)]
    store, person = visit([], watch="any", lease_seconds=3)
    page = person.page
    post_films(store, groups)
    ada = store.annotators()[0].id
    for _ in groups:
        showing = store.next(ada)
        assert showing is not None
        store.answer(ada, str(uuid.uuid4()), showing.id, "left", 1.0)
    context.on("request", lambda request: clips.append(request.url) if "/clip/" in request.url else None)
    clips: list[str] = []
    for _ in groups:
        page.keyboard.press("u")
    until(lambda: store.totals().undone == len(groups), 30.0)
    with page.expect_response("**/api/hold"):
        pass  # many more are held than may be named
    asked = len(clips)
    person.choose = lambda digests: "tie"
    assert person.work(5) == 5
    assert len(clips) > asked, "clips far ahead are let go of, and come again"


def test_undo_at_the_end(visit: Any) -> None:
    store, person = visit([(1, 2)])
    assert person.work() == 1
    person.page.keyboard.press("u")
    person.wait("answerable")
    person.press("skip")
    person.wait("finished")
    until(lambda: [answer.skip for answer in store.current()] == [True])


def test_a_double_click_and_a_held_key_answer_once(visit: Any) -> None:
    store, person = visit(pairs(4), watch="any")
    page = person.page
    person.wait("answerable")
    page.dblclick("button[data-value=left]")
    page.wait_for_timeout(500)
    assert len(store.current()) == 1
    person.wait("answerable")
    for _ in range(30):
        page.keyboard.down("ArrowRight")  # all but the first are repetitions
        page.wait_for_timeout(20)
    page.keyboard.up("ArrowRight")
    assert len(store.current()) == 2
    person.wait("answerable")
    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(60)
    page.keyboard.press("s")  # too soon after the next question has appeared
    page.wait_for_timeout(300)
    assert [answer.value for answer in store.current()] == ["left", "right", "left"]
    person.wait("answerable")
    box = page.locator("button[data-value=tie]").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down(click_count=2)  # the second half of a slow double click
    page.mouse.up(click_count=2)
    page.wait_for_timeout(200)
    assert len(store.current()) == 3


# Reloads, tabs, a server that dies ----------------------------------------------------------------------


def test_a_reload_shows_the_same_question(visit: Any, complaints: Complaints) -> None:
    complaints.allow("failed: .* net::ERR_ABORTED")  # what a reload breaks off
    store, person = visit(pairs(3))
    person.wait("answerable")
    before = (person.showing, person.shown())
    person.page.reload()
    person.wait("answerable")
    assert (person.showing, person.shown()) == before
    assert person.work() == 3
    check_once(store, pairs(3))


def test_an_unsent_answer_survives_a_reload(visit: Any, complaints: Complaints) -> None:
    store, person = visit(pairs(3))
    page, asked = person.page, []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    held: list[Any] = []
    page.route("**/api/answer", lambda route: route.continue_() if asked else held.append(route))
    person.answer()
    until(lambda: page.wait_for_timeout(20) or held)
    assert page.get_attribute("body", "data-unsent") == "1"
    complaints.allow("failed: .* net::ERR_ABORTED")
    assert not store.current()
    page.reload()
    assert asked == ["beforeunload"]
    person.wait("answerable")
    assert page.get_attribute("body", "data-unsent") == "0"
    assert len(store.current()) == 1
    assert person.work() == 2
    check_once(store, pairs(3))


def test_an_answer_whose_receipt_is_lost_is_stored_once(visit: Any, complaints: Complaints) -> None:
    store, person = visit(pairs(3))
    complaints.allow("failed: .*/api/answer", "console: .*ERR_FAILED")

    def lose(route: Any) -> None:
        route.fetch()
        route.abort()

    person.page.route("**/api/answer", lose, times=2)
    assert person.work() == 3
    check_once(store, pairs(3))


def test_tabs_have_different_questions(visit: Any, context: Any) -> None:
    groups = pairs(8)
    store, first = visit(groups)
    second = ScriptedPerson(context.new_page(), by_number)
    second.enter(first.page.url)
    first.wait("answerable")
    with context.expect_page() as opened:  # as a duplicated tab it begins with the first one's memory
        first.page.evaluate("() => { window.open('/'); }")
    third = ScriptedPerson(opened.value, by_number)
    third.wait("playing", "answerable")
    people = [first, second, third]
    assert len({person.showing for person in people}) == 3
    assert len({tuple(sorted(person.shown())) for person in people}) == 3
    for person in people * 2:
        person.page.bring_to_front()
        person.answer()
    for _ in range(2):  # what one tab holds, the others wait for
        person = next(person for person in people if person.state in ("playing", "answerable"))
        person.page.bring_to_front()
        person.answer()
    for person in people:
        person.page.bring_to_front()
        person.wait("finished")
    check_once(store, groups)


def test_who_is_before_the_page_keeps_the_questions(visit: Any) -> None:
    store, person = visit(pairs(2), lease_seconds=1)
    page, other = person.page, store.add_annotator("ben")
    person.wait("answerable")
    page.wait_for_timeout(2500)
    assert store.next(other.id) is None
    page.keyboard.press("p")  # who takes a break lets others have them
    page.wait_for_timeout(1300)
    assert store.next(other.id) is not None
    page.keyboard.press("Escape")
    person.press("left")
    until(lambda: len(store.current()) == 1)


def test_a_killed_server(study: Any, context: Any, complaints: Complaints) -> None:
    groups = pairs(8)
    server = study(groups)
    complaints.allow(
        "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET_NOT_CON"
    )
    person = ScriptedPerson(context.new_page(), by_number)
    person.enter(server.start(), 6)
    page = person.page
    person.work(2)
    person.wait("answerable")
    server.kill()  # before the answer
    person.press(by_number(person.shown()))
    page.wait_for_selector("#trouble:has-text('1 answer is kept here and sent again')")
    person.answer()  # the next question was here already
    page.wait_for_selector("#trouble:has-text('2 answers are kept here and sent again')")
    assert page.get_attribute("body", "data-unsent") == "2"
    for wait_ms in (0, 10):  # in the middle of the answer, wherever that is
        server.start()
        page.dispatch_event("#retry", "click")  # unless it has tried by itself just now
        page.wait_for_selector("body[data-unsent='0']", state="attached")
        person.wait("answerable")
        assert page.is_hidden("#trouble")
        person.press(by_number(person.shown()))
        page.wait_for_timeout(wait_ms)
        server.kill()
    server.start()
    person.work()
    with LabelStore.open(server.folder) as store:
        check_once(store, groups)
        assert store.totals().answers == len(groups)


def test_a_cookie_that_is_gone(visit: Any, context: Any, complaints: Complaints) -> None:
    _, person = visit(pairs(3))
    person.wait("answerable")
    complaints.allow("status 403", "console: .*403")
    context.clear_cookies()
    person.page.keyboard.press("s")
    person.wait("error")
    assert "not valid any more" in str(person.page.text_content("#message-title"))
    assert "kept in this tab" in str(person.page.text_content("#message-text"))
