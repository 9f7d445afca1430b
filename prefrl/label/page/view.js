// The question on view: its clips, its answers and its clock.

import { clipNames, describe, element, makePanel } from "./answers.js";
import { dialogOpen, say, setState, state, ui } from "./look.js";
import { Player } from "./player.js";
import { stageOf } from "./screens.js";

const SETTLE_MS = 250; // an answer sooner than this after a question appeared was meant for the one before
const MOST_EVENTS = 500;

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class View {
  /**
   * @param study as the server describes it
   * @param entry {showing, videos, broken}: broken says why its clips cannot be played
   * @param speed of playing
   * @param send called with the answer's value
   */
  constructor(study, entry, speed, send) {
    this.study = study;
    this.entry = entry;
    this.showing = entry.showing;
    this.panel = makePanel(study, entry.showing, send, say);
    this.player = null;
    this.events = [];
    this.since = performance.now();
    this.away = 0; // milliseconds behind dialogs
    this.seen = false; // every frame
    this.settled = false;
    this.going = false; // whether the clips play as soon as nothing is before them
    this.draw();
    this.timer = setTimeout(() => {
      this.settled = true;
      this.open();
    }, SETTLE_MS);
    if (entry.videos.length && !entry.broken) this.start(speed);
  }

  draw() {
    const { showing, videos, broken } = this.entry;
    ui.question.textContent = this.study.question;
    ui.practice.hidden = !showing.practice;
    ui.previous.hidden = showing.previous === null;
    if (showing.previous !== null) ui.previous.textContent = `Your answer was: ${describe(showing, showing.previous)}`;
    ui.answers.replaceChildren(...this.panel.parts);
    ui.transport.hidden = !videos.length || Boolean(broken);
    ui.stage.hidden = !videos.length && !broken;
    ui.stage.dataset.count = String(videos.length);
    const names = clipNames(showing.kind, videos.length);
    const apology = () => [element("p", { className: "broken", textContent: broken })];
    ui.stage.replaceChildren(...(broken ? apology() : stageOf(showing, videos, names)));
    const { dataset } = document.body;
    Object.assign(dataset, { showing: String(showing.id), practice: String(showing.practice), kind: showing.kind });
    setState("playing");
    this.panel.open("none");
    ui.question.focus({ preventScroll: true });
  }

  start(speed) {
    const player = new Player(this.entry.videos, this.showing.items, {
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
        this.seen = true;
        this.open();
      },
      event: (kind) => this.record(kind),
    });
    this.player = player;
    ui.seek.max = String(player.frames - 1);
    player.speed = speed;
    this.going = !still.matches;
    if (still.matches) say("Press space to play.");
    this.resume();
    if (!player.playing) {
      player.setPlaying(false);
      player.seek(0);
    }
  }

  /** Opens the answers once the question has been on view for a moment, and its clips have been seen. */
  open() {
    if (!this.settled || state() !== "playing") return;
    if (this.entry.broken) this.panel.open("skip");
    else if (!this.player || this.seen || this.study.watch === "any") this.panel.open("all");
    else return;
    document.body.dataset.state = "answerable";
  }

  record(kind) {
    if (this.events.length >= MOST_EVENTS) return;
    this.events.push({ kind, at_ms: Math.round(performance.now() - this.since) });
  }

  /** Stops the clips for something that comes before them. */
  halt() {
    if (!this.player) return;
    this.going ||= this.player.playing;
    this.player.pause();
  }

  /** Lets them go on, if they were playing and nothing is before them any more. */
  resume() {
    if (!this.going || dialogOpen() || document.hidden) return;
    this.going = false;
    this.player.play();
  }

  /** What is sent beside the value of an answer. */
  account() {
    const seconds = (performance.now() - this.since - this.away) / 1000;
    return {
      showing: this.showing.id,
      seconds: Math.round(Math.min(86400, Math.max(0, seconds)) * 1000) / 1000,
      plays: Math.max(this.player?.rounds ?? 0, this.seen ? 1 : 0),
      events: this.events,
    };
  }

  leave() {
    this.player?.stop();
    clearTimeout(this.timer);
  }
}
