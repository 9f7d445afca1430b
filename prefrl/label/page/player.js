// Plays several clips as one: they start together, stay together, wait on their last frames and start again.

export const SPEEDS = [0.5, 0.75, 1, 1.5, 2, 3, 4];
const HOLD_MS = 300; // how long the last frames stay before the next round
const AHEAD = 0.012; // seconds in front of the slowest clip from which a clip slows down
const FAR_AHEAD = 0.035; // and from which it stands still

const next = (target, name) => new Promise((done) => target.addEventListener(name, done, { once: true }));

/** Makes a muted video of bytes that are here already; resolves when its first frame is decoded. */
export async function loadClip(blob, item) {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.disablePictureInPicture = true;
  video.disableRemotePlayback = true;
  video.preload = "auto";
  video.width = item.width;
  video.height = item.height;
  video.src = URL.createObjectURL(blob);
  await new Promise((done, fail) => {
    video.addEventListener("loadeddata", done, { once: true });
    video.addEventListener("error", () => fail(new Error(`This browser cannot play ${item.mime}.`)), { once: true });
  });
  return video;
}

/** Lets go of what a video holds. */
export function unloadClip(video) {
  const source = video.src;
  video.pause();
  video.removeAttribute("src");
  video.load();
  URL.revokeObjectURL(source);
}

export class Player {
  /**
   * @param videos loaded videos
   * @param items what the server says of each: frames and fps
   * @param hooks tick(frame), state(playing), seen() once when every frame was on view, event(kind)
   */
  constructor(videos, items, hooks = {}) {
    this.videos = videos;
    this.fps = items[0].fps;
    this.counts = items.map((item) => item.frames);
    this.frames = Math.max(...this.counts);
    this.hooks = { tick() {}, state() {}, seen() {}, event() {}, ...hooks };
    this.speed = 1;
    this.playing = false;
    this.rounds = 0; // times that all clips were played to their ends
    this.turn = 0; // a seek or a play that is no longer wanted sees that this has moved on
    this.at = 0; // the frame on view
    this.unseen = new Set(Array.from({ length: this.frames }, (_, frame) => frame));
    this.look = this.look.bind(this);
  }

  /** Time of a frame in one clip: its middle, so that no rounding shows the one before; the start is exact. */
  time(clip, frame) {
    const last = this.counts[clip] - 1;
    return frame <= 0 ? 0 : (Math.min(frame, last) + 0.5) / this.fps;
  }

  /** Puts all clips on a frame; resolves to false where something else was asked for meanwhile. */
  async seek(frame) {
    const turn = ++this.turn;
    this.at = Math.max(0, Math.min(this.frames - 1, frame));
    await Promise.all(
      this.videos.map((video, clip) => {
        video.pause();
        const time = this.time(clip, this.at);
        if (!video.seeking && Math.abs(video.currentTime - time) < 1e-4) return null;
        const arrived = next(video, "seeked");
        video.currentTime = time;
        return arrived;
      }),
    );
    if (turn !== this.turn) return false;
    this.mark(this.at, this.at);
    this.hooks.tick(this.at);
    return true;
  }

  /** Plays from a frame on (by default from the one on view; from the start where that is the last). */
  async play(frame = this.at >= this.frames - 1 ? 0 : this.at) {
    this.setPlaying(true);
    if (!(await this.seek(frame)) || !this.playing) return;
    const turn = this.turn;
    this.setSpeed(this.speed);
    const going = this.videos.filter((_, clip) => frame < this.counts[clip] - 1 || this.counts[clip] === 1);
    await Promise.allSettled(going.map((video) => video.play()));
    if (turn === this.turn && this.playing) requestAnimationFrame(() => this.look(turn));
  }

  /** Stops where it is. */
  pause() {
    if (!this.playing) return;
    this.setPlaying(false);
    this.seek(this.now());
  }

  toggle() {
    this.hooks.event(this.playing ? "pause" : "play");
    if (this.playing) this.pause();
    else this.play();
  }

  restart() {
    this.hooks.event("restart");
    this.play(0);
  }

  /** Goes some frames on or back, and stays there. */
  step(by) {
    this.hooks.event("step");
    const from = this.playing ? this.now() : this.at;
    this.setPlaying(false);
    return this.seek(from + by);
  }

  /** Goes to a frame, and stays there. */
  jump(frame) {
    this.hooks.event("seek");
    this.setPlaying(false);
    return this.seek(frame);
  }

  setSpeed(speed) {
    this.speed = speed;
    for (const video of this.videos) video.playbackRate = speed;
  }

  /** Stops for good; the videos stay as they are. */
  stop() {
    this.turn += 1;
    this.playing = false;
    for (const video of this.videos) video.pause();
  }

  setPlaying(playing) {
    this.playing = playing;
    this.hooks.state(playing);
  }

  now() {
    const time = Math.max(...this.videos.map((video) => video.currentTime));
    return Math.min(this.frames - 1, Math.floor(time * this.fps + 1e-3));
  }

  /** Takes frames as seen; frames that were jumped over are not. */
  mark(first, last) {
    if (!this.unseen.size) return;
    for (let frame = first; frame <= last; frame += 1) this.unseen.delete(frame);
    if (!this.unseen.size) this.hooks.seen();
  }

  /** Looks at every animation frame where the clips are, and holds them together. */
  look(turn) {
    if (turn !== this.turn || !this.playing) return;
    const frame = this.now();
    this.mark(Math.min(this.at, frame), frame);
    this.at = frame;
    this.hooks.tick(frame);
    const running = this.videos.filter((video) => !video.ended);
    if (!running.length) {
      this.finish(turn);
      return;
    }
    if (running.length > 1) this.gather(running);
    requestAnimationFrame(() => this.look(turn));
  }

  /** One clock: whoever is ahead of the slowest slows down or waits. */
  gather(running) {
    const slowest = Math.min(...running.map((video) => video.currentTime));
    for (const video of running) {
      const ahead = (video.currentTime - slowest) / this.speed;
      if (ahead > FAR_AHEAD) video.pause();
      else if (video.paused) video.play().catch(() => {});
      video.playbackRate = ahead > AHEAD ? this.speed * 0.8 : this.speed;
    }
  }

  async finish(turn) {
    this.mark(this.at, this.frames - 1);
    this.rounds += 1;
    this.hooks.tick(this.frames - 1);
    this.at = this.frames - 1;
    await new Promise((done) => setTimeout(done, HOLD_MS));
    if (turn === this.turn && this.playing) await this.play(0);
  }
}
