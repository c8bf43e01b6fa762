// Goal: throttle groups let through what QEMU's would, in the order and at the times they say.
// Method: requests on a clock that the test moves; the texts of wrong limits are QEMU 10's.
import { describe, expect, it } from 'vitest';
import type { Backend, BlockGraph } from '../../src/index.js';
import type { ThrottleLimits } from '../../src/block/throttle-group.js';
import { ThrottleGroup, throttleConfig, throttleLimits } from '../../src/block/throttle-group.js';
import { parseValue } from '../../src/options/schema.js';
import {
  failure,
  FakeClock,
  FakeFiles,
  fakeHost,
  filled,
  readBytes,
  testGraph,
} from '../support/index.js';

interface Lab {
  readonly clock: FakeClock;
  readonly graph: BlockGraph;
  readonly group: ThrottleGroup;
  readonly open: (path?: string) => Promise<Backend>;
}

function lab(limits: ThrottleLimits): Lab {
  const clock = new FakeClock();
  const files = new FakeFiles();
  for (const path of ['/a', '/b', '/c']) files.put(path, 16 << 20);
  const graph = testGraph({ host: fakeHost({ files, clock }) });
  const group = new ThrottleGroup('g', clock, throttleConfig(limits));
  graph.throttleGroups.set('g', group);
  const open = (path = '/a'): Promise<Backend> =>
    graph.openBackend({
      options: {
        driver: 'throttle',
        'throttle-group': 'g',
        file: { driver: 'raw', file: { driver: 'file', filename: path } },
      },
      flags: { writable: true, unmap: true },
    });
  return { clock, graph, group, open };
}

/** Starts `n` requests at once and returns when each one ended, in milliseconds. */
async function endTimes(
  clock: FakeClock,
  n: number,
  request: (i: number) => Promise<unknown>,
): Promise<number[]> {
  const start = clock.now();
  const times: number[] = [];
  const all = Array.from({ length: n }, (_, i) =>
    request(i).then(() => {
      times[i] = Math.round(clock.now() - start);
    }),
  );
  await clock.runUntil(Promise.all(all));
  return times;
}

describe('rates', () => {
  it('operations: a tenth of a second goes through at once, then one each interval', async () => {
    const { clock, open } = lab({ 'iops-total': 100 });
    const disk = await open();
    const times = await endTimes(clock, 15, (i) => disk.write(i * 512, filled(512, 1)));
    // The bucket's brim is 10 operations; the request that steps over it still goes.
    expect(times).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 20, 30, 40]);
  });

  it('bytes: a long request is paid for by the next ones', async () => {
    const { clock, open } = lab({ 'bps-write': 1_000_000 });
    const disk = await open();
    const times = await endTimes(clock, 3, () => disk.write(0, filled(500_000, 1)));
    expect(times).toEqual([0, 400, 900]);
    // Reads are not limited.
    expect(await endTimes(clock, 2, () => readBytes(disk, 0, 4 << 20))).toEqual([0, 0]);
  });

  it('totals count both directions, iops-size counts long requests as several', async () => {
    const { clock, open } = lab({ 'iops-total': 10, 'iops-size': 4096 });
    const disk = await open();
    const times = await endTimes(clock, 3, (i) =>
      i % 2 === 0 ? disk.write(0, filled(16384, 1)) : readBytes(disk, 0, 8192),
    );
    // 4 operations against a brim of 1: each direction waits for 300 ms.
    expect(times).toEqual([0, 300, 300]);
    // What they added, 2 and 4, is paid for by the next.
    expect((await endTimes(clock, 1, () => readBytes(disk, 0, 512)))[0]).toBe(600);
  });

  it('a burst goes at its own rate for its length, then the average holds', async () => {
    const { clock, open } = lab({
      'iops-total': 100,
      'iops-total-max': 1000,
      'iops-total-max-length': 2,
    });
    const disk = await open();
    const times = await endTimes(clock, 2500, () => disk.writeZeroes(0, 512));
    const within = (ms: number): number => times.filter((t) => t <= ms).length;
    expect(within(0)).toBe(101);
    expect(Math.abs(within(1000) - 1100)).toBeLessThan(5);
    // About 2000 operations of level, leaking 100 a second meanwhile.
    expect(Math.abs(within(2000) - 2100)).toBeLessThan(15);
    expect(Math.abs(within(3000) - within(2300) - 70)).toBeLessThan(3);
  });

  it.each(['total', 'read', 'write'] as const)('bytes (%s) have their own burst', async (kind) => {
    const { clock, open } = lab({
      [`bps-${kind}`]: 1_000_000,
      [`bps-${kind}-max`]: 10_000_000,
      [`bps-${kind}-max-length`]: 2,
    });
    const disk = await open();
    const request = (): Promise<unknown> =>
      kind === 'read' ? readBytes(disk, 0, 100_000) : disk.write(0, filled(100_000, 1));
    const times = await endTimes(clock, 250, request);
    const within = (ms: number): number => times.filter((t) => t <= ms).length;
    // 100 requests a second for two seconds, less what goes at the average meanwhile; then 10.
    const burst = within(2000);
    expect(burst).toBeGreaterThan(190);
    expect(burst).toBeLessThan(230);
    expect(within(4000) - within(3000)).toBe(10);
  });

  it('an idle group gathers no credit beyond its brim', async () => {
    const { clock, open } = lab({ 'iops-total': 10 });
    const disk = await open();
    await clock.advance(60_000);
    const times = await endTimes(clock, 4, () => disk.write(0, filled(512, 1)));
    expect(times).toEqual([0, 0, 100, 200]);
  });
});

describe('groups', () => {
  it('share one budget, and their members take turns', async () => {
    const { clock, open } = lab({ 'iops-total': 10 });
    const disks = await Promise.all([open('/a'), open('/b'), open('/c')]);
    const order: number[] = [];
    const all = [0, 0, 0, 0, 0, 1, 1, 2, 2].map((d) =>
      disks[d]!.write(0, filled(512, 1)).then(() => order.push(d)),
    );
    await clock.runUntil(Promise.all(all));
    expect(order).toEqual([0, 0, 0, 1, 2, 0, 1, 2, 0]);
    expect(clock.now()).toBeCloseTo(700, 0);
  });

  it('new limits hold at once for what waits', async () => {
    const { clock, open, group } = lab({ 'iops-total': 1 });
    const disk = await open();
    const all = Array.from({ length: 5 }, () => disk.write(0, filled(512, 1)));
    await clock.advance(0);
    group.config = throttleConfig({ 'iops-total': 1000 });
    await clock.runUntil(Promise.all(all));
    expect(clock.now()).toBeLessThan(10);
  });

  it('a drained node does not make anyone wait, and closing lets everything go', async () => {
    const { clock, open, graph } = lab({ 'iops-total': 1 });
    const disk = await open();
    const all = Array.from({ length: 5 }, () => disk.write(0, filled(512, 1)));
    await graph.drainBegin(disk.node.file!.node);
    await Promise.all(all);
    graph.drainEnd(disk.node.file!.node);
    const more = Array.from({ length: 3 }, () => disk.write(0, filled(512, 1)));
    await disk.detach();
    await Promise.all(more);
    expect(clock.now()).toBe(0);
  });
});

describe('errors', () => {
  it('names the missing group', async () => {
    const { graph } = lab({});
    const file = { driver: 'file', filename: '/a' };
    expect(await failure(graph.open({ options: { driver: 'throttle', file } }))).toBe(
      'Please specify a throttle group',
    );
    const options = { driver: 'throttle', file, 'throttle-group': 'x' };
    expect(await failure(graph.open({ options }))).toBe("Throttle group 'x' does not exist");
  });

  it.each([
    [
      { 'iops-total': 10, 'iops-read': 1 },
      'bps/iops/max total values and read/write values cannot be used at the same time',
    ],
    [{ 'iops-size': 10 }, 'iops size requires an iops value to be set'],
    [
      { 'iops-total': 1000000000000001 },
      'bps/iops/max values must be within [0, 1000000000000000]',
    ],
    [{ 'bps-read': -5 }, 'bps/iops/max values must be within [0, 1000000000000000]'],
    [{ 'iops-total-max-length': 0 }, 'the burst length cannot be 0'],
    [{ 'iops-total': 10, 'iops-total-max-length': 2 }, 'burst length set without burst rate'],
    [{ 'iops-total-max': 5 }, 'bps_max/iops_max require corresponding bps/iops values'],
    [{ 'iops-total': 10, 'iops-total-max': 5 }, 'bps_max/iops_max cannot be lower than bps/iops'],
    [
      { 'iops-total': 10, 'iops-total-max': 5e14, 'iops-total-max-length': 100 },
      'burst length too high for this burst rate',
    ],
  ])('%j is refused', (limits, message) => {
    const parsed = parseValue(throttleLimits, limits, { from: 'qmp' });
    expect(() => throttleConfig(parsed)).toThrow(message);
  });
});
