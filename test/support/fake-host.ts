/** A host for tests: simulated files and clock, seeded random bytes, the real codecs. */
import type { Host } from '../../src/host/host.js';
import { nodeHost } from '../../src/host/node/index.js';
import { FakeClock } from './fake-clock.js';
import { FakeFiles } from './fake-files.js';
import { Random } from './random.js';

export { FakeClock, settle } from './fake-clock.js';
export { FakeDisk, type CutStyle } from './fake-disk.js';
export { FakeFiles, slowWrites, type Fault, type FakeOp } from './fake-files.js';

export interface FakeHostInit {
  readonly files?: FakeFiles;
  readonly clock?: FakeClock;
  readonly seed?: number;
}

export interface FakeHost extends Host {
  readonly files: FakeFiles;
  readonly clock: FakeClock;
}

/** A host over `files`; pass the same clock again after a simulated restart if it should go on. */
export function fakeHost(init: FakeHostInit = {}): FakeHost {
  const random = new Random(init.seed ?? 1);
  return {
    ...nodeHost(),
    files: init.files ?? new FakeFiles({ seed: init.seed ?? 1 }),
    clock: init.clock ?? new FakeClock(),
    random: {
      fill(out: Uint8Array): void {
        random.fill(out);
      },
    },
  };
}
