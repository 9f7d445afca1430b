// What the page shows around a question: its state, where in the study one is, messages and troubles.

import { countsOf } from "./screens.js";

/** Everything in the page that has a name. */
export const ui = Object.fromEntries([...document.querySelectorAll("[id]")].map((part) => [part.id, part]));

const PARTS = { intro: "intro", waiting: "message", finished: "message", error: "message", loading: "", sending: "" };

export const state = () => document.body.dataset.state;

export function setState(name) {
  document.body.dataset.state = name;
  const shown = PARTS[name] ?? "task";
  for (const part of ["intro", "task", "message"]) ui[part].hidden = part !== shown;
  ui.undo.disabled = ["intro", "error"].includes(name);
  ui.break.disabled = ui.undo.disabled;
}

/** Says what happened, to eyes and ears. */
export function say(text) {
  ui.said.textContent = text;
}

export function showTrouble(trouble, unsent) {
  document.body.dataset.trouble = trouble ? "yes" : "no";
  ui.trouble.hidden = !trouble;
  if (!trouble) return;
  const kept = unsent ? ` ${unsent} ${unsent === 1 ? "answer is" : "answers are"} kept here and sent again.` : "";
  ui["trouble-text"].textContent =
    `The server does not answer.${kept} Try ${trouble.tries + 1} in ${trouble.seconds.toFixed(1)} s.`;
}

const done = (progress) => progress.answered + progress.skipped;

/** Where the person is: "Question 5 of 20". */
export function place(progress) {
  return `Question ${Math.min(done(progress) + 1, Math.max(1, progress.total))} of ${progress.total}`;
}

/** @param showing the question on view, or null */
export function showProgress(progress, showing) {
  ui.progress.max = Math.max(1, progress.total);
  ui.progress.value = done(progress);
  const without = `${done(progress)} of ${progress.total} done`;
  ui.place.textContent = !showing ? without : showing.practice ? "Practice" : place(progress);
  ui["break-text"].textContent = `${without}. Your answers are stored; take your time.`;
}

export function showMessage(name, title, text, progress) {
  setState(name);
  ui["message-title"].textContent = title;
  ui["message-text"].textContent = text;
  ui.counts.hidden = name === "error" || progress.total === 0;
  ui.counts.replaceChildren(...countsOf(progress));
  ui["message-title"].focus({ preventScroll: true });
}

export const dialogOpen = () => ui["help-dialog"].open || ui["break-dialog"].open;
