// The page: asks for questions ahead, shows them, takes answers by keys and clicks, and sees that each arrives once.

import { describe } from "./answers.js";
import { dialogOpen, place, say, setState, showMessage, showProgress, showTrouble, state, ui } from "./look.js";
import { SPEEDS } from "./player.js";
import { guide, loadStage, unloadStage } from "./screens.js";
import { View } from "./view.js";
import { Line, Memory, Outbox, Refused } from "./wire.js";

const AHEAD = 2; // questions that a tab holds, but for those that undo brought back: the one on view and the next
const MOST_HELD = 100; // questions that the server keeps from others for one tab
const POLL_MS = { waiting: [1000, 4000], finished: [1500, 10000] };
const ENDS = {
  waiting: ["The next question is on its way", "It appears here by itself."],
  finished: [
    "Thank you!",
    "All questions are answered. You may close this page, or leave it open: new questions appear here.",
  ],
};

const line = new Line((trouble) => showTrouble(trouble, outbox?.letters.length ?? 0));

let study = null;
let memory = null;
let outbox = null;
let progress = { answered: 0, skipped: 0, left: 0, waiting: 0, total: 0 };
let queue = []; // [{showing, videos, loaded, broken}]: the first is on view, or about to be; few have their clips
let view = null; // the first of them, once its clips are here
let turn = 0; // grows with everything that is put on view
let end = "loading"; // what the server said last: ready, waiting or finished
let dead = false; // something went wrong that only a reload mends
let filling = null;
let holding = null;
const poll = { timer: 0, wait: 0 };

function fail(error) {
  if (dead) return;
  dead = true;
  leave();
  const kept = outbox?.letters.length ? " What was not sent yet is kept in this tab." : "";
  if (error instanceof Refused && error.status === 403) {
    showMessage("error", "This link is not valid any more", `Ask for a new one and open it in this tab.${kept}`, progress);
  } else {
    showMessage("error", "Something went wrong", `${error.message}${kept} Load the page again to go on.`, progress);
  }
}

// Showing ------------------------------------------------------------------------------------------------

function leave() {
  turn += 1;
  view?.leave();
  view = null;
  delete document.body.dataset.showing;
}

function count(found) {
  progress = found ?? progress;
  showProgress(progress, queue[0]?.showing ?? null);
}

/** Puts the first question on view, or says that there is none. */
async function show() {
  if (dead) return;
  leave();
  count();
  const mine = turn;
  const entry = queue[0];
  if (!entry) {
    rest();
    return;
  }
  queue.slice(0, AHEAD).forEach(load);
  if (!entry.videos) setState("loading");
  await entry.loaded;
  if (mine !== turn) return;
  view = new View(study, entry, memory.data.speed, answer);
  showSpeed();
  painted();
}

function rest() {
  if (end in ENDS) {
    showMessage(end, ...ENDS[end], progress);
    schedulePoll();
  } else setState("loading");
}

/** Measures from the key of an answer until the next question is on the screen. */
function painted() {
  if (!performance.getEntriesByName("answered").length) return;
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      if (performance.getEntriesByName("answered").length) performance.measure("next question", "answered");
      performance.clearMarks("answered");
    }),
  );
}

// Questions from the server ------------------------------------------------------------------------------

function prepare(showing) {
  return { showing, videos: null, loaded: null, broken: "" };
}

/** Fetches the clips of a question, unless that was begun already. */
function load(entry) {
  if (entry.loaded) return;
  const found = (videos, broken = "") => {
    if (entry.loaded === loaded) Object.assign(entry, { videos, broken });
    return videos;
  };
  const loaded = loadStage(line, entry.showing).then(found, (error) => {
    if (error instanceof Refused && error.status === 403) fail(error);
    return found([], error.message);
  });
  entry.loaded = loaded;
}

/** Lets go of the clips of a question, which can be fetched again. */
function forget(entry) {
  entry.loaded?.then(unloadStage);
  Object.assign(entry, { videos: null, loaded: null, broken: "" });
}

/** The numbers of the questions here, as many as the server takes: those that come first. */
const heldHere = () => queue.slice(0, MOST_HELD).map((entry) => entry.showing.id);

/** Asks for questions until enough are held, or there are no more. */
function fill() {
  filling ??= ask()
    .catch(fail)
    .finally(() => {
      filling = null;
    });
  return filling;
}

async function ask() {
  while (queue.length < AHEAD && !dead) {
    await outbox.deliver(); // what is answered here must not be asked again
    const held = heldHere();
    const reply = await line.post("/api/next", { held, tab: memory.data.tab });
    end = reply.state;
    const fresh = reply.showing && !queue.some((entry) => entry.showing.id === reply.showing.id);
    if (fresh) queue.push(prepare(reply.showing));
    queue.slice(0, AHEAD).forEach(load);
    count(reply.progress);
    if (!view && state() !== "intro" && (queue.length || state() !== end)) show();
    if (!fresh && queue.length === held.length) break; // nothing more, and nothing was answered meanwhile
  }
  if (queue.length) poll.wait = 0;
  else schedulePoll();
}

/** Keeps the questions here from others, as long as somebody is before them. */
function hold() {
  if (!queue.length || dead || holding || document.hidden || dialogOpen()) return;
  holding = line
    .post("/api/hold", { held: heldHere() })
    .catch(fail)
    .finally(() => {
      holding = null;
    });
}

function schedulePoll() {
  const [first, longest] = POLL_MS[end] ?? POLL_MS.waiting;
  clearTimeout(poll.timer);
  poll.wait = Math.min(longest, Math.max(first, poll.wait * 1.5));
  poll.timer = setTimeout(() => {
    // Nobody looks at a hidden page: a question shown there would be kept from others.
    if (!queue.length && !document.hidden) fill();
    else if (!queue.length) schedulePoll();
  }, poll.wait);
}

// Answers ------------------------------------------------------------------------------------------------

function answer(value) {
  if (!view) return;
  if (outbox.has("/api/undo")) {
    say("An undo is on its way to the server.");
    return;
  }
  const { showing, entry } = view;
  performance.clearMarks("answered");
  performance.mark("answered");
  const note = { words: describe(showing, value), practice: showing.practice };
  const body = { ...view.account(), value };
  queue.shift();
  leave();
  outbox.push("/api/answer", body, note).catch(fail);
  if (queue.length) show();
  else {
    count();
    setState("sending");
  }
  forget(entry);
  fill();
}

function arrived(letter, reply) {
  count(reply.progress);
  if (letter.path === "/api/undo") {
    undone(reply.showing);
    return;
  }
  const { words, practice } = letter.note;
  const then = queue.length && !queue[0].showing.practice ? ` ${place(progress)}.` : "";
  if (!reply.stored) say(`This question had an answer already, which stays.${then}`);
  else if (reply.expected === false) say(`Practice: another answer was meant, not "${words}". U shows it again.${then}`);
  else if (practice) say(`${words}${reply.expected ? ": right" : ""}. Practice, not counted.${then}`);
  else say(`${words}, stored.${then}`);
}

function undone(showing) {
  if (!showing) {
    say("There is nothing to undo.");
    return;
  }
  const twin = queue.findIndex((entry) => entry.showing.id === showing.id);
  if (twin >= 0) forget(queue.splice(twin, 1)[0]);
  queue.unshift(prepare(showing));
  queue.slice(AHEAD).forEach(forget);
  say(`Undone. Your answer was: ${describe(showing, showing.previous)}.`);
  if (memory.data.begun) show();
}

function undo() {
  if (study && !ui.undo.disabled) outbox.push("/api/undo", { tab: memory.data.tab }).catch(fail);
}

function refused(letter, error) {
  say(`${letter.path === "/api/undo" ? "The undo" : letter.note.words} was refused: ${error.message}`);
}

// Keys and buttons ---------------------------------------------------------------------------------------

function shiftSpeed(by) {
  const at = SPEEDS.indexOf(memory.data.speed) + by;
  memory.data.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at))];
  memory.save();
  view?.record("speed");
  view?.player?.setSpeed(memory.data.speed);
  showSpeed();
}

function showSpeed() {
  ui.speed.textContent = `${memory.data.speed}×`;
}

const KEYS = {
  " ": () => view?.player?.toggle(),
  ",": () => view?.player?.step(-1),
  ".": () => view?.player?.step(1),
  "[": () => shiftSpeed(-1),
  "]": () => shiftSpeed(1),
  r: () => view?.player?.restart(),
  u: undo,
  p: () => openDialog("break"),
  "?": () => openDialog("help"),
};

function onKey(event) {
  if (event.defaultPrevented || event.isComposing || !study || dialogOpen()) return;
  const bracket = "[]".includes(event.key) && event.getModifierState("AltGraph"); // where they lie behind AltGr
  if (!bracket && (event.ctrlKey || event.altKey || event.metaKey)) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && !["?", "=", "[", "]"].includes(name)) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  if ([" ", "Enter"].includes(name) && event.target.closest("button, a")) return; // they press the button
  const used = event.repeat ? name in KEYS || name.startsWith("Arrow") : press(name);
  if (used) event.preventDefault();
}

function press(name) {
  if (!(name in KEYS)) return Boolean(view?.panel.key(name));
  KEYS[name]();
  return true;
}

/** Opens a dialog; meanwhile the clips stand, and the clock of the question too. */
function openDialog(name) {
  if (!study || (name === "break" && ui.break.disabled)) return;
  const dialog = ui[`${name}-dialog`];
  const opened = performance.now();
  view?.halt();
  if (name === "help") ui["help-body"].replaceChildren(...guide(study, !queue[0]?.showing.items[0].factor));
  const close = () => {
    if (!view) return;
    view.away += performance.now() - Math.max(opened, view.since);
    view.resume();
    focusQuestion();
  };
  dialog.addEventListener("close", close, { once: true });
  dialog.showModal();
}

function focusQuestion() {
  ui.question.focus({ preventScroll: true });
}

function listen() {
  addEventListener("keydown", onKey);
  const clicks = {
    undo,
    break: KEYS.p,
    help: KEYS["?"],
    retry: () => line.hurry(),
    stage: KEYS[" "],
    restart: KEYS.r,
    back: KEYS[","],
    play: KEYS[" "],
    forward: KEYS["."],
    slower: KEYS["["],
    faster: KEYS["]"],
    "help-close": () => ui["help-dialog"].close(),
    "break-close": () => ui["break-dialog"].close(),
  };
  for (const [id, work] of Object.entries(clicks)) ui[id].addEventListener("click", () => work());
  // A button that was clicked gives the focus back: space must pause the clips, not press it again.
  addEventListener("click", (event) => {
    if (event.detail > 0 && view && !dialogOpen() && event.target.closest("button")) focusQuestion();
  });
  ui.seek.addEventListener("input", () => view?.player?.jump(Number(ui.seek.value)));
  ui.seek.addEventListener("pointerup", () => setTimeout(() => view && focusQuestion()));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      view?.record("blur");
      view?.halt();
    } else {
      view?.resume();
      if (outbox && !queue.length) fill();
    }
  });
}

// The beginning ------------------------------------------------------------------------------------------

function introduce() {
  ui["intro-title"].textContent = study.question;
  ui["intro-body"].replaceChildren(...guide(study, true));
  setState("intro");
  const begin = () => {
    memory.data.begun = true;
    memory.save();
    show();
  };
  ui.start.addEventListener("click", begin, { once: true });
  ui.start.focus({ preventScroll: true });
}

async function main() {
  listen();
  const found = await line.get("/api/study");
  document.title = found.question;
  memory = new Memory(`${found.study} ${found.name}`);
  await memory.claim();
  const changed = (unsent) => {
    document.body.dataset.unsent = String(unsent);
  };
  outbox = new Outbox(line, memory, { changed, arrived, refused });
  study = found;
  setInterval(hold, (1000 * study.lease_seconds) / 3);
  count({ ...progress, total: study.total });
  if (!memory.data.begun) introduce();
  await fill();
}

addEventListener("unhandledrejection", (event) => fail(event.reason));
main().catch(fail);
