/**
 * A disk that guests write while jobs are started, disturbed and ended, and the graph is changed.
 *
 * Faults: some images lie on blkdebug, which fails one request to a random place once. Guests try
 * again; a job does what its policy says. What a monitor refuses (a node is in use, say) is counted
 * and no failure: which commands are refused when is the concern of other tests.
 */
import { join } from 'node:path';
import { Backend } from '../../src/block/backend.js';
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { BlockNode } from '../../src/block/node.js';
import { below, skipFilters } from '../../src/block/status.js';
import { Perm } from '../../src/block/types.js';
import type { Client, Message } from '../qmp/support.js';
import { TestMonitor } from '../qmp/support.js';
import type { Random } from '../support/index.js';
import { readBytes } from '../support/index.js';
import { BLOCK, compareBlocks, Guests } from './job-guests.js';

const BLOCKS = 2048;
const SIZE = BLOCK * BLOCKS;
const SECTORS = SIZE / 512;
const WRITERS = 4;

/** A job, and what its target must hold in the end. */
interface Running {
  readonly kind: string;
  readonly target?: string;
  /** What a mirror copies: another one's pivot takes the disk away from it. */
  readonly source?: string;
  /** The disk when the backup began. */
  readonly expected?: Uint8Array;
  readonly done?: (failed: boolean) => void;
}

/** A full backup and the bitmap of what was written since. */
interface Series {
  readonly node: string;
  readonly bitmap: string;
  readonly target: string;
  hasFull: boolean;
}

export interface JobInfo {
  readonly id: string;
  readonly status: string;
  readonly error?: string;
}

export class World {
  readonly random: Random;
  readonly counts: Record<string, number> = {};
  readonly jobs = new Map<string, Running>();
  readonly #dir: string;
  readonly #monitor = new TestMonitor();
  readonly #paths = new Map<string, string>();
  readonly #raw = new Set<string>();
  /** How each image was made, for the message of a failure. */
  readonly #made = new Map<string, string>();
  #client: Client | undefined;
  #disk: Backend | undefined;
  #guests: Guests | undefined;
  #next = 0;
  series: Series | undefined;
  readonly history: string[] = [];

  constructor(random: Random, dir: string) {
    this.random = random;
    this.#dir = dir;
  }

  get guests(): Guests {
    if (this.#guests === undefined) throw new Error('not begun');
    return this.#guests;
  }

  get disk(): Backend {
    if (this.#disk === undefined) throw new Error('not begun');
    return this.#disk;
  }

  get client(): Client {
    if (this.#client === undefined) throw new Error('not begun');
    return this.#client;
  }

  async begin(): Promise<void> {
    this.#client = await this.#monitor.connect();
    const { graph } = this.#monitor;
    await this.client.ok('nbd-server-start', {
      addr: { type: 'unix', data: { path: join(this.#dir, 'sock') } },
    });
    const first = await this.addImage({ below: undefined });
    const perm = Perm.consistentRead | Perm.write;
    this.#disk = new Backend({ graph, name: '', perm, shared: Perm.all });
    const node = await graph.open({ reference: first });
    await this.#disk.attach(node);
    await graph.release(node);
    this.#guests = new Guests(this.#disk, BLOCKS, WRITERS, this.random.uint32());
  }

  fresh(prefix: string): string {
    return `${prefix}${String(this.#next++)}`;
  }

  count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  path(node: string): string {
    return this.#paths.get(node) ?? join(this.#dir, `${node}.img`);
  }

  format(node: string): 'qcow2' | 'raw' {
    return this.#raw.has(node) ? 'raw' : 'qcow2';
  }

  /** The images below the guests, the active one first, without filters. */
  chain(): string[] {
    const names: string[] = [];
    let at: BlockNode | undefined = skipFilters(this.disk.node);
    while (at !== undefined) {
      names.push(at.name);
      const next = below(at);
      at = next === undefined ? undefined : skipFilters(next);
    }
    return names;
  }

  get active(): string {
    return this.chain()[0] ?? '';
  }

  /** Sends a command; whether it was taken. */
  async try(command: string, args: Message, what = command): Promise<boolean> {
    const sent = `${command} ${JSON.stringify(args)}`;
    this.history.push(sent);
    const reply = await this.client.execute(command, args);
    const taken = 'return' in reply;
    if (!taken) this.history.push(`refused: ${sent}: ${JSON.stringify(reply['error'])}`);
    this.count(taken ? what : `${what}, refused`);
    return taken;
  }

  /** Makes an image and opens it; its name. `below`: node that it stands on. */
  async addImage(init: {
    readonly below: string | undefined;
    readonly format?: 'qcow2' | 'raw';
    readonly attach?: boolean;
  }): Promise<string> {
    const { graph } = this.#monitor;
    const { format = 'qcow2' } = init;
    const name = this.fresh('n');
    const filename = this.path(name);
    this.#paths.set(name, filename);
    if (format === 'raw') this.#raw.add(name);
    const cluster = this.random.pick(['4k', '64k']);
    const optionTexts = format === 'raw' ? [] : [`cluster_size=${cluster}`];
    const under =
      init.below === undefined
        ? {}
        : { backingFile: this.path(init.below), backingFormat: this.format(init.below) };
    const request = { filename, format, size: SIZE, optionTexts, ...under };
    await createImage(graph, await prepareCreate(graph, request));
    const backing = init.attach === true ? { backing: init.below } : {};
    const none = format === 'raw' || init.attach === true ? {} : { backing: null };
    const options = {
      driver: format,
      'node-name': name,
      file: this.#file(filename),
      discard: this.random.pick(['unmap', 'ignore']),
      ...backing,
      ...none,
    };
    this.#made.set(name, `${JSON.stringify(options)}, clusters of ${cluster}`);
    await this.client.ok('blockdev-add', options);
    return name;
  }

  /** The file of an image, where now and then a request fails. */
  #file(filename: string): Message {
    const { random } = this;
    const file = { driver: 'file', filename };
    if (random.chance(0.4)) return file;
    const faults = Array.from({ length: random.int(1, 12) }, () => ({
      event: 'none',
      iotype: random.pick(['read', 'write', 'write', 'write-zeroes', 'flush']),
      errno: random.pick([5, 5, 28]),
      sector: random.int(1024, SECTORS),
      once: true,
    }));
    const rules = faults.map(({ sector, ...rule }) =>
      rule.iotype === 'flush' ? rule : { ...rule, sector },
    );
    return { driver: 'blkdebug', image: file, 'inject-error': rules };
  }

  /** Options of a new job. */
  jobOptions(): { readonly 'job-id': string } & Message {
    const { random } = this;
    const speed = random.pick([0, SIZE, SIZE * 4, SIZE * 16]);
    return {
      'job-id': this.fresh('j'),
      speed,
      'auto-finalize': random.chance(0.8),
      'auto-dismiss': false,
    };
  }

  /** Starts a job; whether it runs. */
  async start(command: string, args: Message, running: Running): Promise<boolean> {
    const started = await this.try(command, args, `start ${running.kind}`);
    if (started) this.jobs.set(String(args['job-id']), running);
    return started;
  }

  /** A pivot that came just before a backup of `node` leaves nothing to compare it with. */
  forgetIfMoved(id: string, node: string): void {
    const running = this.jobs.get(id);
    if (running === undefined || this.active === node) return;
    this.jobs.set(id, { kind: running.kind, target: running.target ?? '' });
    this.series = undefined;
  }

  /** Who waits for whom, for the message of a failure. */
  picture(): string {
    const { graph, jobs } = this.#monitor;
    const nodes = [...graph.nodes.values()].map((node) => {
      const below = [...node.children.values()].map((edge) => `${edge.name}=${edge.node.name}`);
      return `${node.name} ${node.driver.name} quiesced ${String(node.quiesced)}: ${below.join()}`;
    });
    const all = jobs.all.map(
      (job) => `${job.id} ${job.status} busy ${String(job.isBusy)} held ${String(job.isHeld)}`,
    );
    return [...nodes, ...all, `guests: ${String(this.disk.inFlight)} in flight`].join('\n');
  }

  async query(): Promise<readonly JobInfo[]> {
    return (await this.client.ok('query-jobs')) as JobInfo[];
  }

  /** Looks for jobs that are over and judges what they made. */
  async reap(): Promise<void> {
    for (const { id, status, error } of await this.query()) {
      if (status !== 'concluded') continue;
      const running = this.jobs.get(id);
      if (!(await this.try('job-dismiss', { id }))) continue;
      this.jobs.delete(id);
      if (running === undefined) continue;
      const failed = error !== undefined;
      this.count(`${running.kind} ${failed ? 'failed' : 'done'}`);
      const { target, expected } = running;
      if (!failed && target !== undefined && expected !== undefined) {
        const image = this.#made.get(target) ?? '';
        const since = this.history.findIndex((line) => line.includes(`"${id}"`));
        await this.compare(target, expected, `${running.kind} ${id} to ${image}`).catch(
          (e: unknown) => {
            throw new Error(this.history.slice(since).join('\n'), { cause: e });
          },
        );
      }
      running.done?.(failed);
    }
  }

  /** Throws when what a node shows is not what it should. */
  async compare(node: string, expected: Uint8Array, what: string): Promise<void> {
    const { graph } = this.#monitor;
    const found = await graph.open({ reference: node });
    const disk = new Backend({ graph, name: '', perm: Perm.consistentRead, shared: Perm.all });
    await disk.attach(found);
    await graph.release(found);
    for (let left = 16; ; left--) {
      const got = await readBytes(disk, 0, SIZE).catch((e: unknown) => {
        if (left === 0) throw e;
      });
      if (got === undefined) continue;
      compareBlocks(got, expected, 0, what);
      break;
    }
    await disk.close();
  }

  /** Deletes the images that nobody uses. */
  async sweep(): Promise<void> {
    const used = new Set([...this.chain(), this.series?.target]);
    for (const { target } of this.jobs.values()) used.add(target);
    for (const name of [...this.#paths.keys()].reverse()) {
      if (used.has(name)) continue;
      if (await this.try('blockdev-del', { 'node-name': name })) this.#paths.delete(name);
    }
  }

  /** Ends guests and jobs, and judges what is on the disk when it is opened anew. */
  async end(): Promise<void> {
    await this.#endJobs();
    await this.guests.stop();
    await this.disk.flush().catch(() => this.disk.flush());
    const filename = this.path(this.active);
    const format = this.format(this.active);
    await this.disk.close();
    const { model } = this.guests;
    await this.#monitor.close();
    const again = new TestMonitor();
    const options = { driver: format, file: { driver: 'file', filename } };
    const back = await again.graph.openBackend({ options, flags: { writable: true } });
    compareBlocks(await readBytes(back, 0, SIZE), model, 0, 'the disk opened again');
    for (let at: BlockNode | undefined = back.node; at !== undefined; at = below(at)) {
      const result = await at.instance.check?.({
        fixErrors: false,
        fixLeaks: false,
        report: () => undefined,
      });
      const corruptions = result?.corruptions ?? 0;
      if (corruptions > 0) throw new Error(`${at.filename}: ${String(corruptions)} corruptions`);
    }
    await back.detach();
    await again.close();
  }

  async #endJobs(): Promise<void> {
    for (let left = 3000; ; left--) {
      await this.reap();
      this.guests.throwIfFailed();
      const jobs = await this.query();
      if (jobs.length === 0) return;
      if (left === 0) {
        const last = [JSON.stringify(jobs), this.picture(), ...this.history.slice(-4)];
        throw new Error(`jobs do not end: ${last.join('\n')}`);
      }
      for (const { id, status } of jobs) {
        if (status === 'paused' || status === 'standby') await this.try('job-resume', { id });
        if (status === 'ready') {
          // It copies what is left at its speed.
          await this.try('block-job-set-speed', { device: id, speed: 0 });
          await this.try('job-complete', { id });
        }
        if (status === 'pending') await this.try('job-finalize', { id });
        if (status === 'running') {
          // One of a transaction that waits for others, or that only ends by being told to.
          if (left % 100 === 0) await this.try('job-cancel', { id });
          else await this.try('block-job-set-speed', { device: id, speed: 0 });
        }
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}
