// Goal: connections in the short way carry every byte, however many there are, while the event loop
// looks for data on some of them before it sleeps; and closed ones are forgotten. Method: an echo
// over Unix sockets with clients that come and go.
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { tryNativeEngine } from '../../src/host/node/files.js';
import { nodeSockets } from '../../src/host/node/sockets.js';
import { StreamReader } from '../../src/host/stream-reader.js';
import { same, seededRandom, tempDir } from '../support/index.js';
import { withAddon } from './support.js';

withAddon('sockets that are looked at', () => {
  it.each([1, 8, 20])('%i at a time', async (count) => {
    const random = seededRandom();
    const address = { type: 'unix', path: join(tempDir(), 'echo') } as const;
    const listener = await nodeSockets.listen(
      address,
      (stream) => {
        stream.onData = (piece): void => void stream.write([piece]);
        stream.onClose = (): void => {
          stream.destroy();
        };
      },
      { plain: true },
    );
    const client = async (rounds: number): Promise<void> => {
      const stream = await nodeSockets.connect(address, undefined, { plain: true });
      const reader = new StreamReader(stream);
      for (let i = 0; i < rounds; i++) {
        const data = random.bytes(random.int(1, 5000));
        stream.write([data]);
        same(await reader.take(data.length), data);
      }
      stream.destroy();
    };
    for (let i = 0; i < 3; i++) {
      await Promise.all(Array.from({ length: count }, () => client(random.int(1, 40))));
    }
    await listener.close();
  });

  it('a peer that does not read blocks its writer, and is counted until it is gone', async () => {
    const address = { type: 'unix', path: join(tempDir(), 'deaf') } as const;
    const accepted: (() => void)[] = [];
    const taken: boolean[] = [];
    const listener = await nodeSockets.listen(
      address,
      (stream) => {
        while (stream.write([new Uint8Array(1 << 20)], (t) => void taken.push(t)));
        accepted.forEach((go) => {
          go();
        });
      },
      { plain: true },
    );
    const written = new Promise<void>((resolve) => accepted.push(resolve));
    const stream = await nodeSockets.connect(address, undefined, { plain: true });
    stream.pause();
    await written;
    const before = taken.length;
    stream.destroy();
    while (taken.length === before) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(tryNativeEngine()?.blocked).toBe(0);
    await listener.close();
  });
});
