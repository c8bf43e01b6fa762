/**
 * Migration of a machine: to another program, or to a file.
 *
 *   none → setup → active → (pre-switchover →) device → completed
 *                          any of them → failed, or cancelling → cancelled
 *
 * Invariants
 *  MG1  At most one side has images active. The source gives them up before the last byte of the
 *       stream is written; the destination takes them after it has read it and found it good.
 *  MG2  Whatever fails at the source before the end of the stream is on its way, or when the
 *       destination has said that it failed: the source's images are active again, and its guest
 *       goes on if it ran.
 *  MG3  Whatever fails at the destination before the end was read: its images stay untouched. If it
 *       cannot take them, it gives back what it took before it says so.
 *  MG4  When the end is on its way and no answer comes, the destination may have the images. The
 *       source leaves them alone; its user decides, with `cont`.
 *
 * The guest stands still while RAM is sent: there is no copying of RAM before.
 */
import { activateAll, inactivateAll } from '../../block/activity.js';
import { messageOf } from '../../block/errors.js';
import type { BlockGraph } from '../../block/graph.js';
import type { Infer } from '../../options/schema.js';
import type { Machine } from '../../machine/machine.js';
import type { RamCount } from '../../machine/state/machine-state.js';
import {
  clearRam,
  MachineLoader,
  readAll,
  saveMachine,
  whyNotSavable,
} from '../../machine/state/machine-state.js';
import type { StateSink } from '../../machine/state/stream.js';
import { StateReader, StateWriter } from '../../machine/state/stream.js';
import type { RunState } from '../machine.js';
import { QmpError } from '../qmp-error.js';
import type { migrationAddress, migrationInfo, migrationStatuses } from '../types/migration.js';
import { openIncoming, openOutgoing } from './address.js';
import { BitmapLoader, outgoingBitmaps, saveBitmaps, withoutStoring } from './bitmaps.js';
import type { Channel } from './channel.js';
import { MigrationSettings } from './settings.js';

export type MigrationStatus = (typeof migrationStatuses)[number];
type Place = Infer<typeof migrationAddress>;

const PAGE = 4096;
/** What the destination answers when it has taken over. */
const DONE = Uint8Array.of(0x64, 0x6f, 0x6e, 0x65);
/** And when it has not, and will not. */
const FAIL = Uint8Array.of(0x66, 0x61, 0x69, 0x6c);

const isSame = (a: Uint8Array, b: Uint8Array): boolean => a.every((byte, i) => byte === b[i]);

/** What migration needs of the program that has the machine. */
export interface MigrationHost {
  readonly graph: BlockGraph;
  readonly machine: Machine | undefined;
  readonly uuid: string;
  runState: RunState;
  /** The guest runs as soon as the machine is here. */
  readonly autostart: boolean;
  emit(name: string, data: Readonly<Record<string, unknown>>): void;
  /** Runs `work` when no command is carried out. */
  exclusively<T>(work: () => Promise<T>): Promise<T>;
  /** The guest stands still; event STOP if it ran. */
  halt(state: RunState): void;
  /** The guest goes on; event RESUME. */
  proceed(): void;
  /** A line for the program's user. */
  complain(text: string): void;
  /** No machine will come: the program ends. */
  incomingFailed(): void;
}

class Cancelled extends Error {
  override readonly name = 'Cancelled';
}

export class Migration {
  readonly settings = new MigrationSettings();
  readonly #host: MigrationHost;
  #status: MigrationStatus = 'none';
  /** The machine is on its way to somewhere else. */
  #sends = false;
  #closing = false;
  #error: string | undefined;
  #channel: Channel | undefined;
  #cancelled = false;
  /** The destination may have all that it needs. */
  #isTooLate = false;
  /** It may even use the images (MG4). */
  #inDoubt = false;
  /** Ends what waits for `migrate-continue`. */
  #continue: (() => void) | undefined;
  /** Ends the waiting for a machine to come. */
  #stopWaiting: (() => Promise<void>) | undefined;
  #waits = false;
  #exitsOnError = true;
  #began = 0;
  #haltedMs = 0;
  #downMs = 0;
  #endedMs = 0;
  #writer: StateWriter | undefined;
  readonly #count: RamCount = { zeroPages: 0, pages: 0 };

  constructor(host: MigrationHost) {
    this.#host = host;
  }

  /** Neither commands that change the machine nor another migration may begin. */
  get isActive(): boolean {
    return this.#sends;
  }

  /** Why it cannot begin; undefined: it can. */
  get blocker(): string | undefined {
    return whyNotSavable(this.#host.machine);
  }

  #become(status: MigrationStatus): void {
    this.#status = status;
    if (this.settings.has('events')) this.#host.emit('MIGRATION', { status });
  }

  get #now(): number {
    return this.#host.graph.host.clock.now();
  }

  info(): Infer<typeof migrationInfo> {
    const status = this.#status;
    const { blocker } = this;
    const blocked = blocker === undefined ? {} : { 'blocked-reasons': [blocker] };
    if (status === 'none') return blocked;
    const error = this.#error === undefined ? {} : { 'error-desc': this.#error };
    if (this.#writer === undefined) return { status, ...error, ...blocked };
    const end = this.isActive ? this.#now : this.#endedMs;
    return {
      status,
      ...error,
      ...blocked,
      ram: this.#ram(),
      'total-time': Math.round(end - this.#began),
      ...(status === 'completed' ? { downtime: Math.round(this.#downMs) } : {}),
    };
  }

  #ram(): NonNullable<Infer<typeof migrationInfo>['ram']> {
    const { zeroPages, pages } = this.#count;
    const total = this.#host.machine?.ram.bytes ?? 0;
    const transferred = this.#writer?.bytes ?? 0;
    return {
      transferred,
      remaining: Math.max(0, total - (zeroPages + pages) * PAGE),
      total,
      duplicate: zeroPages,
      normal: pages,
      'normal-bytes': pages * PAGE,
      'dirty-pages-rate': 0,
      mbps: 0,
      'dirty-sync-count': 1,
      'postcopy-requests': 0,
      'page-size': PAGE,
      'multifd-bytes': 0,
      'pages-per-second': 0,
      'precopy-bytes': 0,
      'downtime-bytes': transferred,
      'postcopy-bytes': 0,
      'dirty-sync-missed-zero-copy': 0,
    };
  }

  // The source.

  /** Begins; what becomes of it, events and queries tell. Throws QmpError; then nothing began. */
  begin(place: Place): void {
    const { runState } = this.#host;
    if (this.isActive) throw new QmpError("There's a migration process in progress");
    if (runState === 'inmigrate') throw new QmpError('Guest is waiting for an incoming migration');
    if (runState === 'postmigrate') {
      throw new QmpError("Can't migrate the vm that was paused due to previous migration");
    }
    const { blocker } = this;
    if (blocker !== undefined) throw new QmpError(blocker);
    this.#error = undefined;
    this.#cancelled = false;
    this.#isTooLate = false;
    this.#inDoubt = false;
    this.#began = this.#now;
    Object.assign(this.#count, { zeroPages: 0, pages: 0 });
    this.#sends = true;
    this.#become('setup');
    void this.#send(place);
  }

  async #send(place: Place): Promise<void> {
    const { runState } = this.#host;
    try {
      const channel = await openOutgoing(this.#host.graph, place);
      this.#channel = channel;
      this.#checkCancelled();
      const writer = new StateWriter(this.#limited(channel), this.#host.graph.host.hot);
      this.#writer = writer;
      this.#become('active');
      await this.#transfer(channel, writer, runState);
      this.#downMs = this.#now - this.#haltedMs;
      this.#endedMs = this.#now;
      this.#host.runState = 'postmigrate';
      this.#sends = false;
      this.#become('completed');
    } catch (e) {
      this.#channel?.destroy();
      await this.#host.exclusively(() => this.#takeBack(runState, e));
    } finally {
      this.#channel = undefined;
    }
  }

  async #transfer(channel: Channel, writer: StateWriter, before: RunState): Promise<void> {
    const host = this.#host;
    await writer.begin();
    await host.exclusively(async () => {
      this.#checkCancelled();
      this.#checkBlocker();
      host.halt('finish-migrate');
      await Promise.resolve();
    });
    this.#haltedMs = this.#now;
    const identity = { uuid: host.uuid, running: before === 'running' };
    await saveMachine(host.machine, identity, writer, host.graph.host.hot, this.#count);
    if (this.settings.has('pause-before-switchover')) await this.#pause();
    this.#checkCancelled();
    const bitmaps = await host.exclusively(() => this.#giveUp());
    await saveBitmaps(bitmaps, writer);
    this.#checkCancelled();
    this.#isTooLate = true;
    this.#inDoubt = channel.answers;
    await writer.end();
    if (!channel.answers) return channel.finish();
    await this.#hearDone(channel);
    // The machine is there; how the connection ends changes nothing.
    await channel.finish().catch(() => undefined);
  }

  /** Images are the destination's from now on; resolves to the bitmaps that go there. */
  async #giveUp(): Promise<ReturnType<typeof outgoingBitmaps>> {
    const { graph } = this.#host;
    this.#checkCancelled();
    this.#checkBlocker();
    this.#become('device');
    const mapping = this.settings.parameters['block-bitmap-mapping'];
    const sends = this.settings.has('dirty-bitmaps');
    const bitmaps = sends ? outgoingBitmaps(graph, mapping) : [];
    await withoutStoring(bitmaps, () => inactivateAll(graph));
    return bitmaps;
  }

  /** The guest may have touched a device since the beginning. */
  #checkBlocker(): void {
    const { blocker } = this;
    if (blocker !== undefined) throw new QmpError(blocker);
  }

  async #hearDone(channel: Channel): Promise<void> {
    const answer = new Uint8Array(DONE.length);
    const got = await channel.read(answer);
    if (got === DONE.length && isSame(answer, DONE)) return;
    this.#inDoubt = !isSame(answer, FAIL);
    throw new QmpError('The destination has not taken the machine over');
  }

  async #pause(): Promise<void> {
    this.#become('pre-switchover');
    await new Promise<void>((resolve) => {
      this.#continue = resolve;
    });
    this.#continue = undefined;
  }

  #checkCancelled(): void {
    if (this.#cancelled) throw new Cancelled('cancelled');
  }

  /** MG2, MG4. */
  async #takeBack(before: RunState, error: unknown): Promise<void> {
    const host = this.#host;
    let text = messageOf(error);
    if (this.#inDoubt) {
      text += '; it may have: the images stay inactive until cont';
      host.runState = 'postmigrate';
      return this.#end(text);
    }
    try {
      await activateAll(host.graph);
      if (host.runState === 'finish-migrate') {
        host.runState = before === 'running' ? 'paused' : before;
        if (before === 'running') host.proceed();
      }
    } catch (e) {
      text += `; the images cannot be used again: ${messageOf(e)}`;
      host.runState = 'paused';
    }
    this.#end(text);
  }

  /** Without having moved. */
  #end(text: string): void {
    this.#endedMs = this.#now;
    this.#sends = false;
    if (this.#cancelled) {
      this.#become('cancelled');
      return;
    }
    this.#error = text;
    this.#host.complain(text);
    this.#become('failed');
  }

  /** Slows writing down to `max-bandwidth`. */
  #limited(channel: Channel): StateSink {
    const { clock } = this.#host.graph.host;
    let free = clock.now();
    return {
      write: async (bytes) => {
        const rate = this.settings.parameters['max-bandwidth'] ?? 0;
        await channel.write(bytes);
        if (rate === 0) return;
        free = Math.max(free, clock.now()) + (bytes.length * 1000) / rate;
        const wait = free - clock.now();
        if (wait < 1) return;
        await new Promise<void>((resolve) => {
          clock.after(wait, resolve);
        });
        this.#checkCancelled();
      },
    };
  }

  /** Gives up; does nothing where there is nothing to give up, or it is too late. */
  cancel(): void {
    if (!this.isActive || this.#cancelled || this.#isTooLate) return;
    this.#cancelled = true;
    this.#become('cancelling');
    this.#channel?.destroy();
    this.#continue?.();
  }

  /** Ends the stop before the images go. Throws QmpError. */
  goOn(state: MigrationStatus): void {
    if (this.#status !== state || this.#continue === undefined) {
      throw new QmpError(`Migration not in expected state: ${this.#status}`);
    }
    this.#continue();
  }

  // The destination.

  /** Waits for a machine. Throws QmpError, HostError; then nobody waits. */
  async wait(place: Place, exitsOnError = true): Promise<void> {
    if (this.#waits) throw new QmpError('The incoming migration has already been started');
    if (this.#host.runState !== 'inmigrate') {
      throw new QmpError("'-incoming' was not specified on the command line");
    }
    this.#waits = true;
    this.#exitsOnError = exitsOnError;
    this.#become('setup');
    try {
      this.#stopWaiting = await openIncoming(this.#host.graph, place, (channel) => {
        void this.#receive(channel);
      });
    } catch (e) {
      this.#waits = false;
      this.#status = 'none';
      throw e;
    }
  }

  async #receive(channel: Channel): Promise<void> {
    const host = this.#host;
    this.#channel = channel;
    try {
      const { running } = await this.#load(channel);
      await host.exclusively(() => this.#takeOver(running));
      if (channel.answers) await channel.write(DONE).catch(() => undefined);
      this.#become('completed');
      await channel.finish().catch(() => undefined);
    } catch (e) {
      if (channel.answers) await refuse(channel).catch(() => undefined);
      channel.destroy();
      if (this.#closing) return;
      const { machine } = host;
      if (machine !== undefined) clearRam(machine.ram, host.graph.host.hot);
      this.#error = messageOf(e);
      this.#become('failed');
      this.#waits = false;
      const text = `load of migration failed: ${this.#error}`;
      host.complain(text);
      if (this.#exitsOnError) host.incomingFailed();
    } finally {
      this.#channel = undefined;
    }
  }

  async #load(channel: Channel): Promise<{ readonly running: boolean }> {
    const { graph, machine, uuid } = this.#host;
    const loader = new MachineLoader(machine, true);
    const mapping = this.settings.parameters['block-bitmap-mapping'];
    const bitmaps = new BitmapLoader(graph, mapping, (text) => {
      this.#host.complain(text);
    });
    const reader = new StateReader(channel, graph.host.hot);
    await reader.begin();
    this.#become('active');
    const facts = await readAll(reader, loader, (section) => bitmaps.take(section));
    if (this.settings.has('validate-uuid') && facts.uuid !== uuid) {
      throw new QmpError(`UUID received is ${facts.uuid} and local is ${uuid}`);
    }
    bitmaps.apply();
    return facts;
  }

  /** The machine is here: its images are this program's, and the guest goes on if it ran. */
  async #takeOver(running: boolean): Promise<void> {
    const host = this.#host;
    const goesOn = running && host.autostart;
    host.graph.opensInactive = false;
    if (goesOn || !this.settings.has('late-block-activate')) {
      try {
        await activateAll(host.graph);
      } catch (e) {
        host.graph.opensInactive = true;
        await inactivateAll(host.graph);
        throw e;
      }
    }
    host.runState = 'paused';
    if (goesOn) host.proceed();
  }

  /** The end of the program: nobody waits any more, and nothing is sent. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#cancelled = true;
    this.#continue?.();
    this.#channel?.destroy();
    await this.#stopWaiting?.();
  }
}

/** Says that the machine was not taken over. */
async function refuse(channel: Channel): Promise<void> {
  await channel.write(FAIL);
  await channel.finish();
}
