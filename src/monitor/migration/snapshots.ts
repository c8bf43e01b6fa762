/**
 * Snapshots of a whole machine: of all its disks, and of its state in the VM state area of one.
 *
 * Invariants
 *  MV1  All disks get the snapshot or none: what was made before a failure is deleted again, and
 *       an older one of its name stays until every disk has the new one.
 *  MV2  Whether it succeeds or not, saving leaves the guest running if it ran.
 *  MV3  Nothing changes before loading has found the snapshot on all disks and its state whole and
 *       of a machine like this one. What fails after that leaves the guest standing still.
 */
import { withDrained } from '../../block/activity.js';
import type { SnapshotCapability, SnapshotInfo } from '../../block/driver.js';
import { BlockError, messageOf } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import { deviceOrNodeName } from '../../block/op-blockers.js';
import {
  clearRam,
  MachineLoader,
  readAll,
  saveMachine,
  whyNotSavable,
} from '../../machine/state/machine-state.js';
import { StateReader, StateWriter } from '../../machine/state/stream.js';
import type { RunState } from '../machine.js';
import { QmpError } from '../qmp-error.js';
import type { MigrationHost } from './migration.js';
import { StateAreaSink, StateAreaSource } from './state-area.js';

/** Which disks take part; absent: all that the guest or a client can write to. */
export interface SnapshotDisks {
  /** Name of the node that holds the state; absent: the first. */
  readonly vmstate?: string | undefined;
  /** Names of nodes. */
  readonly devices?: readonly string[] | undefined;
}

/** A disk that can have snapshots: the node that was named, and the image that has them. */
interface Disk {
  readonly node: BlockNode;
  readonly image: BlockNode;
  readonly snapshots: SnapshotCapability;
}

/** A disk's snapshots, under the name that the disk has as a device. */
export interface DiskSnapshots {
  readonly device: string;
  readonly snapshots: readonly SnapshotInfo[];
}

export class MachineSnapshots {
  readonly #host: MigrationHost;
  /** A migration is under way: the machine is about to be elsewhere. */
  readonly #isLeaving: () => boolean;

  constructor(host: MigrationHost, isLeaving: () => boolean) {
    this.#host = host;
    this.#isLeaving = isLeaving;
  }

  // Which disks.

  /** What takes part. Throws QmpError. */
  #nodes(names: readonly string[] | undefined): BlockNode[] {
    const { graph } = this.#host;
    if (names !== undefined) {
      if (names.length === 0) throw new QmpError('At least one device is required for snapshot');
      const nodes = names.map((name) => {
        const node = graph.tryNode(name);
        if (node === undefined) throw new QmpError(`No block device node '${name}'`);
        return node;
      });
      return [...new Set(nodes)];
    }
    const backends = [...graph.backends.values()].filter((each) => each.isInserted);
    const all = new Set([...backends.map(({ node }) => node), ...graph.nodes.values()]);
    return [...all].filter((node) => !node.staysReadOnly && isRoot(node));
  }

  /** Throws QmpError when one of them cannot have snapshots. */
  #disks(names: readonly string[] | undefined): Disk[] {
    return this.#nodes(names).map((node) => {
      const disk = asDisk(node);
      if (disk !== undefined) return disk;
      const name = deviceOrNodeName(node);
      throw new QmpError(`Device '${name}' is writable but does not support snapshots`);
    });
  }

  /** The disk that holds the state. Throws QmpError. */
  #stateDisk(disks: readonly Disk[], name: string | undefined): Disk {
    if (name !== undefined) {
      const named = disks.find(({ node }) => node.name === name);
      if (named !== undefined) return named;
      throw new QmpError(`vmstate block device '${name}' does not exist`);
    }
    const found = disks.find(({ image }) => image.instance.writeVmState !== undefined);
    if (found !== undefined) return found;
    throw new QmpError('no block device can store vmstate for snapshot');
  }

  #checkLeaving(): void {
    if (this.#isLeaving()) throw new QmpError("There's a migration process in progress");
  }

  // Saving.

  /**
   * Stores the machine and a snapshot of each disk. With `replaces` a snapshot of that name gives
   * way, else it is an error. Throws QmpError, BlockError (MV1, MV2).
   */
  async save(
    tag: string | undefined,
    { vmstate, devices }: SnapshotDisks,
    replaces: boolean,
  ): Promise<void> {
    const host = this.#host;
    this.#checkLeaving();
    const blocker = whyNotSavable(host.machine);
    if (blocker !== undefined) throw new QmpError(blocker);
    const disks = this.#disks(devices);
    const name = tag ?? nameOfNow();
    if (!replaces && (await holders(disks, name)).length > 0) {
      throw new QmpError(`Snapshot '${name}' already exists in one or more devices`);
    }
    const stateDisk = this.#stateDisk(disks, vmstate);
    checkJobs(disks);
    const before = host.runState;
    host.halt('save-vm');
    try {
      await withDrained(host.graph, imagesOf(disks), () =>
        this.#store(name, disks, stateDisk, before),
      );
    } finally {
      this.#goOn(before);
    }
  }

  #goOn(before: RunState): void {
    const host = this.#host;
    if (before === 'running') host.proceed();
    else host.runState = before;
  }

  async #store(
    name: string,
    disks: readonly Disk[],
    stateDisk: Disk,
    before: RunState,
  ): Promise<void> {
    const host = this.#host;
    const { hot } = host.graph.host;
    const { instance } = stateDisk.image;
    const sink = new StateAreaSink(instance);
    try {
      for (const { node } of disks) await node.flush();
      const writer = new StateWriter(sink, hot);
      await writer.begin();
      const identity = { uuid: host.uuid, running: before === 'running' };
      await saveMachine(host.machine, identity, writer, hot);
      await writer.end();
      await sink.finish();
      await this.#replace(name, disks, stateDisk, sink.bytes);
    } catch (e) {
      // What cannot be given back will be written over by the next one.
      await instance.dropVmState?.(sink.bytes).catch(() => undefined);
      throw e;
    }
  }

  /** Those of the name give way only when every disk has the new one (MV1). */
  async #replace(
    name: string,
    disks: readonly Disk[],
    stateDisk: Disk,
    stateBytes: number,
  ): Promise<void> {
    const older = new Map<Disk, readonly SnapshotInfo[]>();
    for (const disk of disks) older.set(disk, await disk.snapshots.list());
    const now = Date.now();
    for (const disk of disks) {
      try {
        await disk.snapshots.create({
          name,
          vmStateSize: disk === stateDisk ? stateBytes : 0,
          vmClockNsec: BigInt(Math.floor(this.#host.machine?.clock.now() ?? 0)),
          icount: -1n,
          dateSec: Math.floor(now / 1000),
          dateNsec: (now % 1000) * 1_000_000,
        });
      } catch (e) {
        for (const [each, before] of older) await takeBack(each, before).catch(() => undefined);
        const device = deviceOrNodeName(disk.node);
        throw new QmpError(`Error while creating snapshot on '${device}': ${messageOf(e)}`);
      }
    }
    for (const [{ snapshots }, before] of older) {
      for (const each of before) if (each.name === name) await snapshots.delete(each.id, name);
    }
  }

  // Loading.

  /** Goes back to a snapshot. Throws QmpError, BlockError (MV3). */
  async load(tag: string, { vmstate, devices }: SnapshotDisks): Promise<void> {
    const host = this.#host;
    this.#checkLeaving();
    const disks = this.#disks(devices);
    const missing = new QmpError(`Snapshot '${tag}' does not exist in one or more devices`);
    if ((await holders(disks, tag)).length < disks.length) throw missing;
    const stateDisk = this.#stateDisk(disks, vmstate);
    const state = find(await stateDisk.snapshots.list(), tag);
    if (state === undefined) throw missing;
    if (state.vmStateSize === 0) {
      throw new QmpError('This is a disk-only snapshot. Revert to it  offline using qemu-img');
    }
    if (host.machine?.hasProcessor === true) {
      throw new QmpError("State blocked by non-migratable device 'cpu'");
    }
    checkJobs(disks);
    await this.#read(stateDisk, state, false);
    const before = host.runState;
    host.halt('restore-vm');
    await withDrained(host.graph, imagesOf(disks), () =>
      this.#restore(tag, disks, stateDisk, state),
    );
    this.#goOn(before);
  }

  /** Reads the state that a snapshot has; changes nothing unless it `applies`. */
  async #read(
    { snapshots }: Disk,
    { id, name, vmStateSize }: SnapshotInfo,
    applies: boolean,
  ): Promise<void> {
    const { machine, graph } = this.#host;
    const area = await snapshots.openState(id, name);
    const reader = new StateReader(new StateAreaSource(area, vmStateSize), graph.host.hot);
    await reader.begin();
    await readAll(reader, new MachineLoader(machine, applies), () => false);
  }

  async #restore(
    tag: string,
    disks: readonly Disk[],
    stateDisk: Disk,
    state: SnapshotInfo,
  ): Promise<void> {
    const { machine, graph } = this.#host;
    for (const { node, snapshots } of disks) {
      const found = find(await snapshots.list(), tag);
      try {
        await snapshots.apply(found?.id ?? tag);
      } catch (e) {
        const device = deviceOrNodeName(node);
        throw new QmpError(`Could not load snapshot '${tag}' on '${device}': ${messageOf(e)}`);
      }
    }
    if (machine !== undefined) {
      machine.reset();
      clearRam(machine.ram, graph.host.hot);
    }
    await this.#read(stateDisk, state, true);
  }

  // Deleting and listing.

  /** Deletes a snapshot from all disks that have it. Throws QmpError, BlockError. */
  async delete(tag: string, devices?: readonly string[]): Promise<void> {
    for (const { node, snapshots, found } of await holders(this.#disks(devices), tag)) {
      try {
        await snapshots.delete(found.id, found.name);
      } catch (e) {
        const device = deviceOrNodeName(node);
        throw new QmpError(`Could not delete snapshot '${tag}' on '${device}': ${messageOf(e)}`);
      }
    }
  }

  /** What disks have, that with the state first. Throws QmpError when there is none. */
  async list(): Promise<DiskSnapshots[]> {
    const disks = this.#nodes(undefined)
      .map(asDisk)
      .filter((each) => each !== undefined);
    const stateDisk = this.#stateDisk(disks, undefined);
    const ordered = [stateDisk, ...disks.filter((each) => each !== stateDisk)];
    const names = new Map([...this.#host.graph.backends].map(([name, each]) => [each, name]));
    const found: DiskSnapshots[] = [];
    for (const { node, snapshots } of ordered) {
      const user = [...names].find(([backend]) => backend.isInserted && backend.node === node);
      found.push({ device: user?.[1] ?? '', snapshots: await snapshots.list() });
    }
    return found;
  }
}

/** A device, an export or a client has it as its own. */
function isRoot({ parents }: BlockNode): boolean {
  return parents.size === 0 || [...parents].some(({ parent }) => parent.asNode === undefined);
}

/** Filters, and formats that store nothing of their own, leave snapshots to what is below. */
function asDisk(node: BlockNode): Disk | undefined {
  for (let at: BlockNode | undefined = node; at?.readOnly === false; at = at.file?.node) {
    const { snapshots } = at.instance;
    if (snapshots !== undefined) return { node, image: at, snapshots };
    const passes = at.driver.kind === 'filter' || at.driver.name === 'raw';
    if (!passes || at.children.size !== 1) return undefined;
  }
  return undefined;
}

/** Each image once, with the nodes through which it is used. */
function imagesOf(disks: readonly Disk[]): BlockNode[] {
  return [...new Set(disks.flatMap(({ node, image }) => [node, image]))];
}

/** A job counts on its image staying as it is. Throws EBUSY. */
function checkJobs(disks: readonly Disk[]): void {
  for (const node of imagesOf(disks)) {
    const user = [...node.parents].find(({ parent }) => parent.staysAtNode === true);
    if (user === undefined) continue;
    const name = deviceOrNodeName(node);
    throw new BlockError('EBUSY', `Node '${name}' is busy: ${user.parent.describeParent()}`);
  }
}

/** Deletes what a disk did not have before; by number, for an older one can have the name too. */
async function takeBack({ snapshots }: Disk, before: readonly SnapshotInfo[]): Promise<void> {
  const known = new Set(before.map(({ id }) => id));
  for (const { id } of await snapshots.list()) {
    if (!known.has(id)) await snapshots.delete(id, undefined);
  }
}

/** The newest of a name: an older one can be left when it could not give way. */
function find(list: readonly SnapshotInfo[], name: string): SnapshotInfo | undefined {
  return list.findLast((each) => each.name === name);
}

/** The disks that have a snapshot of this name, with it. */
async function holders(
  disks: readonly Disk[],
  name: string,
): Promise<(Disk & { readonly found: SnapshotInfo })[]> {
  const result: (Disk & { readonly found: SnapshotInfo })[] = [];
  for (const disk of disks) {
    const found = find(await disk.snapshots.list(), name);
    if (found !== undefined) result.push({ ...disk, found });
  }
  return result;
}

/** `vm-20260131235959` */
function nameOfNow(): string {
  const now = new Date();
  const two = (value: number): string => String(value).padStart(2, '0');
  const date = [now.getMonth() + 1, now.getDate(), now.getHours(), now.getMinutes()];
  return `vm-${String(now.getFullYear())}${[...date, now.getSeconds()].map(two).join('')}`;
}
