// The page: asks for questions ahead, shows them, takes answers by keys and clicks, and sees that each arrives once.

import { clipNames, describe, element, makePanel } from "./answers.js";
import { Player, SPEEDS } from "./player.js";
import { countsOf, guide, loadStage, stageOf, unloadStage } from "./screens.js";
import { Line, Memory, Outbox, Refused } from "./wire.js";

const AHEAD = 2; // questions that a tab holds: the one on view and the next
const SETTLE_MS = 250; // an answer sooner than this after a question appeared was meant for the one before
const MOST_EVENTS = 500;
const PARTS = { intro: "intro", waiting: "message", finished: "message", error: "message", loading: "", sending: "" };
const POLL_MS = { waiting: [1000, 4000], finished: [3000, 15000] };

const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((part) => [part.id, part]));
const still = matchMedia("(prefers-reduced-motion: reduce)");

let study = null;
let memory = null;
let outbox = null;
let progress = { answered: 0, skipped: 0, left: 0, waiting: 0, total: 0 };
let queue = []; // [{showing, videos, loaded, broken}]: the first is on view
let view = null; // what belongs to the question on view: its player, panel and clock
let turn = 0; // grows with everything that is put on view
let end = "loading"; // what the server said last: ready, waiting or finished
let dead = false; // something went wrong that only a reload mends
let filling = null;
let poll = { timer: 0, wait: 0 };

const line = new Line(showTrouble);

// What the person sees and hears -------------------------------------------------------------------------

function setState(name) {
  document.body.dataset.state = name;
  for (const part of ["intro", "task", "message"]) ui[part].hidden = true;
  const shown = PARTS[name] ?? "task";
  if (ui[shown]) ui[shown].hidden = false;
  ui.undo.disabled = ["loading", "intro", "error"].includes(name);
  ui.break.disabled = ui.undo.disabled;
}

function say(text) {
  ui.said.textContent = text;
}

function showTrouble(trouble) {
  document.body.dataset.trouble = trouble ? "yes" : "no";
  ui.trouble.hidden = !trouble;
  if (!trouble) return;
  const unsent = outbox?.letters.length ?? 0;
  const kept = unsent ? ` ${unsent} ${unsent === 1 ? "answer is" : "answers are"} kept here and sent again.` : "";
  ui["trouble-text"].textContent =
    `The server does not answer.${kept} Try ${trouble.tries + 1} in ${trouble.seconds.toFixed(1)} s.`;
}

function showProgress(found) {
  if (found) progress = found;
  const done = progress.answered + progress.skipped;
  ui.progress.max = Math.max(1, progress.total);
  ui.progress.value = done;
  const practice = queue[0]?.showing.practice;
  ui.place.textContent = practice ? "Practice" : place();
  if (queue.length === 0) ui.place.textContent = `${done} of ${progress.total} done`;
}

function place() {
  return `Question ${Math.min(progress.answered + progress.skipped + 1, Math.max(1, progress.total))} of ${progress.total}`;
}

function showMessage(state, title, text) {
  turn += 1;
  leaveView();
  setState(state);
  ui["message-title"].textContent = title;
  ui["message-text"].textContent = text;
  ui.counts.hidden = state === "error" || progress.total === 0;
  ui.counts.replaceChildren(...countsOf(progress));
  ui["message-title"].focus({ preventScroll: true });
}

function fail(error) {
  dead = true;
  const refused = error instanceof Refused;
  const locked = refused && error.status === 403;
  const kept = outbox?.letters.length ? " An answer that was not sent is kept in this tab." : "";
  showMessage(
    "error",
    locked ? "This link is not valid any more" : "Something went wrong",
    locked ? `Ask for a new one and open it in this tab.${kept}` : `${error.message}${kept} Load the page again to go on.`,
  );
}

// The question on view -----------------------------------------------------------------------------------

function leaveView() {
  view?.player?.stop();
  if (view) clearTimeout(view.timer);
  view = null;
}

function record(kind) {
  if (view && view.events.length < MOST_EVENTS) {
    view.events.push({ kind, at_ms: Math.round(performance.now() - view.since) });
  }
}

async function show() {
  if (dead) return;
  const mine = ++turn;
  leaveView();
  const entry = queue[0];
  showProgress();
  if (!entry) {
    rest();
    return;
  }
  if (!entry.videos) setState("loading");
  await entry.loaded;
  if (mine === turn) draw(entry);
}

function draw(entry) {
  const { showing } = entry;
  const panel = makePanel(study, showing, answer, say);
  const since = performance.now();
  view = { entry, panel, player: null, events: [], since, away: 0, timer: 0, seen: false, settled: false, going: false };
  const clips = entry.videos.length > 0 && !entry.broken;
  ui.question.textContent = study.question;
  ui.practice.hidden = !showing.practice;
  const before = showing.previous;
  ui.previous.hidden = before === null || before === undefined;
  if (!ui.previous.hidden) ui.previous.textContent = `Your answer was: ${describe(showing, before)}.`;
  ui.answers.replaceChildren(...panel.parts);
  ui.transport.hidden = !clips;
  ui.stage.hidden = !clips && !entry.broken;
  ui.stage.dataset.count = String(entry.videos.length);
  if (entry.broken) ui.stage.replaceChildren(element("p", { className: "broken", textContent: entry.broken }));
  else ui.stage.replaceChildren(...stageOf(showing, entry.videos, clipNames(showing.kind, entry.videos.length)));
  document.body.dataset.showing = String(showing.id);
  document.body.dataset.practice = String(showing.practice);
  document.body.dataset.kind = showing.kind;
  setState("playing");
  panel.open("none");
  ui.question.focus({ preventScroll: true });
  view.timer = setTimeout(() => {
    view.settled = true;
    openAnswers();
  }, SETTLE_MS);
  if (clips) startPlayer(entry);
  painted();
}

function startPlayer(entry) {
  const player = new Player(entry.videos, entry.showing.items, {
    tick: (frame) => {
      ui.seek.value = String(frame);
      ui.frame.textContent = `${frame + 1} / ${player.frames}`;
      ui.seek.setAttribute("aria-valuetext", `Frame ${frame + 1} of ${player.frames}`);
    },
    state: (playing) => {
      ui.play.setAttribute("aria-label", playing ? "Pause" : "Play");
      ui.transport.dataset.playing = String(playing);
    },
    seen: () => {
      if (view?.player !== player) return;
      view.seen = true;
      openAnswers();
    },
    event: record,
  });
  view.player = player;
  ui.seek.max = String(player.frames - 1);
  player.speed = memory.data.speed;
  showSpeed();
  view.going = !still.matches;
  if (still.matches) say("Press space to play.");
  resume();
  if (!player.playing) {
    player.setPlaying(false);
    player.seek(0);
  }
}

/** Stops the clips for something that comes between. */
function halt() {
  if (!view?.player) return;
  view.going ||= view.player.playing;
  view.player.pause();
}

/** Lets them go on, if they were playing and nothing is between any more. */
function resume() {
  if (!view?.going || dialogOpen() || document.hidden) return;
  view.going = false;
  view.player.play();
}

/** Opens the answers once the question has been on view for a moment, and its clips have been seen. */
function openAnswers() {
  if (!view?.settled || document.body.dataset.state === "answerable") return;
  if (view.entry.broken) view.panel.open("skip");
  else if (!view.player || view.seen || study.watch === "any") view.panel.open("all");
  else return;
  document.body.dataset.state = "answerable";
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

function rest() {
  if (end === "loading") setState("loading");
  else if (end === "finished") {
    showMessage("finished", "Thank you!", "All questions are answered. You may close this page, or leave it open: new questions appear here.");
  } else {
    showMessage("waiting", "The next question is on its way", "It appears here by itself.");
  }
  schedulePoll();
}

// Questions from the server ------------------------------------------------------------------------------

function prepare(showing) {
  const entry = { showing, videos: null, broken: "" };
  const clips = showing.items.filter((item) => item.clip);
  entry.loaded = loadStage(line, { items: clips }).then(
    (videos) => {
      entry.videos = videos;
    },
    (error) => {
      if (error instanceof Refused && error.status === 403) fail(error);
      entry.videos = [];
      entry.broken = error.message;
    },
  );
  return entry;
}

function forget(entry) {
  entry.loaded.then(() => unloadStage(entry.videos));
}

function saveQueue() {
  memory.data.queue = queue.map((entry) => entry.showing);
  memory.save();
}

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
    const held = queue.map((entry) => entry.showing.id);
    const { showing, state, progress: found } = await line.post("/api/next", { held });
    end = state;
    const fresh = showing && !queue.some((entry) => entry.showing.id === showing.id);
    if (fresh) {
      queue.push(prepare(showing));
      saveQueue();
    }
    showProgress(found);
    const now = document.body.dataset.state;
    if (!view && now !== "intro" && (queue.length || now !== end)) show();
    if (!fresh && queue.length === held.length) break; // nothing more, and nothing was answered meanwhile
  }
  if (queue.length) poll.wait = 0;
  else schedulePoll();
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
  const { entry, player, since, away, events } = view;
  const seconds = Math.min(86400, Math.max(0, (performance.now() - since - away) / 1000));
  const plays = Math.max(player?.rounds ?? 0, view.seen ? 1 : 0);
  performance.clearMarks("answered");
  performance.mark("answered");
  const body = { showing: entry.showing.id, value, seconds: Math.round(seconds * 1000) / 1000, plays, events };
  queue.shift();
  memory.data.queue = queue.map((one) => one.showing);
  const sent = outbox.push("/api/answer", body, { words: describe(entry.showing, value), practice: entry.showing.practice });
  sent.catch(fail);
  if (queue.length) show();
  else {
    leaveView();
    showProgress();
    setState("sending");
  }
  forget(entry);
  fill();
}

function arrived(letter, reply) {
  showProgress(reply.progress);
  if (letter.path === "/api/undo") {
    undone(reply.showing);
    return;
  }
  const { words, practice } = letter.note;
  const late = reply.late ? ", late: somebody else may have been asked meanwhile" : "";
  const then = queue.length && !queue[0].showing.practice ? ` ${place()}.` : "";
  say(practice ? `${words}. Practice, not counted.${then}` : `${words}, stored${late}.${then}`);
}

function undone(showing) {
  if (!showing) {
    say("There is nothing to undo.");
    return;
  }
  const twin = queue.findIndex((entry) => entry.showing.id === showing.id);
  if (twin >= 0) forget(queue.splice(twin, 1)[0]);
  queue.unshift(prepare(showing));
  saveQueue();
  say(`Undone. Your answer was: ${describe(showing, showing.previous)}.`);
  show();
}

function undo() {
  if (ui.undo.disabled) return;
  outbox.push("/api/undo", {}).catch(fail);
}

function refused(letter, error) {
  say(`${letter.path === "/api/undo" ? "The undo" : letter.note.words} was refused: ${error.message}`);
}

// Keys and buttons ---------------------------------------------------------------------------------------

const shiftSpeed = (by) => {
  const at = SPEEDS.indexOf(memory.data.speed);
  memory.data.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))];
  memory.save();
  record("speed");
  view?.player?.setSpeed(memory.data.speed);
  showSpeed();
};

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
  p: () => !ui.break.disabled && openDialog("break"),
  "?": () => openDialog("help"),
};

function onKey(event) {
  if (event.defaultPrevented || event.isComposing || dialogOpen()) return;
  const bracket = "[]".includes(event.key) && event.getModifierState("AltGraph"); // where they lie behind AltGr
  if (!bracket && (event.ctrlKey || event.altKey || event.metaKey)) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.shiftKey && !["?", "=", "[", "]"].includes(name)) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  if ([" ", "Enter"].includes(name) && event.target.closest("button, a, summary")) return; // they press the button
  const used = event.repeat ? Boolean(KEYS[name]) || name.startsWith("Arrow") : press(name);
  if (used) event.preventDefault();
}

function press(name) {
  if (KEYS[name]) {
    KEYS[name]();
    return true;
  }
  return Boolean(view?.panel.key(name));
}

const dialogOpen = () => ui["help-dialog"].open || ui["break-dialog"].open;

/** Opens a dialog; meanwhile the clips stand, and the clock of the question too. */
function openDialog(name) {
  const dialog = ui[`${name}-dialog`];
  const opened = performance.now();
  halt();
  if (name === "help") ui["help-body"].replaceChildren(...guide(study, Boolean(view?.player)));
  else {
    const done = progress.answered + progress.skipped;
    ui["break-text"].textContent = `${done} of ${progress.total} done. Your answers are stored; take your time.`;
  }
  const close = () => {
    if (!view) return;
    view.away += performance.now() - Math.max(opened, view.since);
    resume();
    ui.question.focus({ preventScroll: true });
  };
  dialog.addEventListener("close", close, { once: true });
  dialog.showModal();
}

function listen() {
  addEventListener("keydown", onKey);
  const clicks = {
    undo: undo,
    break: () => openDialog("break"),
    help: () => openDialog("help"),
    retry: () => line.hurry(),
    restart: KEYS.r,
    back: KEYS[","],
    play: KEYS[" "],
    forward: KEYS["."],
    slower: KEYS["["],
    faster: KEYS["]"],
    "help-close": () => ui["help-dialog"].close(),
    "break-close": () => ui["break-dialog"].close(),
  };
  for (const [id, work] of Object.entries(clicks)) ui[id].addEventListener("click", work);
  // A button that was clicked gives the focus back: space must pause the clips, not press it again.
  addEventListener("click", (event) => {
    const clicked = event.detail > 0 && event.target.closest("button");
    if (clicked && !dialogOpen() && view) ui.question.focus({ preventScroll: true });
  });
  ui.stage.addEventListener("click", KEYS[" "]);
  ui.seek.addEventListener("input", () => view?.player?.jump(Number(ui.seek.value)));
  ui.seek.addEventListener("pointerup", () => setTimeout(() => view && ui.question.focus({ preventScroll: true })));
  document.addEventListener("visibilitychange", onVisibility);
}

function onVisibility() {
  if (document.hidden) {
    record("blur");
    halt();
    return;
  }
  resume();
  if (outbox && !queue.length) fill();
}

// The beginning ------------------------------------------------------------------------------------------

function begin() {
  memory.data.begun = true;
  memory.save();
  show();
}

function introduce() {
  setState("intro");
  ui["intro-title"].textContent = study.question;
  ui["intro-body"].replaceChildren(...guide(study, true));
  ui.start.addEventListener("click", begin, { once: true });
  ui.start.focus({ preventScroll: true });
}

async function main() {
  listen();
  study = await line.get("/api/study");
  document.title = study.question;
  memory = new Memory(`${study.study ?? ""}/${study.name}/${study.question}`);
  await memory.claim();
  outbox = new Outbox(line, memory, {
    changed: (count) => {
      document.body.dataset.unsent = String(count);
    },
    arrived,
    refused,
  });
  queue = memory.data.queue.map(prepare);
  showProgress({ ...progress, total: study.total });
  if (memory.data.begun) show();
  else introduce();
  await outbox.deliver();
  await fill();
}

addEventListener("unhandledrejection", (event) => fail(event.reason));
main().catch(fail);
