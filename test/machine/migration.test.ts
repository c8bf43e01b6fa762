// Goal: a machine moves to another program with its RAM, its images and its bitmaps; whatever cuts
// the stream, one side has the images, and the other has not touched them. Method: two machines
// over one simulated host with locks and sockets, streams that are cut or changed at any place.
import { onTestFinished, describe, expect, it } from 'vitest';
import { activateAll } from '../../src/block/activity.js';
import { addBitmap } from '../../src/block/bitmaps.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { ByteStream } from '../../src/host/socket.js';
import { nodeHost } from '../../src/host/node/index.js';
import type { Backend, BlockGraph } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import { Machine } from '../../src/machine/machine.js';
import { MachineLoader, readAll, saveMachine } from '../../src/machine/state/machine-state.js';
import { StateReader, StateWriter } from '../../src/machine/state/stream.js';
import type { RunState } from '../../src/monitor/machine.js';
import { parseUri } from '../../src/monitor/migration/address.js';
import type { MigrationHost } from '../../src/monitor/migration/migration.js';
import { Migration } from '../../src/monitor/migration/migration.js';
import {
  failure,
  failureCode,
  FakeFiles,
  fakeHost,
  FakeSockets,
  filled,
  readBytes,
  seededRandom,
  testGraph,
} from '../support/index.js';

const MiB = 1 << 20;
const ramBytes = 4 * MiB;
const { hot } = nodeHost();
/** Of the section `end`, or a little more. */
const END_BYTES = 64;
const NOT_TAKEN = 'The destination has not taken the machine over';

/** Sockets whose connections break when so many bytes were written. */
class Fragile extends FakeSockets {
  left = Infinity;
  written = 0;

  override async connect(...args: Parameters<FakeSockets['connect']>): Promise<ByteStream> {
    const stream = await super.connect(...args);
    const write = stream.write.bind(stream);
    stream.write = (pieces, sent): boolean => {
      for (const piece of pieces) this.written += piece.length;
      if (this.written <= this.left) return write(pieces, sent);
      stream.destroy();
      sent?.(false);
      return true;
    };
    return stream;
  }
}

class Side implements MigrationHost {
  readonly events: string[] = [];
  readonly told: string[] = [];
  readonly uuid = '';
  readonly autostart = true;
  readonly migration: Migration;
  runState: RunState = 'running';
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    readonly graph: BlockGraph,
    readonly disk: Backend,
    readonly machine: Machine,
  ) {
    this.migration = new Migration(this);
    this.migration.settings.switch([
      { capability: 'events', state: true },
      { capability: 'dirty-bitmaps', state: true },
    ]);
    onTestFinished(() => this.migration.close());
  }

  emit(name: string, data: Readonly<Record<string, unknown>>): void {
    this.events.push(name === 'MIGRATION' ? String(data['status']) : name);
  }

  exclusively<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => undefined);
    return result;
  }

  halt(state: RunState): void {
    if (this.runState === 'running') this.events.push('STOP');
    this.runState = state;
  }

  proceed(): void {
    this.events.push('RESUME');
    this.runState = 'running';
  }

  complain(text: string): void {
    this.told.push(text);
  }

  incomingFailed(): void {
    this.events.push('gone');
  }

  /** Resolves when the migration has ended. */
  async ended(): Promise<void> {
    await expect
      .poll(() => this.migration.info().status, { timeout: 20_000, interval: 2 })
      .toMatch(/completed|failed|cancelled/);
  }
}

interface Pair {
  readonly files: FakeFiles;
  readonly sockets: Fragile;
  readonly source: Side;
  readonly target: Side;
}

async function pair(): Promise<Pair> {
  const files = new FakeFiles();
  const sockets = new Fragile();
  const host = {
    ...fakeHost({ files }),
    clock: nodeHost().clock,
    loadSockets: async () => sockets,
  };
  const maker = testGraph({ host });
  await createImage(
    maker,
    await prepareCreate(maker, { filename: '/d', format: 'qcow2', size: 4 * MiB }),
  );
  const side = async (opensInactive: boolean): Promise<Side> => {
    const graph = testGraph({ host });
    graph.opensInactive = opensInactive;
    const disk = await graph.openBackend(
      {
        options: { driver: 'qcow2', 'node-name': 'd', file: { driver: 'file', filename: '/d' } },
        flags: { writable: true },
      },
      { perm: Perm.consistentRead | Perm.write, shared: Perm.consistentRead, name: 'drive' },
    );
    const machine = new Machine({ graph, type: 'pc', ramBytes });
    await machine.start();
    return new Side(graph, disk, machine);
  };
  const source = await side(false);
  const target = await side(true);
  target.runState = 'inmigrate';
  await source.disk.write(0, filled(MiB, 0x31));
  return { files, sockets, source, target };
}

async function go({ source, target }: Pair): Promise<void> {
  await target.migration.wait(parseUri('unix:/m'));
  source.migration.begin(parseUri('unix:/m'));
  await source.ended();
}

describe('a machine that moves', () => {
  it('has its RAM, its disk and its bitmaps at the other side, and runs there', async () => {
    const both = await pair();
    const { source, target } = both;
    const text = new TextEncoder().encode('somewhere in RAM');
    source.machine.ram.write(0x12345, text);
    source.machine.ram.write(ramBytes - 5, Uint8Array.of(1, 2, 3, 4, 5));
    target.machine.ram.write(0x777, Uint8Array.of(9));
    const init = { granularity: 65536, enabled: true };
    await addBitmap(source.disk.node, 'kept', { ...init, persistent: true });
    await addBitmap(source.disk.node, 'free', { ...init, persistent: false });
    await source.disk.write(2 * MiB, filled(3 * 65536, 0x32));
    await go(both);
    await target.ended();
    expect([...source.told, ...target.told]).toEqual([]);
    expect(source.events).toEqual(['setup', 'active', 'STOP', 'device', 'completed']);
    expect(target.events).toEqual(['setup', 'active', 'RESUME', 'completed']);
    expect([source.runState, target.runState]).toEqual(['postmigrate', 'running']);
    const seen = new Uint8Array(text.length);
    target.machine.ram.read(0x12345, seen);
    expect(seen).toEqual(text);
    const end = new Uint8Array(5);
    target.machine.ram.read(ramBytes - 5, end);
    expect(end).toEqual(Uint8Array.of(1, 2, 3, 4, 5));
    for (const name of ['kept', 'free']) {
      const bitmap = target.disk.node.dirtyBitmaps.get(name);
      expect([bitmap?.dirtyBytes, bitmap?.persistent]).toEqual([3 * 65536, name === 'kept']);
    }
    expect(await readBytes(target.disk, 2 * MiB, 16)).toEqual(new Uint8Array(16).fill(0x32));
    await target.disk.write(0, filled(512, 0x33));
    expect(await failureCode(source.disk.write(0, filled(512, 1)))).toBe('EPERM');
  });

  it('stays where it is when the stream is cut, and the image is not touched', async () => {
    const random = seededRandom();
    const whole = await pair();
    whole.source.machine.ram.write(0, new Uint8Array(MiB).fill(7));
    await go(whole);
    const total = whole.sockets.written;
    for (let round = 0; round < 6; round++) {
      const both = await pair();
      const { source, target, sockets } = both;
      source.machine.ram.write(0, new Uint8Array(MiB).fill(7));
      // In the last bytes the source cannot know whether they arrived.
      sockets.left = round === 0 ? total - 1 : random.int(0, total - END_BYTES - 1);
      await go(both);
      await target.ended();
      expect(source.events.at(-1)).toBe('failed');
      expect(source.runState).toBe(round === 0 ? 'postmigrate' : 'running');
      if (round === 0) {
        expect(source.told.join()).toMatch(/; it may have: the images stay inactive until cont$/);
        expect(await failureCode(source.disk.write(0, filled(512, 1)))).toBe('EPERM');
        await activateAll(source.graph);
      }
      expect(target.events.slice(-2)).toEqual(['failed', 'gone']);
      expect(target.disk.node.isActive).toBe(false);
      expect(hot.isZero(target.machine.ram.tryView(0, ramBytes) ?? Uint8Array.of(1))).toBe(true);
      await source.disk.write(0, filled(512, 0x34));
      expect(await readBytes(source.disk, 0, 4)).toEqual(new Uint8Array(4).fill(0x34));
    }
  }, 60_000);

  it('stays where it is when the destination does not want it or cannot have it', async () => {
    const foreign = await pair();
    const { source, target } = foreign;
    target.migration.settings.switch([{ capability: 'validate-uuid', state: true }]);
    Object.assign(target, { uuid: '00000000-0000-0000-0000-000000000001' });
    await go(foreign);
    await target.ended();
    expect([source.runState, source.told]).toEqual(['running', [NOT_TAKEN]]);
    await source.disk.write(0, filled(512, 0x34));

    const blocked = await pair();
    // Nobody can open the image anew.
    blocked.files.faults.push({ op: 'read', code: 'EIO', path: '/d', skip: 0 });
    await go(blocked);
    await blocked.target.ended();
    expect(blocked.target.disk.node.isActive).toBe(false);
    expect(blocked.source.told[0]).toMatch(new RegExp(`^${NOT_TAKEN}`));
  });

  it('waits before its images go, and can be called back there', async () => {
    const both = await pair();
    const { source } = both;
    source.migration.settings.switch([{ capability: 'pause-before-switchover', state: true }]);
    await both.target.migration.wait(parseUri('unix:/m'));
    source.migration.begin(parseUri('unix:/m'));
    await expect.poll(() => source.migration.info().status).toBe('pre-switchover');
    expect(() => {
      source.migration.begin(parseUri('unix:/m'));
    }).toThrow("There's a migration process in progress");
    source.migration.cancel();
    await source.ended();
    expect(source.events.slice(-3)).toEqual(['cancelling', 'RESUME', 'cancelled']);
    await source.disk.write(0, filled(512, 0x35));
  });

  it('cannot when the guest has used a device', async () => {
    const { source } = await pair();
    source.machine.ports.read(0x70, 1);
    expect(() => {
      source.migration.begin(parseUri('unix:/m'));
    }).toThrow("State blocked by non-migratable device 'chipset'");
    source.machine.reset();
    expect(source.migration.blocker).toBeUndefined();
  });
});

describe('a stream that is not what was written', () => {
  it('is refused, wherever a byte is another one or the end is missing', async () => {
    const random = seededRandom();
    const { source, target } = await pair();
    source.machine.ram.write(0, new Uint8Array(9000).fill(7));
    const pieces: Uint8Array[] = [];
    const writer = new StateWriter({ write: async (bytes) => void pieces.push(bytes) }, hot);
    await writer.begin();
    await saveMachine(source.machine, { uuid: '', running: true }, writer, hot);
    await writer.end();
    const whole = new Uint8Array(Buffer.concat(pieces));
    const load = async (bytes: Uint8Array): Promise<void> => {
      let at = 0;
      const read = async (out: Uint8Array): Promise<number> => {
        const part = bytes.subarray(at, at + out.length);
        out.set(part);
        at += part.length;
        return part.length;
      };
      const reader = new StateReader({ read }, hot);
      await reader.begin();
      await readAll(reader, new MachineLoader(target.machine, false), () => false);
    };
    await load(whole);
    for (let round = 0; round < 300; round++) {
      const bytes = whole.slice(
        0,
        random.chance() ? whole.length : random.int(0, whole.length - 1),
      );
      if (bytes.length === whole.length) {
        const at = random.int(0, whole.length - 1);
        bytes[at] = (bytes[at] ?? 0) ^ random.int(1, 255);
      }
      expect(await failure(load(bytes))).toMatch(/^The state of the machine cannot be loaded: /);
    }
    expect(hot.isZero(target.machine.ram.tryView(0, ramBytes) ?? Uint8Array.of(1))).toBe(true);
  });
});
