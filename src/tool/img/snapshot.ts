/** `snapshot`: internal snapshots of an image. */
import type { Backend } from '../../block/backend.js';
import type { SnapshotCapability } from '../../block/driver.js';
import { BlockError, errorCode, errorText, prepend } from '../../block/errors.js';
import { skipFilters } from '../../block/status.js';
import { command } from '../../options/getopt.js';
import { openImage, toolGraph } from '../images.js';
import { ToolObjects } from '../objects.js';
import type { Program } from '../program.js';
import { Failure, UsageError } from '../program.js';
import { snapshotFacts } from '../../block/image-info.js';
import { snapshotTable } from '../../block/info-text.js';
import type { ImgCommand } from './options.js';
import { checkImageOpts, commandArguments, oneOperand, shared } from './options.js';

const spec = command({
  name: 'snapshot',
  summary: 'list, make, apply or delete internal snapshots',
  operands: 'FILENAME',
  completeOperand: 'file',
  options: {
    help: shared.help,
    quiet: shared.quiet,
    format: shared.format,
    imageOpts: shared.imageOpts,
    forceShare: shared.forceShare,
    list: { short: 'l', long: 'list', doc: 'list the snapshots (the default)' },
    create: { short: 'c', long: 'create', arg: 'SNAPSHOT', doc: 'make a snapshot of this name' },
    apply: {
      short: 'a',
      long: 'apply',
      arg: 'SNAPSHOT',
      doc: 'make the disk what it was at this snapshot',
    },
    delete: { short: 'd', long: 'delete', arg: 'SNAPSHOT', doc: 'delete this snapshot' },
    object: shared.object,
  },
});

const usage = [
  '[-f FMT | --image-opts] [-U] [-l | -c SNAPSHOT | -a SNAPSHOT | -d SNAPSHOT] FILENAME',
];

type Action = 'list' | 'create' | 'apply' | 'delete';

async function run(program: Program, args: readonly string[]): Promise<number> {
  const objects = new ToolObjects();
  const operands: string[] = [];
  let format: string | undefined;
  let imageOpts = false;
  let forceShare = false;
  let action: Action | undefined;
  let snapshot = '';
  for (const { key, value = '' } of commandArguments(program, spec, usage, args)) {
    if (key === undefined) operands.push(value);
    else if (key === 'format') format = value;
    else if (key === 'imageOpts') imageOpts = true;
    else if (key === 'forceShare') forceShare = true;
    else if (key === 'object') await objects.add(value);
    else if (key !== 'quiet' && key !== 'help') {
      if (action !== undefined) throw new UsageError("Cannot mix '-l', '-a', '-c', '-d'");
      action = key;
      snapshot = value;
    }
  }
  const name = oneOperand(operands);
  checkImageOpts(imageOpts, format);
  const graph = toolGraph(program, objects);
  try {
    const writable = action !== undefined && action !== 'list';
    let complete = false;
    const backend = await openImage(
      program,
      graph,
      { name, imageOpts, format },
      { flags: { writable, unmap: true }, forceShare },
    );
    try {
      program.holdWarnings();
      await act(program, backend, action ?? 'list', snapshot);
      complete = true;
    } finally {
      await backend.close();
      program.releaseWarnings(complete);
    }
  } finally {
    await graph.close();
  }
  return 0;
}

async function act(
  program: Program,
  backend: Backend,
  action: Action,
  name: string,
): Promise<void> {
  const { snapshots } = skipFilters(backend.node).instance;
  switch (action) {
    case 'list': {
      const list = (await snapshots?.list()) ?? [];
      if (list.length > 0) {
        const lines = ['Snapshot list:', ...snapshotTable(list.map(snapshotFacts))];
        program.print(`${lines.join('\n')}\n`);
      }
      return;
    }
    case 'create':
      return createSnapshot(snapshots, name);
    case 'apply':
      return applySnapshot(backend, snapshots, name);
    case 'delete':
      return deleteSnapshot(snapshots, name);
  }
}

async function createSnapshot(
  snapshots: SnapshotCapability | undefined,
  name: string,
): Promise<void> {
  const now = Date.now();
  try {
    if (snapshots === undefined) throw new BlockError('ENOTSUP');
    await snapshots.create({
      name,
      vmStateSize: 0,
      vmClockNsec: 0n,
      icount: 0n,
      dateSec: Math.floor(now / 1000),
      dateNsec: (now % 1000) * 1_000_000,
    });
  } catch (e) {
    const text = `Could not create snapshot '${name}': ${errorText(e)}`;
    throw new BlockError(errorCode(e), text, { cause: e });
  }
}

async function applySnapshot(
  backend: Backend,
  snapshots: SnapshotCapability | undefined,
  name: string,
): Promise<void> {
  const node = skipFilters(backend.node);
  try {
    if (node.dirtyBitmaps.size > 0) {
      throw new BlockError('EBUSY', 'Device has active dirty bitmaps');
    }
    if (snapshots === undefined) {
      throw new BlockError('ENOTSUP', 'Block driver does not support snapshots');
    }
    await snapshots.apply(name);
  } catch (e) {
    throw prepend(`Could not apply snapshot '${name}': `, e);
  }
  await node.refreshLength();
}

async function deleteSnapshot(
  snapshots: SnapshotCapability | undefined,
  name: string,
): Promise<void> {
  const text = `Could not delete snapshot '${name}': `;
  const list = (await snapshots?.list()) ?? [];
  // By name alone: QEMU's `-a` takes an id, too, its `-d` does not.
  const found = list.find((each) => each.name === name);
  if (snapshots === undefined || found === undefined) {
    throw new Failure(`${text}snapshot not found`);
  }
  try {
    await snapshots.delete(found.id, found.name);
  } catch (e) {
    throw prepend(text, e);
  }
}

export const snapshot: ImgCommand = { spec, usage, run };
