// What a person answers with, for every kind of question: the buttons, the keys, and the words for what was chosen.

const PAIR = [
  { value: "left", words: "Left is better", key: "ArrowLeft", cap: "←" },
  { value: "tie", words: "Both are equal", key: "ArrowDown", cap: "↓" },
  { value: "right", words: "Right is better", key: "ArrowRight", cap: "→" },
];
const SKIP = { value: "skip", words: "Can't tell", key: "s", cap: "S" };

/** Makes an element; text is only ever text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(made.dataset, value);
    else if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const ordinal = (n) => ["1st", "2nd", "3rd"][n - 1] ?? `${n}th`;

/** Names of the clips as shown. */
export function clipNames(kind, count) {
  if (kind === "pair") return ["Left", "Right"];
  return count === 1 ? [""] : Array.from({ length: count }, (_, place) => `${place + 1}`);
}

/** Names of what a ranking orders, as shown. */
function itemNames(showing) {
  return showing.items.map((item, place) => item.factor ?? `Clip ${place + 1}`);
}

/** An answer in words. */
export function describe(showing, value) {
  if (value === "skip") return SKIP.words;
  if (showing.kind === "pair") return PAIR.find((choice) => choice.value === value)?.words ?? String(value);
  if (showing.kind === "rating") return `Rated ${value}`;
  const names = itemNames(showing);
  return value.map((group) => group.map((place) => names[place]).join(" = ")).join(", then ");
}

/** The keys of a kind, for the help: [keys, what they do]. */
export function keysOf(kind, ratings) {
  if (kind === "pair") return [...PAIR, SKIP].map((choice) => [choice.cap, choice.words]);
  if (kind === "rating") return [[`1 to ${ratings}`, "Your rating"], [SKIP.cap, SKIP.words]];
  return [
    ["1 to 9", "Take one up"],
    ["↑ ↓", "Move it to a better or a worse place"],
    ["=", "Same place as the one above"],
    ["Enter", "Done"],
    [SKIP.cap, SKIP.words],
  ];
}

/**
 * The panel of one question.
 *
 * @param study as the server describes it
 * @param showing the question
 * @param send called with the value that was chosen
 * @param say called with words for what happened
 * @returns {parts, key(name), open(allowed)}: elements; whether a key was of use; which values are let through,
 *   "all", "skip" or "none"
 */
export function makePanel(study, showing, send, say) {
  let allowed = "none";
  const buttons = [];
  const choose = (value) => {
    if (allowed === "all" || (allowed === "skip" && value === "skip")) send(value);
    else if (allowed === "skip") say("A clip cannot be played here: only \"Can't tell\" is possible.");
    else if (showing.items[0].clip) say(showing.items.length > 1 ? "Watch the clips to their ends first." : "Watch the clip to its end first.");
  };
  const button = (choice, name) => {
    const made = element(
      "button",
      { type: "button", className: name, data: { value: choice.value }, "aria-keyshortcuts": choice.key },
      element("kbd", { textContent: choice.cap }),
      element("span", { textContent: choice.words }),
    );
    made.addEventListener("click", (event) => {
      if (event.detail < 2) choose(choice.read ? choice.read() : choice.value); // not the second of a double click
    });
    buttons.push(made);
    return made;
  };
  const panel = { pair, rating, ranking }[showing.kind](study, showing, { button, choose, say });
  return {
    parts: panel.parts,
    key: (name) => {
      if (name === SKIP.key) choose(SKIP.value);
      else return panel.key(name);
      return true;
    },
    open: (what) => {
      allowed = what;
      for (const made of buttons) {
        const closed = what === "none" || (what === "skip" && made.dataset.value !== "skip");
        made.setAttribute("aria-disabled", String(closed));
      }
    },
  };
}

function pair(study, showing, { button, choose }) {
  const row = element("div", { className: "row three" }, ...PAIR.map((choice) => button(choice, `choice ${choice.value}`)));
  const key = (name) => {
    const choice = PAIR.find((one) => one.key === name);
    if (choice) choose(choice.value);
    return Boolean(choice);
  };
  return { parts: [row, button(SKIP, "skip")], key };
}

function rating(study, showing, { button, choose }) {
  const steps = Array.from({ length: study.ratings }, (_, place) => place + 1);
  const choices = steps.map((step) => {
    const made = button({ value: step, words: "", key: String(step % 10), cap: String(step) }, "choice step");
    made.setAttribute("aria-label", `${step} of ${study.ratings}`);
    return made;
  });
  const ends = element(
    "div",
    { className: "ends", "aria-hidden": "true" },
    element("span", { textContent: "worst" }),
    element("span", { textContent: "best" }),
  );
  const scale = element("div", { className: "scale" }, element("div", { className: "row" }, ...choices), ends);
  const key = (name) => {
    if (!/^[0-9]$/.test(name)) return false;
    const step = name === "0" ? 10 : Number(name); // steps above ten have their buttons only
    if (step <= study.ratings) choose(step);
    return true;
  };
  return { parts: [scale, button(SKIP, "skip")], key };
}

function ranking(study, showing, { button, choose, say }) {
  const list = new Ranking(itemNames(showing), say);
  const done = button({ value: "done", words: "This is my order", key: "Enter", cap: "⏎", read: () => list.value }, "choice");
  const key = (name) => {
    if (name === "Enter") choose(list.value);
    else return list.key(name);
    return true;
  };
  return { parts: [list.element, element("div", { className: "row one" }, done), button(SKIP, "skip")], key };
}

/** A list that is put in order, with ties: groups of places, best first. */
export class Ranking {
  constructor(names, say) {
    this.names = names;
    this.say = say;
    this.groups = names.map((_, place) => [place]);
    this.chosen = 0;
    this.rows = names.map((name, place) => this.row(name, place));
    this.list = element("ol", { className: "ranking", "aria-label": "Order, best first" });
    this.element = element(
      "div",
      { className: "order" },
      element("p", { className: "end", textContent: "Best" }),
      this.list,
      element("p", { className: "end", textContent: "Worst" }),
    );
    this.draw();
  }

  get value() {
    return this.groups.map((group) => [...group].sort((a, b) => a - b));
  }

  row(name, place) {
    const act = (label, text, work) => {
      const made = element("button", { type: "button", className: "icon", textContent: text, "aria-label": `${name}: ${label}` });
      made.addEventListener("click", () => {
        this.chosen = place;
        work();
        made.focus({ preventScroll: true }); // moving the row in the page takes the focus away
      });
      return made;
    };
    const [rank, number] = [element("span", { className: "rank" }), element("kbd", { textContent: String(place + 1) })];
    const tie = act("same place as the one above", "=", () => this.tie());
    const row = element(
      "li",
      { data: { item: String(place) } },
      rank,
      element("span", { className: "name", textContent: name }),
      number,
      act("better", "↑", () => this.move(-1)),
      act("worse", "↓", () => this.move(1)),
      tie,
    );
    row.addEventListener("click", () => {
      this.chosen = place;
      this.draw();
    });
    return { row, rank, tie };
  }

  key(name) {
    const place = Number(name) - 1;
    if (/^[1-9]$/.test(name) && place < this.names.length) {
      this.chosen = place;
      this.tell();
    } else if (name === "ArrowUp") this.move(-1);
    else if (name === "ArrowDown") this.move(1);
    else if (name === "=") this.tie();
    else return false;
    return true;
  }

  find() {
    return this.groups.findIndex((group) => group.includes(this.chosen));
  }

  /** Moves the chosen one past its neighbours: out of its group, or over the whole next group. */
  move(by) {
    const at = this.find();
    const group = this.groups[at];
    const shared = group.length > 1;
    if (shared || (by < 0 ? at > 0 : at < this.groups.length - 1)) {
      const rest = group.filter((place) => place !== this.chosen);
      this.groups.splice(at, 1, ...(shared ? [rest] : []));
      const before = shared ? at + (by > 0 ? 1 : 0) : at + by;
      this.groups.splice(before, 0, [this.chosen]);
    }
    this.tell();
  }

  /** Joins the chosen one to the group above, or takes it out again. */
  tie() {
    const at = this.find();
    if (this.groups[at].length > 1) {
      this.move(1);
      return;
    }
    if (at > 0) {
      this.groups.splice(at, 1);
      this.groups[at - 1].push(this.chosen);
    }
    this.tell();
  }

  tell() {
    this.draw();
    const at = this.find();
    const rank = this.groups.slice(0, at).reduce((sum, group) => sum + group.length, 1);
    const others = this.groups[at].filter((place) => place !== this.chosen).map((place) => this.names[place]);
    this.say(`${this.names[this.chosen]}: ${ordinal(rank)}${others.length ? `, the same as ${others.join(", ")}` : ""}.`);
  }

  draw() {
    let rank = 1;
    let shown = 0;
    for (const group of this.groups) {
      group.forEach((place, within) => {
        const { row, rank: label, tie } = this.rows[place];
        label.textContent = `${ordinal(rank)}${group.length > 1 ? " =" : ""}`;
        row.classList.toggle("tied", within > 0);
        row.classList.toggle("chosen", place === this.chosen);
        if (place === this.chosen) row.setAttribute("aria-current", "true");
        else row.removeAttribute("aria-current");
        tie.setAttribute("aria-pressed", String(group.length > 1));
        if (this.list.children[shown] !== row) this.list.insertBefore(row, this.list.children[shown] ?? null);
        shown += 1;
      });
      rank += group.length;
    }
  }
}
