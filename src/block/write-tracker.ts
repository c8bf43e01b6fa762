/**
 * Writes in flight on one node, so that read-modify-write cycles and copies do
 * not lose a write that happens beside them. Ranges are bytes.
 *
 * Rule: two overlapping writes may run together unless one of them is serialising;
 * then one waits. Who waits himself holds nobody up: a write that arrives later may
 * run before one that still waits for another, so no two wait for each other, and a
 * write that a breakpoint holds delays only those that it overlaps.
 */
export interface TrackedWrite {
  readonly offset: number;
  readonly bytes: number;
  readonly serialising: boolean;
}

/** A write in flight; made for each one, so it is cheap while nobody waits for it. */
export class WriteEntry implements TrackedWrite {
  /** It has not begun, for another is in its way. */
  waits = false;
  #waiting: (() => void)[] | undefined;

  constructor(
    readonly offset: number,
    readonly bytes: number,
    readonly serialising: boolean,
  ) {}

  get done(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#waiting === undefined) this.#waiting = [resolve];
      else this.#waiting.push(resolve);
    });
  }

  finish(): void {
    if (this.#waiting === undefined) return;
    for (const resolve of this.#waiting) resolve();
    this.#waiting = undefined;
  }
}

export class WriteTracker {
  readonly #active = new Set<WriteEntry>();
  /** Entries of `#active` that are serialising. */
  #serialising = 0;

  /**
   * Notes a write that is not serialising and may begin at once, for `leave` when it has ended;
   * undefined while a serialising one is there: then it is for `run`.
   */
  tryEnter(offset: number, bytes: number): WriteEntry | undefined {
    if (this.#serialising > 0) return undefined;
    const entry = new WriteEntry(offset, bytes, false);
    this.#active.add(entry);
    return entry;
  }

  /** A write that `tryEnter` let begin has ended. */
  leave(entry: WriteEntry): void {
    this.#active.delete(entry);
    entry.finish();
  }

  /** Runs `fn` when no conflicting write runs; conflicting ones wait until it has ended. */
  async run<T>(write: TrackedWrite, fn: () => Promise<T>): Promise<T> {
    const entry = new WriteEntry(write.offset, write.bytes, write.serialising);
    this.#active.add(entry);
    if (entry.serialising) this.#serialising++;
    try {
      for (let other = this.#inTheWay(entry); other !== undefined; other = this.#inTheWay(entry)) {
        entry.waits = true;
        await other.done;
        entry.waits = false;
      }
      return await fn();
    } finally {
      if (entry.serialising) this.#serialising--;
      this.leave(entry);
    }
  }

  #inTheWay(entry: WriteEntry): WriteEntry | undefined {
    const end = entry.offset + entry.bytes;
    for (const other of this.#active) {
      if (other === entry || other.waits) continue;
      if (!other.serialising && !entry.serialising) continue;
      if (other.offset < end && entry.offset < other.offset + other.bytes) return other;
    }
    return undefined;
  }
}
