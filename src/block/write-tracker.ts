/**
 * Writes in flight on one node, so that read-modify-write cycles and copies do
 * not lose a write that happens beside them. Ranges are bytes.
 *
 * Rule: two overlapping writes may run together unless one of them is serialising;
 * then the later one waits. Waiting follows the order of arrival, so no two wait
 * for each other.
 */
export interface TrackedWrite {
  readonly offset: number;
  readonly bytes: number;
  readonly serialising: boolean;
}

interface Entry extends TrackedWrite {
  readonly done: Promise<void>;
  readonly finish: () => void;
}

export class WriteTracker {
  readonly #active = new Set<Entry>();

  /** Runs `fn` when no earlier conflicting write is in flight; later conflicting ones wait. */
  async run<T>(write: TrackedWrite, fn: () => Promise<T>): Promise<T> {
    const before = this.#conflicts(write);
    let finish: () => void = () => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const entry: Entry = { ...write, done, finish };
    this.#active.add(entry);
    try {
      if (before.length > 0) await Promise.all(before);
      return await fn();
    } finally {
      this.#active.delete(entry);
      entry.finish();
    }
  }

  #conflicts(write: TrackedWrite): Promise<void>[] {
    const out: Promise<void>[] = [];
    const end = write.offset + write.bytes;
    for (const e of this.#active) {
      if (!e.serialising && !write.serialising) continue;
      if (e.offset < end && write.offset < e.offset + e.bytes) out.push(e.done);
    }
    return out;
  }
}
