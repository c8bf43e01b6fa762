// What a disk may hold after a power cut, given what was asked for and acknowledged before.
import type { Backend } from '../../../src/index.js';
import { difference, Iov } from './support.js';

/** Something that was asked for since the last acknowledged flush. */
export interface Change {
  readonly offset: number;
  readonly bytes: number;
  /** Absent: zeroes. */
  readonly data?: Uint8Array;
  isDone: boolean;
}

export class History {
  /** Content at the last acknowledged flush. */
  stable: Uint8Array;
  /** Newest content. */
  now: Uint8Array;
  changes: Change[] = [];
  /** Virtual sizes that the image may have. */
  sizes: Set<number>;
  /** Snapshots that must be there, with their content; and those that come or go just now. */
  snapshots = new Map<string, Uint8Array>();
  maybe = new Map<string, Uint8Array>();
  /** VM state that some of them have. */
  states = new Map<string, Uint8Array>();

  constructor(content: Uint8Array) {
    this.stable = content.slice();
    this.now = content.slice();
    this.sizes = new Set([content.length]);
  }

  /** As it is at this moment, for a cut that happens now. */
  clone(): History {
    const copy = new History(this.stable);
    copy.changes = this.changes.map((c) => ({ ...c }));
    copy.sizes = new Set(this.sizes);
    copy.snapshots = new Map(this.snapshots);
    copy.maybe = new Map(this.maybe);
    copy.states = new Map(this.states);
    return copy;
  }

  begin(offset: number, bytes: number, data?: Uint8Array): Change {
    const change: Change = {
      offset,
      bytes,
      isDone: false,
      ...(data === undefined ? {} : { data }),
    };
    this.changes.push(change);
    return change;
  }

  done(change: Change): void {
    change.isDone = true;
    const { offset, bytes, data } = change;
    if (data === undefined) this.now.fill(0, offset, offset + bytes);
    else this.now.set(data, offset);
  }

  /** The changes that are complete: a flush that begins now covers them. */
  complete(): ReadonlySet<Change> {
    return new Set(this.changes.filter((c) => c.isDone));
  }

  /** A flush that began when `done` were complete was acknowledged. */
  flushed(done: ReadonlySet<Change>): void {
    for (const c of this.changes) {
      if (!done.has(c)) continue;
      if (c.data === undefined) this.stable.fill(0, c.offset, c.offset + c.bytes);
      else this.stable.set(c.data, c.offset);
    }
    this.changes = this.changes.filter((c) => !done.has(c));
  }

  /** The disk holds exactly this from now on, durably. */
  settle(content: Uint8Array): void {
    this.stable = content.slice();
    this.now = content.slice();
    this.changes = [];
    this.sizes = new Set([content.length]);
  }

  /** Throws when the disk holds a byte that it cannot hold. */
  async judge(disk: Backend, clusterSize: number): Promise<void> {
    if (!this.sizes.has(disk.size)) throw new Error(`size is ${disk.size}`);
    const actual = new Uint8Array(disk.size);
    await disk.read(0, Iov.of(actual));
    const wrong = this.#firstWrong(actual);
    if (wrong < 0) return;
    const at = `byte ${wrong}, cluster ${Math.floor(wrong / clusterSize)}`;
    throw new Error(`${at} is ${actual[wrong]}, was flushed as ${this.stable[wrong]}`);
  }

  /** Index of a byte that is none of what it may be; -1 when there is none. */
  #firstWrong(actual: Uint8Array): number {
    const fits = new Uint8Array(actual.length);
    for (let i = 0; i < actual.length; i++) fits[i] = actual[i] === (this.stable[i] ?? 0) ? 1 : 0;
    for (const { offset, bytes, data } of this.changes) {
      for (let i = offset; i < Math.min(offset + bytes, actual.length); i++) {
        if (actual[i] === (data === undefined ? 0 : data[i - offset])) fits[i] = 1;
      }
    }
    return fits.indexOf(0);
  }

  /** Throws unless the snapshots are there, and hold what they held. `disk`: read-only. */
  async judgeSnapshots(disk: Backend): Promise<void> {
    const { snapshots } = disk.node.instance;
    const found = (await snapshots?.list())?.map((s) => s.name) ?? [];
    for (const name of this.snapshots.keys()) {
      if (!found.includes(name)) throw new Error(`snapshot ${name} is gone`);
    }
    for (const name of found) {
      const expected = this.snapshots.get(name) ?? this.maybe.get(name);
      if (expected === undefined) throw new Error(`snapshot ${name} should be gone`);
      const state = this.states.get(name);
      if (state !== undefined) {
        const area = await snapshots?.openState(undefined, name);
        const read = new Uint8Array(state.length);
        await area?.(0, Iov.of(read));
        if (difference(read, state) >= 0) throw new Error(`the VM state of ${name} is another`);
      }
      await snapshots?.loadTemporary(undefined, name);
      const out = new Uint8Array(Math.min(expected.length, disk.size));
      await disk.read(0, Iov.of(out));
      const at = difference(out, expected.subarray(0, out.length));
      if (at >= 0) throw new Error(`snapshot ${name}: byte ${at} is ${out[at]}`);
    }
  }
}
