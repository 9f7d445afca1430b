// Talking to the server: requests that are repeated until they arrive, and answers that outlive a reload.

const TIMEOUT_MS = 10000;
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 5000;
const KEY = "prefrl_label";

/** The server has answered, and said no. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A random name of a request, 128 bits. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // Outside of a secure context (a plain http address of another machine) only this is there.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function passing(status) {
  return status >= 500 || status === 408 || status === 429;
}

async function refusal(response) {
  try {
    return new Refused(response.status, String((await response.json()).error));
  } catch {
    return new Refused(response.status, `The server answered ${response.status}.`);
  }
}

/** One connection to the server; says when it is in trouble and when it is not any more. */
export class Line {
  /** @param trouble called with {tries, seconds} before every wait, and with null when a request gets through */
  constructor(trouble) {
    this.trouble = trouble;
    this.wakers = new Set();
    addEventListener("online", () => this.hurry());
  }

  /** Ends all waits. */
  hurry() {
    for (const wake of [...this.wakers]) wake();
  }

  /** Reads JSON; insists. */
  get(path) {
    return this.insist(() => fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) }), (reply) => reply.json());
  }

  /** Reads bytes; insists. */
  blob(path) {
    return this.insist(() => fetch(path, { signal: AbortSignal.timeout(6 * TIMEOUT_MS) }), (reply) => reply.blob());
  }

  /** Sends JSON; insists, so whatever is sent must be safe to send twice. */
  post(path, body) {
    const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    return this.insist(
      () => fetch(path, { ...options, signal: AbortSignal.timeout(TIMEOUT_MS) }),
      (reply) => reply.json(),
    );
  }

  async insist(send, read) {
    for (let tries = 1; ; tries += 1) {
      try {
        const response = await send();
        if (response.ok) {
          const reply = await read(response);
          this.trouble(null);
          return reply;
        }
        if (!passing(response.status)) throw await refusal(response);
      } catch (error) {
        if (error instanceof Refused) throw error;
      }
      await this.wait(tries);
    }
  }

  async wait(tries) {
    const longest = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (tries - 1));
    const wait = longest * (0.8 + 0.4 * Math.random()); // many pages must not come back in one moment
    this.trouble({ tries, seconds: wait / 1000 });
    await new Promise((done) => {
      const wake = () => {
        clearTimeout(timer);
        this.wakers.delete(wake);
        done();
      };
      const timer = setTimeout(wake, wait);
      this.wakers.add(wake);
    });
  }
}

/** What this tab remembers over a reload. */
export class Memory {
  constructor(study) {
    this.data = { study, tab: newId(), begun: false, speed: 1, letters: [] };
    try {
      const stored = JSON.parse(sessionStorage.getItem(KEY));
      if (stored && stored.study === study) this.data = { ...this.data, ...stored };
    } catch {
      // Nothing that can be read: begin anew.
    }
  }

  save() {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(this.data));
    } catch {
      // No storage, or none left: a reload will forget, nothing else.
    }
  }

  /** Forgets what belongs to another tab: a duplicated tab begins with the memory of the first. */
  async claim() {
    if (!navigator.locks) return; // outside of a secure context
    // A reload may find the lock of the page before it for a moment.
    for (let tries = 0; tries < 4; tries += 1) {
      if (await this.hold()) return;
      await new Promise((done) => setTimeout(done, 100));
    }
    Object.assign(this.data, { tab: newId(), letters: [] });
    this.save();
    await this.hold();
  }

  hold() {
    return new Promise((done) => {
      navigator.locks.request(`${KEY}-${this.data.tab}`, { ifAvailable: true }, (lock) => {
        done(lock !== null);
        return lock && new Promise(() => {}); // until the page goes
      });
    });
  }
}

/** Answers and undos on their way: sent one after the other in their order, kept until the server has them. */
export class Outbox {
  /** @param hooks changed(count), arrived(letter, reply), refused(letter, error) */
  constructor(line, memory, hooks) {
    this.line = line;
    this.memory = memory;
    this.hooks = hooks;
    this.sending = null;
    addEventListener("beforeunload", (event) => {
      if (this.letters.length) event.preventDefault();
    });
  }

  get letters() {
    return this.memory.data.letters;
  }

  has(path) {
    return this.letters.some((letter) => letter.path === path);
  }

  /** Takes a request with an id of its own; note is kept beside it, for this page. */
  push(path, body, note = null) {
    this.letters.push({ path, body: { request: newId(), ...body }, note });
    this.changed();
    return this.deliver();
  }

  /** Resolves when everything has arrived. */
  deliver() {
    this.sending ??= this.work().finally(() => {
      this.sending = null;
    });
    return this.sending;
  }

  async work() {
    while (this.letters.length) {
      const letter = this.letters[0];
      let reply = null;
      let error = null;
      try {
        reply = await this.line.post(letter.path, letter.body);
      } catch (refused) {
        // Without a valid link nothing can be sent now; a new one may let it through.
        if (!(refused instanceof Refused) || refused.status === 403) throw refused;
        error = refused;
      }
      this.letters.shift();
      this.changed();
      if (error) this.hooks.refused(letter, error);
      else this.hooks.arrived(letter, reply);
    }
  }

  changed() {
    this.memory.save();
    this.hooks.changed(this.letters.length);
  }
}
