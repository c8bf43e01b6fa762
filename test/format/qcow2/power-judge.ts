// Looks at an image as it is left after a power cut or an I/O error.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Backend } from '../../../src/index.js';
import type { Random } from '../../support/index.js';
import { missingCommands, run, tempDir } from '../../support/index.js';
import type { History } from './power-history.js';
import type { TestImage } from './support.js';
import { Iov, imagePath, openImage, secrets } from './support.js';

/** What a restart would find, and what it may find. */
export interface Cut {
  readonly image: TestImage;
  readonly history: History;
}

/** One image among so many is checked by qemu-img as well. */
const QEMU_EVERY = 40;
const hasQemu = missingCommands('qemu-img').length === 0;
let judged = 0;

/** Opens what is left, repairs leaks, and looks at everything. */
export async function judge(
  { image, history }: Cut,
  random: Random,
  withQemu = judged++ % QEMU_EVERY === 0,
): Promise<void> {
  const { shape } = image;
  if (hasQemu && withQemu) await qemuAgrees(image);
  const next = await openImage(image);
  await repairLeaks(next.backend);
  await history.judge(next.backend, shape.clusterSize);
  // It goes on from there.
  const data = random.bytes(Math.min(5000, next.backend.size - 512));
  await next.backend.write(512, Iov.of(data));
  await next.backend.detach();
  await next.graph.close();
  const reader = await openImage(image, {}, { writable: false });
  await history.judgeSnapshots(reader.backend);
  await reader.backend.detach();
  await reader.graph.close();
}

async function repairLeaks(disk: Backend): Promise<void> {
  const lines: string[] = [];
  const check = (fixLeaks: boolean) =>
    disk.node.instance.check!({ fixLeaks, fixErrors: false, report: (line) => lines.push(line) });
  await check(true);
  const harmless = /^(?:Leaked |Repairing |ERROR OFLAG_COPIED )/;
  const bad = lines.find((line) => !harmless.test(line));
  if (bad !== undefined) throw new Error(`corrupt: ${bad}`);
  lines.length = 0;
  const after = await check(false);
  const clean = after.corruptions + after.checkErrors + after.leaks === 0;
  if (!clean) throw new Error(`not clean after the repair:\n${lines.slice(0, 8).join('\n')}`);
}

/** `qemu-img check -r leaks` finds nothing else, and nothing afterwards. */
async function qemuAgrees({ files, shape }: TestImage): Promise<void> {
  const folder = tempDir();
  const options: Record<string, unknown> = { driver: 'qcow2', backing: null };
  const { key = 's0' } = shape;
  const secret = ['--object', `secret,id=${key},data=${secrets[key]}`];
  const keys = shape.encrypt === undefined ? [] : secret;
  if (shape.encrypt !== undefined) options['encrypt.key-secret'] = key;
  for (const path of files.disks.keys()) {
    if (path === '/base') continue;
    const filename = join(folder, path);
    writeFileSync(filename, files.bytesOf(path));
    options[path === imagePath ? 'file' : 'data-file'] = { driver: 'file', filename };
  }
  const name = `json:${JSON.stringify(options)}`;
  // With the dirty bit set, refcounts lag: qemu-img repairs that when it opens the image to write.
  const isDirty = (files.bytesOf(imagePath)[79]! & 1) !== 0;
  const check = ['check', ...keys];
  const first = await run('qemu-img', [...check, '-r', isDirty ? 'all' : 'leaks', name]);
  const second = await run('qemu-img', [...check, name]);
  if (second.status === 0) return;
  throw new Error(`qemu-img: ${first.stdout}${first.stderr}\n${second.stdout}${second.stderr}`);
}
