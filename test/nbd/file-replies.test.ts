// Goal: long reads that go from a file to the socket uncopied bring the right bytes, hold nothing
// of the image for a client that does not read, and end with their connection. Method: a server on
// a real socket over real files; clients by hand that read slowly, not at all, or leave.
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { NbdExport } from '../../src/export/nbd/export.js';
import { NbdServer } from '../../src/export/nbd/server.js';
import type { ByteStream, SocketAddress } from '../../src/host/socket.js';
import { nodeSockets } from '../../src/host/node/sockets.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import { nodeHost } from '../../src/index.js';
import { NbdCmd, NbdCmdFlag } from '../../src/wire/nbd.js';
import { binPath, runOk, same, seededRandom, tempDir, testGraph } from '../support/index.js';
import { withAddon } from '../native/support.js';
import { RawClient, request } from './support.js';

const KiB = 1024;
const BYTES = 8 * 1024 * KiB;

interface Files {
  readonly server: NbdServer;
  readonly backend: Backend;
  readonly address: SocketAddress;
  /** Bytes that went uncopied so far. */
  uncopied(): number;
}

async function serveFile(options: NodeOptions, writable: boolean): Promise<Files> {
  const graph = testGraph({ host: nodeHost() });
  const backend = await graph.openBackend({ options, flags: { writable } });
  const server = new NbdServer({ sockets: nodeSockets, clock: nodeHost().clock });
  server.add(new NbdExport({ name: '', backend, writable, multiConn: true }));
  const path = join(tempDir(), 'nbd.sock');
  let uncopied = 0;
  const listener = await nodeSockets.listen(
    { type: 'unix', path },
    (stream) => {
      server.accept(counted(stream, (bytes) => (uncopied += bytes)));
    },
    { plain: true },
  );
  onTestFinished(async () => {
    await listener.close();
    await server.close();
    await backend.close();
    await graph.close();
  });
  return { server, backend, address: { type: 'unix', path }, uncopied: () => uncopied };
}

/** Tells of what the stream sends from files. */
function counted(stream: ByteStream, count: (bytes: number) => void): ByteStream {
  const trySendFile = stream.trySendFile?.bind(stream);
  if (trySendFile === undefined) return stream;
  return Object.assign(stream, {
    trySendFile: (...args: Parameters<typeof trySendFile>): number => {
      const sent = trySendFile(...args);
      count(sent);
      return sent;
    },
  });
}

async function enter(
  files: Files,
  style: 'simple' | 'structured' | 'extended',
): Promise<RawClient> {
  const client = new RawClient(
    await nodeSockets.connect(files.address, undefined, { plain: true }),
  );
  onTestFinished(() => {
    client.stream.destroy();
  });
  await client.enter(style);
  return client;
}

/** Asks; the reply is known by the offset. */
function read(client: RawClient, offset: number, length: number, flags = 0): void {
  const asked = { offset, length, flags, cookieLow: offset };
  client.send(request(NbdCmd.read, asked, client.extended));
}

/** Reads everything in pieces of `step` bytes, four in flight, and compares. */
async function readAll(client: RawClient, data: Uint8Array, step: number): Promise<void> {
  const length = (offset: number): number => Math.min(step, data.length - offset);
  for (let at = 0; at < data.length; at += 4 * step) {
    const parts = [0, 1, 2, 3].map((i) => at + i * step).filter((o) => o < data.length);
    for (const offset of parts) read(client, offset, length(offset));
    for (let i = 0; i < parts.length; i++) await expectPart(client, data, length);
  }
}

/** The next reply brings the bytes at the offset that its cookie says. */
async function expectPart(
  client: RawClient,
  data: Uint8Array,
  length: (offset: number) => number,
): Promise<void> {
  // Simple replies do not tell their length: those of a test are alike but for the last.
  const { payload, errno, cookie, type } = await client.answer(length(0));
  expect(errno).toBe(0);
  const got = type === undefined ? payload : payload.subarray(8);
  same(got, data.subarray(cookie, cookie + length(cookie)));
}

function disk(): { path: string; data: Uint8Array } {
  const path = join(tempDir(), 'disk.raw');
  const data = seededRandom().bytes(BYTES);
  writeFileSync(path, data);
  return { path, data };
}

const rawOf = (path: string): NodeOptions => ({
  driver: 'raw',
  file: { driver: 'file', filename: path },
});

/** A client that asks for all, in whole pieces, and does not take the replies. */
async function deaf(files: Files): Promise<RawClient> {
  const client = await enter(files, 'structured');
  client.stream.pause();
  for (let i = 0; i < 8; i++) read(client, i * 1024 * KiB, 1024 * KiB, NbdCmdFlag.df);
  return client;
}

withAddon('replies from files', () => {
  it.each(['simple', 'structured', 'extended'] as const)('bring the bytes (%s)', async (style) => {
    const { path, data } = disk();
    const files = await serveFile(rawOf(path), true);
    await deaf(files);
    const clients = await Promise.all([1, 2, 3].map(() => enter(files, style)));
    const steps = [262_144, style === 'simple' ? 131_072 : 100_003, 1_048_576];
    await Promise.all(clients.map((c, i) => readAll(c, data, steps[i]!)));
    expect(files.uncopied()).toBeGreaterThan(BYTES / 2);
  });

  it('a read-only qcow2 image goes so too, and one whose file ends early', async () => {
    const { path, data } = disk();
    const image = path.replace('.raw', '.qcow2');
    const args = ['convert', '-f', 'raw', '-O', 'qcow2', path, image];
    await runOk(binPath('vdisk-img'), args);
    const options = { driver: 'qcow2', file: { driver: 'file', filename: image } };
    const files = await serveFile(options, false);
    await deaf(files);
    await readAll(await enter(files, 'structured'), data, 262_144);
    expect(files.uncopied()).toBeGreaterThan(BYTES / 2);

    const odd = await serveFile(rawOf(path), false);
    await deaf(odd);
    truncateSync(path, BYTES - 100_000);
    data.fill(0, BYTES - 100_000);
    await readAll(await enter(odd, 'simple'), data, 262_144);
  });

  it('a client that reads slowly gets all, and what was answered meanwhile', async () => {
    const { path, data } = disk();
    const files = await serveFile(rawOf(path), true);
    const slow = await deaf(files);
    const other = await deaf(files);
    slow.send(request(NbdCmd.flush, { cookieLow: BYTES }));
    await new Promise((resolve) => setTimeout(resolve, 20));
    slow.stream.resume();
    other.stream.resume();
    const answers = [...Array<RawClient>(9).fill(slow), ...Array<RawClient>(8).fill(other)];
    const seen: number[] = [];
    for (const client of answers) {
      const { cookie, payload, errno } = await client.answer();
      expect(errno).toBe(0);
      seen.push(cookie);
      if (cookie < BYTES) same(payload.subarray(8), data.subarray(cookie, cookie + 1024 * KiB));
    }
    expect(
      seen
        .slice(0, 9)
        .toSorted((x, y) => x - y)
        .at(-1),
    ).toBe(BYTES);
    expect(new Set(seen).size).toBe(9);
    expect(files.uncopied()).toBeGreaterThan(1024 * KiB);
  });

  it('the image can be drained and let go while replies wait for their clients', async () => {
    const { path } = disk();
    const files = await serveFile(rawOf(path), true);
    await deaf(files);
    await deaf(files);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await files.backend.drainBegin();
    expect(files.backend.inFlight).toBe(0);
    files.backend.drainEnd();
  });

  it('clients that leave in the middle take nothing with them', async () => {
    const { path, data } = disk();
    const files = await serveFile(rawOf(path), true);
    for (let round = 0; round < 5; round++) {
      const clients = await Promise.all([1, 2, 3].map(() => deaf(files)));
      await new Promise((resolve) => setTimeout(resolve, 5));
      for (const client of clients) client.stream.destroy();
    }
    await deaf(files);
    await readAll(await enter(files, 'simple'), data, 524_288);
    while (files.server.clients > 2) await new Promise((resolve) => setTimeout(resolve, 5));
  });

  it('a read that fails behind its header ends that connection alone', async () => {
    const { path, data } = disk();
    const files = await serveFile(rawOf(path), true);
    await deaf(files);
    const victim = await deaf(files);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { backend } = files;
    const own = { read: backend.read.bind(backend), run: backend.tryFileRun.bind(backend) };
    backend.read = () => Promise.reject(new Error('no such luck'));
    backend.tryFileRun = () => undefined;
    const { reader } = victim;
    const ended = new Promise((resolve) => (reader.onEnd = resolve));
    reader.setPush(() => {
      reader.queue.drop(reader.queue.length);
    });
    victim.stream.resume();
    await ended;
    backend.read = own.read;
    backend.tryFileRun = own.run;
    await readAll(await enter(files, 'simple'), data, 262_144);
  });
});
