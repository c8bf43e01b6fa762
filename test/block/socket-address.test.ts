// Goal: a listener takes the first free port of the range that its address allows, and says so
// when there is none. Method: real sockets on the loopback interface beside one that listens.
import { expect, it, onTestFinished } from 'vitest';
import { nodeSockets } from '../../src/host/node/sockets.js';
import type { SocketAddress } from '../../src/host/socket.js';
import { toAddress } from '../../src/block/socket-address.js';
import { failure } from '../support/index.js';

async function listen(address: SocketAddress): Promise<number> {
  const listener = await nodeSockets.listen(address, (stream) => {
    stream.destroy();
  });
  onTestFinished(() => listener.close());
  if (listener.address.type !== 'inet') throw new Error('not an inet address');
  return Number(listener.address.port);
}

const local = { type: 'inet', host: '127.0.0.1', numeric: true } as const;

it('takes the next free port up to `to`', async () => {
  const first = await listen(toAddress({ ...local, port: '0' }));
  const to = Math.min(65535, first + 200);
  const next = await listen(toAddress({ ...local, port: String(first), to }));
  expect(next).toBeGreaterThan(first);
  expect(next).toBeLessThanOrEqual(to);
});

it('fails when none is free', async () => {
  const first = await listen(toAddress({ ...local, port: '0' }));
  const range = toAddress({ ...local, port: String(first), to: first });
  expect(await failure(listen(range))).toBe(
    'Failed to find an available port: Address already in use',
  );
});
