// Goal: a connection that breaks is made anew; requests wait as long as reconnect-delay says,
// opening tries as long as open-timeout says, and nothing is lost or read wrong on the way.
// Method: a server over simulated sockets that goes away and comes back, under a clock that the
// test moves.
import { describe, expect, it } from 'vitest';
import { NbdExport } from '../../src/export/nbd/export.js';
import { NbdServer } from '../../src/export/nbd/server.js';
import type { Backend, NodeOptions } from '../../src/index.js';
import { Iov } from '../../src/index.js';
import {
  failure,
  FakeClock,
  FakeSockets,
  filled,
  Random,
  readBytes,
  same,
  settle,
  testGraph,
  testSeed,
} from '../support/index.js';
import { address, openClient } from './support.js';

const KiB = 1024;

/** A server that can be killed and started again over one disk. */
class Mortal {
  readonly sockets: FakeSockets;
  readonly clock = new FakeClock();
  disk!: Backend;
  #server: NbdServer | undefined;
  #streams: { destroy(): void }[] = [];

  constructor(random?: Random) {
    this.sockets = new FakeSockets(random);
  }

  static async create(bytes = 1024 * KiB, random?: Random): Promise<Mortal> {
    const mortal = new Mortal(random);
    mortal.disk = await testGraph().openBackend({
      options: { driver: 'memory', size: bytes },
      flags: { writable: true },
    });
    return mortal;
  }

  async start(backend = this.disk): Promise<void> {
    // Its own clock stands still: how long a handshake takes is not what these tests are about.
    const server = new NbdServer({ sockets: this.sockets, clock: new FakeClock() });
    server.add(new NbdExport({ name: '', backend, writable: true, multiConn: false }));
    this.#server = server;
    await this.sockets.listen(address, (stream) => {
      this.#streams.push(stream);
      server.accept(stream);
    });
  }

  /** As SIGKILL: connections break, nobody listens. */
  kill(): void {
    this.#server = undefined;
    this.sockets.forget(address);
    for (const stream of this.#streams.splice(0)) stream.destroy();
  }

  get isUp(): boolean {
    return this.#server !== undefined;
  }

  /** Time goes by; what happens over the sockets takes none of it. */
  async pass(ms: number): Promise<void> {
    for (let at = 0; at < ms; at += 100) {
      await this.clock.advance(Math.min(100, ms - at));
      for (let i = 0; i < 20; i++) await settle();
    }
  }

  open(options: NodeOptions): Promise<Backend> {
    return openClient(this.sockets, options, this.clock);
  }
}

describe('reconnect-delay', () => {
  it('requests in flight and new ones wait, and are served when the server is back', async () => {
    const mortal = await Mortal.create();
    await mortal.start();
    const client = await mortal.open({ 'reconnect-delay': 10 });
    await client.write(0, filled(4096, 1));
    const before = client.write(4096, filled(4096, 2));
    mortal.kill();
    await settle();
    const after = readBytes(client, 0, 4096);
    let done = false;
    void after.then(() => (done = true));
    await mortal.pass(5000);
    expect(done).toBe(false);
    await mortal.start();
    await mortal.pass(5000);
    await before;
    same(await after, new Uint8Array(4096).fill(1));
    same(await readBytes(client, 4096, 4096), new Uint8Array(4096).fill(2));
    await client.detach();
  });

  it('when the time is over they fail, and so do later ones, until it is back', async () => {
    const mortal = await Mortal.create();
    await mortal.start();
    const client = await mortal.open({ 'reconnect-delay': 2 });
    mortal.kill();
    await settle();
    const waiting = failure(client.write(0, filled(512, 1)));
    await mortal.pass(2001);
    expect(await waiting).toContain('Input/output error');
    expect(await failure(client.write(0, filled(512, 1)))).toContain('Input/output error');
    await mortal.start();
    await mortal.pass(20_000);
    await client.write(0, filled(512, 3));
    same(await readBytes(mortal.disk, 0, 512), new Uint8Array(512).fill(3));
    await client.detach();
  });

  it('without it requests fail at once; a later one finds the new server', async () => {
    const mortal = await Mortal.create();
    await mortal.start();
    const client = await mortal.open({});
    const inFlight = failure(client.write(0, filled(4096, 1)));
    mortal.kill();
    expect(await inFlight).toContain('Input/output error');
    expect(await failure(readBytes(client, 0, 512))).toContain('Input/output error');
    await mortal.start();
    await mortal.pass(20_000);
    same(await readBytes(client, 0, 1), new Uint8Array([0]));
    await client.detach();
  });

  it('a server that comes back with another size is not used', async () => {
    const mortal = await Mortal.create();
    const other = await Mortal.create(512 * KiB);
    await mortal.start();
    const client = await mortal.open({ 'reconnect-delay': 3 });
    mortal.kill();
    await settle();
    await mortal.start(other.disk);
    const read = failure(readBytes(client, 0, 512));
    await mortal.pass(4000);
    expect(await read).toContain('Input/output error');
    mortal.kill();
    await mortal.start();
    await mortal.pass(40_000);
    await readBytes(client, 0, 512);
    await client.detach();
  });

  it('closing does not wait for the server', async () => {
    const mortal = await Mortal.create();
    await mortal.start();
    const client = await mortal.open({ 'reconnect-delay': 1000 });
    mortal.kill();
    await settle();
    await client.detach();
    await client.graph.close();
  });

  it('a server that dies again and again loses and garbles nothing', async () => {
    const random = new Random(testSeed());
    const mortal = await Mortal.create(256 * KiB, random);
    await mortal.start();
    const client = await mortal.open({ 'reconnect-delay': 1000 });
    const model = new Uint8Array(256 * KiB);
    for (let round = 0; round < 15; round++) {
      const work: Promise<unknown>[] = [];
      for (let i = 0; i < 16; i++) {
        const at = i * 16 * KiB + random.int(0, 8 * KiB);
        const bytes = random.int(1, 8 * KiB);
        if (random.chance()) {
          const data = random.bytes(bytes);
          model.set(data, at);
          work.push(client.write(at, Iov.of(data)));
        } else {
          const want = model.slice(at, at + bytes);
          work.push(
            readBytes(client, at, bytes).then((got) => {
              same(got, want);
            }),
          );
        }
      }
      for (let n = random.int(0, 3); n > 0; n--) await new Promise((go) => setImmediate(go));
      mortal.kill();
      await mortal.pass(random.int(0, 500));
      await mortal.start();
      const all = Promise.all(work);
      void all.catch(() => undefined);
      await mortal.pass(1000);
      await all;
    }
    same(await readBytes(client, 0, model.length), model);
    same(await readBytes(mortal.disk, 0, model.length), model);
    await client.detach();
  });
});

describe('open-timeout', () => {
  it('opening tries until the server is there', async () => {
    const mortal = await Mortal.create();
    const opening = mortal.open({ 'open-timeout': 10 });
    void opening.catch(() => undefined);
    await mortal.pass(4000);
    await mortal.start();
    await mortal.pass(1000);
    const client = await opening;
    expect(client.size).toBe(1024 * KiB);
    await client.detach();
  });

  it('fails with the last error when the time is over, at once without it', async () => {
    const mortal = await Mortal.create();
    expect(await failure(mortal.open({}))).toContain('Failed to connect');
    const opening = failure(mortal.open({ 'open-timeout': 2 }));
    await mortal.pass(1900);
    expect(mortal.isUp).toBe(false);
    await mortal.pass(500);
    expect(await opening).toContain('Failed to connect');
  });
});
