// Goal: null-co and null-aio are as long as size says, take as long as latency-ns says, and give
// zeroes when read-zeroes is on. Method: requests on a clock that the test moves.
import { describe, expect, it } from 'vitest';
import type { NodeOptions } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import { nodeStatus } from '../../src/block/status.js';
import { FakeClock, fakeHost, filled, readBytes, testGraph } from '../support/index.js';

const MiB = 1024 * 1024;

async function open(own: NodeOptions) {
  const clock = new FakeClock();
  const graph = testGraph({ host: fakeHost({ clock }) });
  const disk = await graph.openBackend({ options: own, flags: { writable: true, unmap: true } });
  return { clock, disk };
}

describe.each(['null-co', 'null-aio'])('%s', (driver) => {
  it('is as long as size says, 1 GiB without', async () => {
    expect((await open({ driver, size: 3 * MiB })).disk.size).toBe(3 * MiB);
    expect((await open({ driver })).disk.size).toBe(1024 * MiB);
  });

  it('reads leave the buffer, with read-zeroes they fill it', async () => {
    for (const [on, byte] of [
      [false, 7],
      [true, 0],
    ] as const) {
      const { disk } = await open({ driver, 'read-zeroes': on });
      await disk.write(0, filled(512, 1));
      const buffer = new Uint8Array(512).fill(7);
      await disk.read(0, Iov.of(buffer));
      expect(new Set(buffer)).toEqual(new Set([byte]));
      const { zero, allocated } = await nodeStatus(disk.node, 0, 512, true);
      expect([zero, allocated]).toEqual([on, on]);
    }
  });

  it('each request takes its latency', async () => {
    const { clock, disk } = await open({ driver, 'latency-ns': 5_000_000 });
    const requests: Readonly<Record<string, () => Promise<unknown>>> = {
      read: () => readBytes(disk, 0, 512),
      write: () => disk.write(0, filled(512, 1)),
      zeroes: () => disk.writeZeroes(0, 512),
      flush: () => disk.flush(),
    };
    for (const [name, request] of Object.entries(requests)) {
      const start = clock.now();
      await clock.runUntil(request().then(() => undefined));
      expect(clock.now() - start, name).toBe(5);
    }
  });
});
