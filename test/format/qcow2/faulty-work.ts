// A fixed course of work that writes every structure of an image, with a record of what failed.
import { DirtyBitmap } from '../../../src/block/dirty-bitmap.js';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { History } from './power-history.js';
import type { OpenImage, TestImage } from './support.js';
import { Iov, openImage, Req } from './support.js';

const facts = { dateSec: 1, dateNsec: 2, vmStateSize: 0, vmClockNsec: 0n, icount: 0n };

export class FaultyWork {
  readonly image: TestImage;
  readonly history: History;
  /** What callers were told, and warnings. */
  readonly told: string[] = [];
  readonly #random: Random;
  #open: OpenImage | undefined;

  constructor(image: TestImage, random: Random) {
    this.image = image;
    this.#random = random;
    const content = new Uint8Array(image.shape.size);
    content.set(image.base.subarray(0, image.shape.size));
    this.history = new History(content);
  }

  /** All steps; after the first that fails only a flush and the end. */
  async run(): Promise<void> {
    for (const step of this.#steps()) {
      try {
        await step();
      } catch (e) {
        this.told.push(String(e));
        break;
      }
    }
    if (this.told.length > 0) await this.#flush().catch(() => undefined);
    await this.#shut();
  }

  #steps(): (() => Promise<void>)[] {
    const { version, snapshots, dataFile, encrypt, backing, create } = this.image.shape;
    const canSnapshot = snapshots !== 'none';
    const canCompress = dataFile !== true && encrypt === undefined;
    const steps: (() => Promise<void>)[] = [
      () => this.#start(),
      () => this.#write(0.1, 7000),
      () => this.#flush(),
      () => this.#write(0.12, 3000),
      () => this.#write(0.5, 30_000),
    ];
    if (version !== 2) {
      steps.push(() => this.#addBitmap('b'));
      steps.push(() => this.#reopen());
      steps.push(() => this.#write(0.3, 20_000));
    }
    if (canSnapshot) {
      steps.push(() => this.#snapshot('one'));
      steps.push(() => this.#write(0.1, 20_000));
      steps.push(() => this.#vmState());
      if (snapshots !== 2) steps.push(() => this.#snapshot('two'));
      steps.push(() => this.#write(0, 5000));
      steps.push(() => this.#flush());
    }
    steps.push(() => this.#zero());
    if (canCompress && !(version === 2 && backing !== undefined)) {
      steps.push(() => this.#compress());
    }
    steps.push(() => this.#flush());
    if (!(version === 2 && canSnapshot)) {
      steps.push(() => this.#resize(1.5));
      steps.push(() => this.#write(1.1, 9000));
      steps.push(() => this.#resize(0.75));
    }
    if (canSnapshot) {
      steps.push(() => this.#apply('one'));
      steps.push(() => this.#write(0.2, 9000));
      steps.push(() => this.#delete('one'));
      if (snapshots !== 2) steps.push(() => this.#delete('two'));
    }
    steps.push(() => this.#amend({ refcount_bits: create.includes('refcount_bits') ? 16 : 64 }));
    if (version === 2) steps[steps.length - 1] = () => this.#amend({ compat: '1.1' });
    steps.push(() => this.#amend({ lazy_refcounts: !create.includes('lazy') }));
    steps.push(() => this.#write(0.6, 6000));
    steps.push(() => this.#flush());
    if (create.includes('raw=on')) steps.push(() => this.#amend({ data_file_raw: false }));
    steps.push(() => this.#header());
    if (encrypt === 'luks') steps.push(() => this.#amendKeys());
    if (version !== 2) steps.push(() => this.#removeBitmap('b'));
    steps.push(() => this.#addBitmap('c'));
    steps.push(() => this.#reopen());
    steps.push(() => this.#write(0.4, 9000));
    if (backing !== undefined) steps.push(() => this.#empty());
    return steps;
  }

  get #disk(): Backend {
    return this.#open!.backend;
  }

  async #start(): Promise<void> {
    this.#open = await openImage(this.image);
  }

  async #shut(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    if (open === undefined) return;
    const note = (e: unknown): void => void this.told.push(String(e));
    await open.backend.detach().catch(note);
    await open.graph.close().catch(note);
    this.told.push(...open.warnings);
  }

  async #reopen(): Promise<void> {
    await this.#shut();
    if (this.told.length > 0) return;
    // What was closed without a word is durable.
    this.history.settle(this.history.now);
    await this.#start();
  }

  async #flush(): Promise<void> {
    if (this.#open === undefined) return;
    const done = this.history.complete();
    await this.#disk.flush();
    this.history.flushed(done);
  }

  async #write(where: number, bytes: number): Promise<void> {
    const offset = Math.floor(where * this.image.shape.size);
    const n = Math.min(bytes, this.#disk.size - offset);
    const data = this.#random.bytes(n);
    const change = this.history.begin(offset, n, data);
    await this.#disk.write(offset, Iov.of(data));
    this.history.done(change);
  }

  async #zero(): Promise<void> {
    const { clusterSize } = this.image.shape;
    const change = this.history.begin(clusterSize, 2 * clusterSize);
    await this.#disk.writeZeroes(clusterSize, 2 * clusterSize, Req.mayUnmap);
    this.history.done(change);
    const second = this.history.begin(4 * clusterSize, 1000);
    await this.#disk.writeZeroes(4 * clusterSize, 1000, 0);
    this.history.done(second);
  }

  async #compress(): Promise<void> {
    const { clusterSize: c } = this.image.shape;
    const at = 5 * c;
    const gone = this.history.begin(at, 2 * c);
    await this.#disk.discard(at, 2 * c);
    this.history.done(gone);
    const data = new Uint8Array(2 * c).fill(77);
    const change = this.history.begin(at, 2 * c, data);
    await this.#disk.write(at, Iov.of(data), Req.compressed);
    this.history.done(change);
  }

  async #snapshot(name: string): Promise<void> {
    const { history } = this;
    history.maybe.set(name, history.now.slice());
    await this.#disk.node.instance.snapshots!.create({ ...facts, name, vmStateSize: 3000 });
    history.snapshots.set(name, history.maybe.get(name)!);
    history.maybe.delete(name);
    history.settle(history.now);
  }

  async #vmState(): Promise<void> {
    await this.#disk.node.instance.writeVmState!(0, Iov.of(this.#random.bytes(3000)));
  }

  async #apply(name: string): Promise<void> {
    const { history } = this;
    const content = history.snapshots.get(name)!;
    history.sizes.add(content.length);
    history.begin(0, Math.max(content.length, history.now.length));
    history.begin(0, content.length, content);
    await this.#disk.node.instance.snapshots!.apply(name);
    history.settle(content);
  }

  async #delete(name: string): Promise<void> {
    const { history } = this;
    history.maybe.set(name, history.snapshots.get(name)!);
    history.snapshots.delete(name);
    await this.#disk.node.instance.snapshots!.delete(undefined, name);
    history.maybe.delete(name);
  }

  async #resize(factor: number): Promise<void> {
    const { history } = this;
    // Resizing makes the image durable, but not an external data file.
    await this.#flush();
    const bytes = 512 * Math.floor((this.image.shape.size * factor) / 512);
    const old = this.#disk.size;
    const next = new Uint8Array(bytes);
    next.set(history.now.subarray(0, bytes));
    history.sizes.add(bytes);
    if (bytes < old) {
      history.begin(bytes, old - bytes);
      const below = this.image.base.slice(bytes, old);
      if (below.length > 0) history.begin(bytes, below.length, below);
    }
    await this.#disk.truncate(bytes);
    history.settle(next);
  }

  async #amend(values: Record<string, string | number | boolean>): Promise<void> {
    await this.#disk.node.instance.amend!(values, { force: false });
  }

  /** The second password comes and goes; the first goes on to open the image. */
  async #amendKeys(): Promise<void> {
    await this.#amend({ 'encrypt.state': 'active', 'encrypt.new-secret': 's1' });
    await this.#amend({ 'encrypt.state': 'inactive', 'encrypt.old-secret': 's1' });
  }

  async #header(): Promise<void> {
    const name = this.image.shape.backing === undefined ? null : '/base';
    const format = name === null ? null : 'raw';
    await this.#disk.node.instance.changeBackingFile!(name, format);
  }

  async #addBitmap(name: string): Promise<void> {
    const { node } = this.#disk;
    await node.instance.bitmaps!.canStore(name, 512);
    const init = { name, granularity: 512, bytes: node.size, enabled: true, persistent: true };
    node.dirtyBitmaps.set(name, new DirtyBitmap(init));
  }

  async #removeBitmap(name: string): Promise<void> {
    const { node } = this.#disk;
    await node.instance.bitmaps!.remove(name);
    node.dirtyBitmaps.delete(name);
  }

  async #empty(): Promise<void> {
    const { history } = this;
    const below = new Uint8Array(this.#disk.size);
    below.set(this.image.base.subarray(0, below.length));
    history.begin(0, below.length, below);
    await this.#disk.node.instance.makeEmpty!();
    history.settle(below);
  }
}
