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

interface Entry extends TrackedWrite {
  readonly done: Promise<void>;
  readonly finish: () => void;
  /** It has not begun, for another is in its way. */
  waits: boolean;
}

export class WriteTracker {
  readonly #active = new Set<Entry>();

  /** Runs `fn` when no conflicting write runs; conflicting ones wait until it has ended. */
  async run<T>(write: TrackedWrite, fn: () => Promise<T>): Promise<T> {
    let finish: () => void = () => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const entry: Entry = { ...write, done, finish, waits: false };
    this.#active.add(entry);
    try {
      for (let other = this.#inTheWay(entry); other !== undefined; other = this.#inTheWay(entry)) {
        entry.waits = true;
        await other.done;
        entry.waits = false;
      }
      return await fn();
    } finally {
      this.#active.delete(entry);
      entry.finish();
    }
  }

  #inTheWay(entry: Entry): Entry | undefined {
    const end = entry.offset + entry.bytes;
    for (const other of this.#active) {
      if (other === entry || other.waits) continue;
      if (!other.serialising && !entry.serialising) continue;
      if (other.offset < end && entry.offset < other.offset + other.bytes) return other;
    }
    return undefined;
  }
}
