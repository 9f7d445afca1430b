// What is read rather than answered: the introduction, the help, the screens of waiting and of the end.

import { element, keysOf } from "./answers.js";
import { loadClip, unloadClip } from "./player.js";

const PLAYING = [
  ["Space", "Play or pause"],
  [", .", "One frame back or on"],
  ["[ ]", "Slower, faster"],
  ["R", "From the start"],
];
const STUDY = [
  ["U", "Undo the last answer, and the one before it"],
  ["P", "Take a break"],
  ["?", "Help"],
];
const CASES = {
  pair: [
    ["One is better", "In one clip the goal is reached, in the other it is missed: press the arrow that points to the better one, ← or →."],
    ["Neither is better", "Both do as well, or as badly: press ↓. That is an answer. Where you cannot judge at all, press S instead."],
  ],
  ranking: [
    ["An order", "The third is the best of three: press 3, then ↑ until it stands first. Enter sends the order."],
    ["A shared place", "Two are equally good: choose the lower one and press =. Where you cannot judge at all, press S."],
  ],
  rating: [
    ["A good one", "As good as you can imagine it: the highest number."],
    ["In between", "Half way: a number in the middle. Where you cannot judge at all, press S."],
  ],
};

const paragraphs = (text) =>
  text
    .split(/\n\s*\n/)
    .filter((part) => part.trim())
    .map((part) => element("p", { textContent: part.trim() }));

function keyTable(rows) {
  const body = rows.map(([keys, what]) => {
    const caps = keys.split(" ").map((cap) => (/^(to|or)$/.test(cap) ? cap : element("kbd", { textContent: cap })));
    return element("div", {}, element("dt", {}, ...caps.flatMap((cap) => [cap, " "])), element("dd", { textContent: what }));
  });
  return element("dl", { className: "keys" }, ...body);
}

function examples(kind) {
  const cards = CASES[kind].map(([title, text], place) =>
    element(
      "article",
      { className: "example" },
      element("h3", { textContent: `Example ${place + 1}: ${title.toLowerCase()}` }),
      element("p", { textContent: text }),
    ),
  );
  return element("div", { className: "examples" }, ...cards);
}

/** Instructions, two examples and the keys. */
export function guide(study, clips) {
  const parts = paragraphs(study.instructions);
  if (clips && study.watch === "once") parts.push(element("p", { textContent: "Answers open when the clips have played to their ends." }));
  parts.push(examples(study.kind));
  parts.push(element("h3", { textContent: "Keys" }));
  parts.push(keyTable([...keysOf(study.kind, study.ratings), ...(clips ? PLAYING : []), ...STUDY]));
  return parts;
}

/** Clips of a showing: fetched and decoded. */
export async function loadStage(line, showing) {
  const clips = showing.items.filter((item) => item.clip);
  return Promise.all(clips.map(async (item) => loadClip(await line.blob(item.clip), item)));
}

export function unloadStage(videos) {
  for (const video of videos) unloadClip(video);
}

/** The figures of a showing: every clip with its name. */
export function stageOf(showing, videos, names) {
  return videos.map((video, place) => {
    const digest = showing.items[place].clip.split("/").pop();
    const name = names[place];
    video.setAttribute("aria-label", name ? `Clip: ${name}` : "Clip");
    const figure = element("figure", { className: "clip", data: { clip: digest } }, video);
    figure.style.setProperty("--ratio", String(video.width / video.height));
    if (name) figure.append(element("figcaption", { textContent: name }));
    return figure;
  });
}

/** The counts of a study, for the last screen. */
export function countsOf(progress) {
  const rows = [
    ["Answered", progress.answered],
    ["Can't tell", progress.skipped],
    ["Left", progress.left + progress.waiting],
  ];
  return rows.map(([name, count]) =>
    element("div", {}, element("dd", { textContent: String(count) }), element("dt", { textContent: name })),
  );
}
