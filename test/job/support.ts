/** What tests of jobs have in common: a simulated disk and another, a guest, and a list of jobs. */
import { createImage, prepareCreate } from '../../src/block/create.js';
import type { BlockNode } from '../../src/block/node.js';
import type { Backend, BlockGraph } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import { JobList } from '../../src/job/job-list.js';
import type { FakeClock } from '../support/index.js';
import { FakeFiles, fakeHost, Random, readBytes, testGraph } from '../support/index.js';

const MiB = 1024 * 1024;
export const flags = { writable: true, unmap: true };
/** Guests do not change lengths. */
export const guestPerms = { perm: Perm.consistentRead | Perm.write, shared: Perm.all };

export interface Lab {
  readonly graph: BlockGraph;
  readonly files: FakeFiles;
  readonly clock: FakeClock;
  readonly jobs: JobList;
  readonly events: string[];
  readonly source: BlockNode;
  readonly target: BlockNode;
  readonly guest: Backend;
  /** The content at the beginning. */
  readonly old: Uint8Array;
}

export interface LabInit {
  readonly random?: Random;
  readonly bytes?: number;
  /** Format of the target; default raw. */
  readonly format?: 'raw' | 'qcow2';
  /** A raw target is full of old data; else it is empty. */
  readonly used?: boolean;
}

export async function makeLab(init: LabInit = {}): Promise<Lab> {
  const { random = new Random(1), bytes = MiB, format = 'raw', used = false } = init;
  const files = new FakeFiles({ seed: random.uint32(), reorder: true });
  const old = random.bytes(bytes);
  files.put('/source', old);
  files.put('/target', used ? random.bytes(bytes) : format === 'raw' ? bytes : 0);
  const host = fakeHost({ files });
  const { clock } = host;
  const graph = testGraph({ host, onWarning: () => undefined });
  if (format === 'qcow2') {
    const request = { filename: '/target', format, size: bytes };
    await createImage(graph, await prepareCreate(graph, request));
  }
  const open = (driver: string, name: string): Promise<BlockNode> => {
    const file = { driver: 'file', filename: `/${name}` };
    return graph.open({ options: { driver, 'node-name': name, file }, flags });
  };
  const source = await open('raw', 'source');
  const target = await open(format, 'target');
  const guest = await graph.openBackend({ reference: 'source', flags }, guestPerms);
  const events: string[] = [];
  const emit = (name: string, data: Readonly<Record<string, unknown>>): void => {
    events.push(name === 'JOB_STATUS_CHANGE' ? String(data['status']) : name);
  };
  const jobs = new JobList({ clock, emit });
  return { graph, files, clock, jobs, events, source, target, guest, old };
}

/** What is in a node. */
export async function contentOf({ graph }: Lab, reference = 'target'): Promise<Uint8Array> {
  const disk = await graph.openBackend({ reference });
  try {
    return await readBytes(disk, 0, disk.size);
  } finally {
    await disk.detach();
  }
}
