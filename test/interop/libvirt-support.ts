/**
 * What libvirt does with a machine's disks, as its sources have it: names of nodes, order and
 * arguments of commands, what it waits for. A guest's writes go beside it, and a model of the disk
 * says what must be read.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { Random } from '../support/index.js';
import { binPath, run, runOk, tempDir } from '../support/index.js';
import type { Message } from '../qmp/support.js';
import { DaemonProcess } from '../qmp/support.js';

export const KIB = 1024;
export const DISK = 8 * 1024 * KIB;
const PIECE = 64 * KIB;

/** Who carries the disk. */
export type Kind = 'vdisk-system' | 'vdisk-storage-daemon';
export const kinds: readonly Kind[] = ['vdisk-system', 'vdisk-storage-daemon'];

const machine = [
  ...['-name', 'guest=dom,debug-threads=on', '-S', '-machine', 'pc,usb=off,dump-guest-core=off'],
  ...['-accel', 'qtest', '-m', 'size=131072k', '-overcommit', 'mem-lock=off', '-smp', '1'],
  ...['-uuid', 'c7a5fdbd-edaf-9455-926a-d65c16db1809', '-display', 'none', '-no-user-config'],
  ...['-nodefaults', '-rtc', 'base=utc', '-no-shutdown', '-boot', 'strict=on'],
  ...['-sandbox', 'on,obsolete=deny', '-msg', 'timestamp=on'],
];

const device = {
  ...{ driver: 'virtio-blk-pci', bus: 'pci.0', addr: '0x4', id: 'virtio-disk0' },
  drive: 'libvirt-1-format',
};

/** One image: two nodes, the file and the format. */
export interface Image {
  readonly index: number;
  readonly path: string;
  readonly storage: string;
  readonly format: string;
}

/** A domain with one disk, `vda`. */
export class Domain {
  readonly folder = tempDir();
  readonly kind: Kind;
  /** What the guest must read. */
  readonly model = new Uint8Array(DISK);
  /** What it read at moments that have a name. */
  readonly marks = new Map<string, Uint8Array>();
  /** Images in use, the active one last. */
  chain: Image[] = [];
  readonly #process: DaemonProcess;
  readonly #random: Random;
  #index = 0;

  private constructor(kind: Kind, random: Random, args: readonly string[]) {
    this.kind = kind;
    this.#random = random;
    const isMachine = kind === 'vdisk-system';
    this.#process = isMachine
      ? new DaemonProcess(binPath(kind), [...machine, ...args], undefined, [
          ...['-chardev', 'stdio,id=charmonitor'],
          ...['-mon', 'chardev=charmonitor,id=monitor,mode=control'],
        ])
      : new DaemonProcess(binPath(kind), args);
    onTestFinished(() => {
      this.#process.child.kill('SIGKILL');
    });
  }

  /** Starts one whose disk is a new image with something in it, if the guest `runs`. */
  static async start(kind: Kind, random: Random, runs = true): Promise<Domain> {
    const folder = tempDir();
    const path = join(folder, 'base.qcow2');
    await runOk(binPath('vdisk-img'), ['create', '-q', '-f', 'qcow2', path, String(DISK)]);
    const [storage, format] = nodesOf({ index: 1, path }, null);
    const args = ['-blockdev', JSON.stringify(storage), '-blockdev', JSON.stringify(format)];
    if (kind === 'vdisk-system' && runs) {
      args.push('-device', JSON.stringify({ ...device, bootindex: 1, 'write-cache': 'on' }));
    }
    const doubled = args.map((each) => (each.startsWith('-') ? `-${each}` : each));
    const domain = new Domain(kind, random, kind === 'vdisk-system' ? args : doubled);
    domain.#index = 1;
    domain.chain.push(imageOf(1, path));
    await domain.ok('qmp_capabilities');
    if (kind === 'vdisk-system') await domain.#greet();
    else await domain.#startServer();
    if (!runs) return domain;
    if (kind === 'vdisk-system') await domain.#run();
    else await domain.begin();
    await domain.write(20);
    return domain;
  }

  /** What libvirt asks before a guest may run. */
  async #greet(): Promise<void> {
    await this.ok('query-chardev');
    await this.ok('qom-list-types', { implements: 'device', abstract: false });
    await this.ok('query-named-block-nodes', { flat: true });
  }

  /** In place of a device a daemon has a client of NBD. */
  async #startServer(): Promise<void> {
    const path = join(this.folder, 'guest');
    await this.ok('nbd-server-start', { addr: { type: 'unix', data: { path } } });
  }

  /** The guest gets its disk only now, and runs. */
  async begin(): Promise<void> {
    if (this.kind === 'vdisk-storage-daemon') {
      await this.addExport('guest', this.active.format, true);
      return;
    }
    await this.ok('device_add', device);
    await this.#run();
  }

  async #run(): Promise<void> {
    const blocks = (await this.ok('query-block')) as Message[];
    expect(blocks.map(({ qdev }) => qdev)).toEqual([
      '/machine/peripheral/virtio-disk0/virtio-backend',
    ]);
    await this.ok('cont');
    expect(await this.ok('query-status')).toMatchObject({ running: true, status: 'running' });
  }

  get active(): Image {
    const found = this.chain[this.chain.length - 1];
    if (found === undefined) throw new Error('no disk');
    return found;
  }

  ok(name: string, args?: Message): Promise<unknown> {
    return this.#process.ok(name, args);
  }

  execute(name: string, args?: Message): Promise<Message> {
    return this.#process.execute(name, args);
  }

  async addExport(
    name: string,
    node: string,
    writable: boolean,
    more: Message = {},
  ): Promise<void> {
    const common = { type: 'nbd', id: name, 'node-name': node, writable, name };
    await this.ok('block-export-add', { ...common, ...more });
  }

  /** The guest writes at random places; what it wrote before may be there. */
  async write(times: number): Promise<void> {
    const commands: string[] = [];
    for (let i = 0; i < times; i++) {
      const bytes = PIECE * (1 + this.#random.int(0, 2));
      const offset = PIECE * this.#random.int(0, (DISK - bytes) / PIECE);
      const pattern = 1 + this.#random.int(0, 254);
      commands.push(`write -P ${String(pattern)} ${String(offset)} ${String(bytes)}`);
      this.model.fill(pattern, offset, offset + bytes);
    }
    await this.io(commands);
  }

  /** Commands of the exerciser as the guest's requests; each must succeed. */
  async io(commands: readonly string[]): Promise<void> {
    if (this.kind === 'vdisk-system') {
      for (const command of commands) {
        const line = `qemu-io -d virtio-disk0 "${command}"`;
        const text = await this.ok('human-monitor-command', { 'command-line': line });
        expect(text).toBe('');
      }
      expect(this.#process.lines.printed).not.toMatch(/failed|error/i);
      return;
    }
    const uri = `nbd+unix:///guest?socket=${join(this.folder, 'guest')}`;
    const args = commands.flatMap((each) => ['-c', each]);
    const { stdout, stderr } = await run(binPath('vdisk-io'), ['-f', 'raw', ...args, uri]);
    expect(stderr).toBe('');
    expect(stdout).not.toMatch(/failed/);
  }

  /** A new file, made by libvirt itself, and its node. */
  async addStorage(name: string): Promise<Image> {
    const path = join(this.folder, name);
    writeFileSync(path, '');
    const image = imageOf(++this.#index, path);
    await this.ok('blockdev-add', nodesOf(image, null)[0]);
    return image;
  }

  /** A new qcow2 image; `hint`: name of the backing file in it; `backing`: node that backs it. */
  async addImage(name: string, hint?: string, backing: string | null = null): Promise<Image> {
    const image = await this.addStorage(name);
    const names = hint === undefined ? {} : { 'backing-file': hint, 'backing-fmt': 'qcow2' };
    const id = `create-${image.format}`;
    await this.ok('blockdev-create', {
      'job-id': id,
      options: { driver: 'qcow2', file: image.storage, size: DISK, ...names },
    });
    await this.finish(id);
    await this.ok('blockdev-add', nodesOf(image, backing)[1]);
    return image;
  }

  /** `virsh snapshot-create --disk-only`. */
  async snapshot(name: string, more: readonly Message[] = []): Promise<Image> {
    const before = this.active;
    const image = await this.addImage(name, before.path);
    const data = { node: before.format, overlay: image.format };
    await this.ok('transaction', { actions: [...more, { type: 'blockdev-snapshot', data }] });
    this.chain.push(image);
    return image;
  }

  /** Waits until a job is in a state. */
  async until(id: string, status: string): Promise<void> {
    for (;;) {
      const jobs = (await this.ok('query-jobs')) as Message[];
      const job = jobs.find((each) => each['id'] === id);
      expect(job, id).toBeDefined();
      if (job?.['status'] === status) return;
      expect(job?.['status'], JSON.stringify(job)).not.toBe('concluded');
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  /** Waits for the end of a job and dismisses it; its error must be this. */
  async finish(id: string, error?: string): Promise<void> {
    await this.until(id, 'concluded');
    const jobs = (await this.ok('query-jobs')) as Message[];
    expect(jobs.find((each) => each['id'] === id)?.['error']).toBe(error);
    await this.ok('job-dismiss', { id });
  }

  /** Lets an image go that nothing uses any more. */
  async remove({ format, storage }: Image): Promise<void> {
    await this.ok('blockdev-del', { 'node-name': format });
    await this.ok('blockdev-del', { 'node-name': storage });
    this.chain = this.chain.filter((each) => each.format !== format);
  }

  /** Names of the nodes that there are. */
  async nodes(): Promise<string[]> {
    const nodes = (await this.ok('query-named-block-nodes', { flat: true })) as Message[];
    return nodes.map((each) => String(each['node-name'])).sort();
  }

  /** The guest reads what it wrote, and so does QEMU of the image when the program has ended. */
  async end(): Promise<void> {
    await this.verify();
    expect(await this.#process.quit()).toBe(0);
    expect(this.#process.stderr).toBe('');
    await expectDisk(this.active.path, this.model);
    await runOk('qemu-img', ['check', '-q', this.active.path]);
  }

  /** The guest reads the whole disk. */
  async verify(): Promise<void> {
    const commands: string[] = [];
    for (let at = 0; at < DISK;) {
      const pattern = this.model[at];
      let end = at;
      while (end < DISK && this.model[end] === pattern) end += PIECE;
      commands.push(`read -P ${String(pattern)} ${String(at)} ${String(end - at)}`);
      at = end;
    }
    await this.io(commands);
  }
}

function imageOf(index: number, path: string): Image {
  const name = `libvirt-${String(index)}`;
  return { index, path, storage: `${name}-storage`, format: `${name}-format` };
}

/** The two `-blockdev` of an image. */
function nodesOf(
  { index, path }: Pick<Image, 'index' | 'path'>,
  backing: string | null,
): [Message, Message] {
  const { storage, format } = imageOf(index, path);
  const discard = { discard: 'unmap' };
  const file = { driver: 'file', filename: path, 'node-name': storage };
  return [
    { ...file, 'auto-read-only': true, ...discard },
    {
      'node-name': format,
      'read-only': false,
      ...discard,
      driver: 'qcow2',
      file: storage,
      backing,
    },
  ];
}

/** QEMU reads the same of an image. */
export async function expectDisk(path: string, model: Uint8Array): Promise<void> {
  const raw = join(tempDir(), 'model');
  writeFileSync(raw, model);
  await runOk('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'qcow2', raw, path]);
}
