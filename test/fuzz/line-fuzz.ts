// What the fuzzers of command lines share: a folder of small images that the lines name, and
// whether two programs left the same behind.
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { imgMain } from '../../src/tool/img/main.js';
import { runOk } from '../support/index.js';
import { TextOutput } from '../support/text-output.js';

/** The images that the lines name; all sizes are small. */
export async function prepareImages(folder: string): Promise<void> {
  const img = (...args: string[]) => runOk('qemu-img', args, { cwd: folder });
  const write = (name: string, format: string, ...commands: string[]) => {
    const words = commands.flatMap((command) => ['-c', command]);
    return runOk('qemu-io', ['-f', format, ...words, name], { cwd: folder });
  };
  const qcow2 = async (name: string, options: string, ...commands: string[]) => {
    await img('create', '-f', 'qcow2', ...options.split(' ').filter(Boolean), name, '1M');
    await write(name, 'qcow2', ...commands);
  };
  await img('create', '-f', 'raw', 'r.raw', '1M');
  await write('r.raw', 'raw', 'write -P 1 64k 128k');
  await qcow2('a.qcow2', '', 'write -P 2 0 128k', 'write -P 3 640k 64k', 'write -z 512k 64k');
  await qcow2('t.qcow2', '-b a.qcow2 -F qcow2', 'write -P 4 64k 64k', 'write -P 5 900k 10k');
  await qcow2('t2.qcow2', '-b t.qcow2 -F qcow2', 'write -P 6 1000k 20k');
  await img('resize', '-q', 't2.qcow2', '1536k');
  await img('create', '-f', 'qcow2', '-b', 'r.raw', '-F', 'raw', 'u.qcow2');
  await qcow2('s.qcow2', '', 'write -P 7 0 64k');
  await img('snapshot', '-c', 'snap', 's.qcow2');
  await write('s.qcow2', 'qcow2', 'write -P 8 0 64k');
  await img('bitmap', '--add', 's.qcow2', 'b0');
  await qcow2('v2.qcow2', '-o compat=0.10', 'write -P 7 0 64k');
  await qcow2('x.qcow2', '-o extended_l2=on', 'write -P 7 3k 4k');
  await qcow2('d.qcow2', '-o data_file=d.raw', 'write -P 7 0 64k');
  writeFileSync(join(folder, 'txt'), 'hello\n');
  writeFileSync(join(folder, 'empty'), '');
}

/** What a program did with a line. */
export interface Answer {
  readonly status: number;
  readonly stdout: unknown;
  readonly stderr: string;
  readonly files: readonly string[];
}

/** Makes `folder` a copy of `base`. */
export function freshCopy(base: string, folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  cpSync(base, folder, { recursive: true });
}

/** An image that both have changed and that does not hold the same in both folders. */
export async function differing(base: string, a: string, b: string): Promise<string | undefined> {
  for (const name of readdirSync(a)) {
    const [left, right] = [join(a, name), join(b, name)];
    const old = join(base, name);
    const changed = [left, right].some((path) => {
      const known = statSync(old, { throwIfNoEntry: false });
      return known === undefined || !readFileSync(path).equals(readFileSync(old));
    });
    if (!changed || statSync(left).isDirectory()) continue;
    const status = await imgMain('vdisk-img', ['compare', left, right], new TextOutput());
    if (status === 1) return name;
  }
  return undefined;
}
