// Jobs of the storage daemon beside those of qemu-storage-daemon: stream, commit, mirror and backup
// of 2 GiB with nobody else at the disk, and a mirror while fio writes blocks of 4 KiB at random.
// From the command to the event that tells the end, in a daemon of its own each.
import { spawn, spawnSync } from 'node:child_process';
import { closeSync, copyFileSync, ftruncateSync, openSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { client, fio, nbdImage, NBD_IMAGE } from './nbd.mjs';

const GIB = 1024 ** 3;
const SIZE = 2 * GIB;
const files = ['job-top', 'job-base', 'job-target', 'job.sock'];

/** A daemon that answers on its standard output. */
export class Daemon {
  #text = '';
  #seen = [];
  #wake = () => undefined;

  constructor(tool, { img }) {
    const ours = tool.name === 'vdisk';
    const folder = dirname(ours ? img : tool.path);
    const program = join(folder, `${ours ? 'vdisk' : 'qemu'}-storage-daemon`);
    const monitor = ['--chardev', 'stdio,id=c', '--monitor', 'c'];
    this.child = spawn(program, monitor, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.child.stdout.on('data', (piece) => this.#take(piece));
  }

  #take(piece) {
    this.#text += piece;
    const lines = this.#text.split('\n');
    this.#text = lines.pop();
    this.#seen.push(...lines.filter((line) => line.trim() !== '').map((line) => JSON.parse(line)));
    this.#wake();
  }

  /** The first message that fits; those before it are forgotten. */
  async until(fits) {
    for (;;) {
      const at = this.#seen.findIndex(fits);
      if (at >= 0) return this.#seen.splice(0, at + 1).pop();
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }

  async ask(execute, args = {}) {
    this.child.stdin.write(`${JSON.stringify({ execute, arguments: args })}\n`);
    const reply = await this.until((message) => 'return' in message || 'error' in message);
    if ('error' in reply) throw new Error(`${execute}: ${reply.error.desc}`);
  }

  async event(name) {
    return this.until((message) => message.event === name);
  }

  async end() {
    const gone = new Promise((resolve) => this.child.once('close', resolve));
    this.child.stdin.write('{"execute":"quit"}\n');
    await gone;
  }
}

const file = (dir, name) => ({ driver: 'file', filename: join(dir, name), aio: 'io_uring' });
const raw = (dir, name) => ({ driver: 'raw', file: file(dir, name) });

/** A raw file of this length without data. */
function makeEmpty(path) {
  const made = openSync(path, 'w');
  ftruncateSync(made, SIZE);
  closeSync(made);
}

/** A qcow2 image over `backing`, empty or with the 2 GiB. */
function makeImage({ dir, img }, name, backing, full) {
  const run = (...args) => spawnSync(img, args, { cwd: dir });
  if (full) run('convert', '-f', 'raw', '-O', 'qcow2', NBD_IMAGE, name);
  else run('create', '-q', '-f', 'qcow2', name, String(SIZE));
  run('rebase', '-u', '-f', 'qcow2', '-b', join(dir, backing), '-F', 'raw', name);
}

const job = { 'job-id': 'j', device: 'disk' };
const copy = { ...job, target: 'target', sync: 'full' };

const kinds = {
  stream: {
    prepare: (context) => makeImage(context, 'job-top', NBD_IMAGE, false),
    disk: (dir) => ({ driver: 'qcow2', file: file(dir, 'job-top') }),
    start: ['block-stream', job],
  },
  commit: {
    prepare: (context) => {
      makeEmpty(join(context.dir, 'job-base'));
      makeImage(context, 'job-top', 'job-base', true);
    },
    disk: (dir) => ({ driver: 'qcow2', file: file(dir, 'job-top') }),
    start: ['block-commit', job],
    ready: true,
  },
  mirror: { start: ['blockdev-mirror', copy], ready: true, target: true },
  backup: { start: ['blockdev-backup', copy], target: true },
  'mirror under 4k random writes': {
    prepare: ({ dir }) => copyFileSync(join(dir, NBD_IMAGE), join(dir, 'job-base')),
    disk: (dir) => raw(dir, 'job-base'),
    start: ['blockdev-mirror', { ...copy, 'copy-mode': 'write-blocking' }],
    ready: true,
    target: true,
    load: true,
  },
};

/** Time from the command to the event, in milliseconds. */
async function run(kind, daemon, dir) {
  await daemon.ask('qmp_capabilities');
  const disk = kind.disk?.(dir) ?? raw(dir, NBD_IMAGE);
  await daemon.ask('blockdev-add', { ...disk, 'node-name': 'disk' });
  if (kind.target) {
    await daemon.ask('blockdev-add', { ...raw(dir, 'job-target'), 'node-name': 'target' });
  }
  let load;
  if (kind.load) {
    const path = join(dir, 'job.sock');
    await daemon.ask('nbd-server-start', { addr: { type: 'unix', data: { path } } });
    const served = { id: 'e', type: 'nbd', 'node-name': 'disk', writable: true };
    await daemon.ask('block-export-add', served);
    const uri = `nbd+unix:///disk?socket=${path}`;
    const [program, args] = fio('randwrite', '4k', 16, 100)(uri);
    load = client(program, args);
  }
  const before = performance.now();
  await daemon.ask(...kind.start);
  await daemon.event(kind.ready ? 'BLOCK_JOB_READY' : 'BLOCK_JOB_COMPLETED');
  const ms = performance.now() - before;
  await load;
  return ms;
}

function row([name, kind]) {
  return {
    name: `job ${name} 2 GiB`,
    needs: [nbdImage],
    async measure(tool, context) {
      kind.prepare?.(context);
      if (kind.target) makeEmpty(join(context.dir, 'job-target'));
      const daemon = new Daemon(tool, context);
      try {
        return { ms: await run(kind, daemon, context.dir), kib: 0 };
      } finally {
        await daemon.end();
        for (const each of files) rmSync(join(context.dir, each), { force: true });
      }
    },
  };
}

export const blockJobs = Object.entries(kinds).map(row);
