/**
 * An NBD export as a node.
 *
 * States of the link: `up` (a connection serves requests) → `waiting` (it broke;
 * `reconnect-delay` seconds long requests wait while new connections are tried) → `failing`
 * (requests fail at once, tries go on) → `up` when a try succeeds, or `closed`.
 * Requests that were in flight when a connection broke are made again on the next one:
 * each NBD request may be repeated. A server that comes back with another size is refused.
 */
import type { DriverInstance } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import type { BlockLimits, DriverStatus } from '../../block/types.js';
import { Req } from '../../block/types.js';
import type { Clock } from '../../host/host.js';
import type { Iov } from '../../lib/iov.js';
import { NBD_MAX_PAYLOAD, NbdCmd, NbdCmdFlag, NbdFlag, NbdState } from '../../wire/nbd.js';
import type { NbdConnection, StatusRun } from './connection.js';

/** Milliseconds before the first new try, doubled after each failure up to the second. */
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 16_000;
/** With a server that allows it, so many connections share the load. */
const MAX_CONNECTIONS = 4;
/** Requests in flight per connection above which another one is opened. */
const BUSY = 32;

/** A server that does not take the goodbye in this time is left without (milliseconds). */
const CLOSE_MS = 5000;
/** Longest range that a request of 32 bits can name, in whole blocks of any size. */
const MAX_RANGE = 0x7fff_0000;

export interface NbdLink {
  readonly first: NbdConnection;
  /** Makes a new connection to the same export; `signal` gives up. */
  connect(signal: AbortSignal): Promise<NbdConnection>;
  readonly clock: Clock;
  readonly reconnectDelayMs: number;
  /** Greatest flags word of the metadata context that means something; greater ones are cut. */
  readonly maxFlags: number;
  readonly filename: string | undefined;
  readonly strong: Record<string, unknown>;
}

export class NbdInstance implements DriverInstance {
  readonly writeFlags: number;
  readonly zeroFlags: number;
  readonly #link: NbdLink;
  readonly #flags: number;
  readonly #size: number;
  #connections: NbdConnection[];
  #state: 'up' | 'waiting' | 'failing' | 'closed' = 'up';
  #waiters: { resolve: () => void; reject: (e: Error) => void }[] = [];
  #cancelTimers: (() => void)[] = [];
  #growing = false;
  readonly #abort = new AbortController();

  constructor(link: NbdLink) {
    this.#link = link;
    const { agreement } = link.first;
    this.#flags = agreement.flags;
    this.#size = agreement.size;
    const fua = this.#has(NbdFlag.sendFua) ? Req.fua : 0;
    this.writeFlags = fua;
    this.zeroFlags = fua | Req.mayUnmap | (this.#has(NbdFlag.sendFastZero) ? Req.noFallback : 0);
    this.#connections = [link.first];
    this.#adopt(link.first);
  }

  get isReadOnly(): boolean {
    return this.#has(NbdFlag.readOnly);
  }

  length(): number {
    return this.#size;
  }

  limits(): Partial<BlockLimits> {
    const a = this.#link.first.agreement;
    const max = Math.min(a.maxBlock, NBD_MAX_PAYLOAD);
    const range = a.extended ? 0 : MAX_RANGE;
    return {
      requestAlignment: a.minBlock,
      maxTransfer: max,
      optTransfer: Math.min(a.preferredBlock, max),
      maxWriteZeroes: range,
      maxDiscard: range,
    };
  }

  /** The node's length may be rounded up to a sector: what the server does not have is zeroes. */
  async read(offset: number, iov: Iov): Promise<void> {
    const left = this.#size - offset;
    if (iov.bytes <= left) {
      await this.#request(NbdCmd.read, 0, offset, iov.bytes, { into: iov });
      return;
    }
    const inside = Math.max(0, left);
    iov.fill(0, inside);
    if (inside === 0) return;
    await this.#request(NbdCmd.read, 0, offset, inside, { into: iov.slice(0, inside) });
  }

  async write(offset: number, iov: Iov, flags: number): Promise<void> {
    const fua = (flags & Req.fua) !== 0 ? NbdCmdFlag.fua : 0;
    await this.#request(NbdCmd.write, fua, offset, iov.bytes, { payload: iov });
  }

  async writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    if (!this.#has(NbdFlag.sendWriteZeroes)) throw new BlockError('ENOTSUP');
    const wire =
      ((flags & Req.fua) !== 0 ? NbdCmdFlag.fua : 0) |
      ((flags & Req.mayUnmap) === 0 ? NbdCmdFlag.noHole : 0) |
      ((flags & Req.noFallback) !== 0 ? NbdCmdFlag.fastZero : 0);
    await this.#request(NbdCmd.writeZeroes, wire, offset, bytes);
  }

  async discard(offset: number, bytes: number): Promise<void> {
    if (!this.#has(NbdFlag.sendTrim)) return;
    await this.#request(NbdCmd.trim, 0, offset, bytes);
  }

  async flushToDisk(): Promise<void> {
    if (this.#has(NbdFlag.sendFlush)) await this.#request(NbdCmd.flush, 0, 0, 0);
  }

  async blockStatus(offset: number, bytes: number): Promise<DriverStatus> {
    const { agreement } = this.#link.first;
    if (offset >= this.#size) return { bytes, data: false, zero: true, allocated: true, offset };
    const all = { bytes, data: true, zero: false, allocated: true, offset };
    if (agreement.contextId === undefined) return all;
    const inside = Math.min(bytes, this.#size - offset);
    const range = agreement.extended ? inside : Math.min(inside, MAX_RANGE);
    const [run] = await this.#request(NbdCmd.blockStatus, NbdCmdFlag.reqOne, offset, range);
    if (run === undefined) throw new BlockError('EIO', 'Server sent no block status');
    const cut = wholeBlocks(run, range, agreement.minBlock);
    const flags = Math.min(cut.flags, this.#link.maxFlags);
    return {
      ...all,
      // The rounded-up end goes with the last run.
      bytes: cut.bytes === inside ? bytes : cut.bytes,
      data: (flags & NbdState.hole) === 0,
      zero: (flags & NbdState.zero) !== 0,
    };
  }

  /** The server decides the size: only the present one is accepted. */
  truncate(bytes: number, options: { readonly exact: boolean }): Promise<void> {
    if (bytes === this.#size || (!options.exact && bytes < this.#size)) return Promise.resolve();
    return Promise.reject(
      new BlockError(
        'ENOTSUP',
        bytes > this.#size ? 'Cannot grow NBD nodes' : 'Cannot resize NBD nodes',
      ),
    );
  }

  exactFilename(): string | undefined {
    return this.#link.filename;
  }

  strongOptions(): Record<string, unknown> {
    return this.#link.strong;
  }

  async close(): Promise<void> {
    const connections = this.#connections;
    this.#connections = [];
    this.#enter('closed', new BlockError('EIO', 'The node was closed'));
    this.#abort.abort();
    await Promise.all(connections.map((c) => this.#leave(c)));
  }

  async #leave(c: NbdConnection): Promise<void> {
    c.onDead = undefined;
    const cancel = this.#link.clock.after(CLOSE_MS, () => {
      c.destroy(new BlockError('ETIMEDOUT'));
    });
    await c.close().finally(cancel);
  }

  #has(flag: number): boolean {
    return (this.#flags & flag) !== 0;
  }

  async #request(
    type: number,
    flags: number,
    offset: number,
    length: number,
    data?: { readonly into?: Iov; readonly payload?: Iov },
  ): Promise<StatusRun[]> {
    for (;;) {
      // At once, where that can be: of many requests begun together each sees those before it.
      while (this.#state === 'waiting') await this.#untilUp();
      const connection = this.#pick();
      try {
        return await connection.request(type, flags, offset, length, data);
      } catch (e) {
        if (!connection.isDead) throw e;
        if (this.#state === 'closed' || this.#state === 'failing') throw broken(e);
      }
    }
  }

  async #untilUp(): Promise<void> {
    while (this.#state === 'waiting') {
      await new Promise<void>((resolve, reject) => {
        this.#waiters.push({ resolve, reject });
      });
    }
  }

  /** A live connection, the least busy one; throws EIO when there is none. */
  #pick(): NbdConnection {
    let best = this.#connections[0];
    if (best === undefined) throw new BlockError('EIO');
    for (const c of this.#connections) if (c.inFlight < best.inFlight) best = c;
    if (best.inFlight >= BUSY) this.#grow();
    return best;
  }

  /** Opens one more connection in the background where the server allows several. */
  #grow(): void {
    const several = this.#has(NbdFlag.canMultiConn);
    if (!several || this.#growing || this.#connections.length >= MAX_CONNECTIONS) return;
    this.#growing = true;
    this.#link.connect(this.#abort.signal).then(
      (c) => {
        this.#growing = false;
        if (this.#state === 'up' && c.agreement.size === this.#size) {
          this.#connections.push(c);
          this.#adopt(c);
        } else {
          void this.#leave(c);
        }
      },
      () => {
        // One connection is enough; the next busy moment tries again no sooner than this one ends.
        this.#growing = this.#connections.length > 0;
      },
    );
  }

  /** Learns of the end of a connection that is in use, also when it has come already. */
  #adopt(c: NbdConnection): void {
    c.onDead = (error): void => {
      this.#lost(c, error);
    };
    if (c.death !== undefined) this.#lost(c, c.death);
  }

  #lost(c: NbdConnection, error: Error): void {
    this.#connections = this.#connections.filter((other) => other !== c);
    if (this.#connections.length > 0 || this.#state !== 'up') return;
    const delay = this.#link.reconnectDelayMs;
    this.#enter(delay > 0 ? 'waiting' : 'failing', broken(error));
    if (delay > 0) {
      this.#timer(delay, () => {
        if (this.#state === 'waiting') this.#enter('failing', broken(error));
      });
    }
    this.#retry(RETRY_FIRST_MS);
  }

  /** Requests that wait for a connection fail at once. */
  cancelInFlight(): void {
    if (this.#state === 'waiting') this.#enter('failing', new BlockError('EIO'));
  }

  #retry(delayMs: number): void {
    this.#timer(delayMs, () => {
      if (this.#state === 'closed' || this.#state === 'up') return;
      this.#link.connect(this.#abort.signal).then(
        (c) => {
          this.#restored(c);
        },
        () => {
          this.#retry(Math.min(delayMs * 2, RETRY_MAX_MS));
        },
      );
    });
  }

  #restored(c: NbdConnection): void {
    if (this.#state === 'closed' || c.agreement.size !== this.#size) {
      void this.#leave(c);
      if (this.#state !== 'closed') this.#retry(RETRY_MAX_MS);
      return;
    }
    this.#connections = [c];
    this.#enter('up');
    this.#adopt(c);
  }

  #timer(ms: number, fn: () => void): void {
    this.#cancelTimers.push(this.#link.clock.after(ms, fn));
  }

  #enter(state: 'up' | 'waiting' | 'failing' | 'closed', error?: Error): void {
    this.#state = state;
    if (state === 'waiting') return;
    if (state !== 'failing') for (const cancel of this.#cancelTimers.splice(0)) cancel();
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const w of waiters) {
      if (state === 'up') w.resolve();
      else w.reject(error ?? new BlockError('EIO'));
    }
  }
}

/**
 * A run within the range that was asked for, in whole blocks of `align` bytes: a server that
 * splits a block is taken to say nothing of it.
 */
function wholeBlocks(run: StatusRun, range: number, align: number): StatusRun {
  if (run.bytes >= range) return { bytes: range, flags: run.flags };
  const odd = run.bytes % align;
  if (odd === 0) return run;
  if (run.bytes > align) return { bytes: run.bytes - odd, flags: run.flags };
  return { bytes: Math.min(align, range), flags: 0 };
}

function broken(cause: unknown): BlockError {
  return new BlockError('EIO', undefined, { cause });
}
