/** The folder that is shown, read once: names, sizes and dates of everything in it. */
import { BlockError } from '../../block/errors.js';
import type { FileStat, FileTimes, HostFiles } from '../../host/file.js';
import { HostError } from '../../host/file.js';
import type { FatName } from './names.js';
import { fatNames } from './names.js';

/** Files and folders of one disk: what their entries and paths take stays below 200 MiB. */
export const MOST_FILES = 262_144;
/** A folder has up to 65536 entries (2 MiB), section "FAT Directories". */
const MOST_ENTRIES = 65_536;
/** Length of a file: DIR_FileSize has 32 bits. */
const MOST_BYTES = 0xffff_ffff;
/** Calls of stat that wait for the host at once. */
const STATS_AT_ONCE = 32;

/** A file or a folder of the disk. */
export interface FatNode {
  readonly path: string;
  /** Names in the folder above; the root has none. */
  readonly name?: FatName;
  readonly parent?: FatNode;
  /** Of a folder: what is in it, in the order of its entries. */
  readonly children?: FatNode[];
  /** Bytes of the file, or of the entries of a folder. */
  size: number;
  readonly times: FileTimes | undefined;
  readonly identity: string;
  /** First cluster and how many there are; both 0 for an empty file. */
  cluster: number;
  clusters: number;
}

/** Bytes of one entry. */
export const ENTRY_BYTES = 32;

/**
 * All files and folders below `dir`, level by level; the first is `dir` itself. Throws BlockError
 * with QEMU's text where a folder cannot be read, and one that names the file for what FAT cannot
 * hold.
 */
export async function readTree(files: HostFiles, dir: string): Promise<FatNode[]> {
  const stat = await files.stat(dir).catch(unreadable(dir));
  if (stat.kind !== 'directory') unreadable(dir)(new HostError('ENOTDIR'));
  const root = nodeOf(dir, stat, undefined, undefined);
  const nodes = [root];
  // The list grows while it is walked.
  for (let i = 0; i < nodes.length; i++) {
    const folder = nodes[i];
    if (folder?.children === undefined) continue;
    await readFolder(files, folder);
    for (const child of folder.children) nodes.push(child);
    if (nodes.length > MOST_FILES) {
      throw cannotShow(dir, `it holds more than ${MOST_FILES} files and folders`);
    }
  }
  return nodes;
}

function unreadable(dir: string): (cause: unknown) => never {
  return (cause) => {
    const code = cause instanceof HostError ? cause.code : 'EIO';
    throw new BlockError(code, `Could not read directory ${dir}`, { cause });
  };
}

function cannotShow(path: string, why: string): BlockError {
  return new BlockError('EINVAL', `Cannot show '${path}' as FAT: ${why}`);
}

function nodeOf(
  path: string,
  stat: FileStat,
  name: FatName | undefined,
  parent: FatNode | undefined,
): FatNode {
  const isFolder = stat.kind === 'directory';
  return {
    path,
    ...(name === undefined ? {} : { name }),
    ...(parent === undefined ? {} : { parent }),
    ...(isFolder ? { children: [] } : {}),
    size: isFolder ? 0 : stat.size,
    times: stat.times,
    identity: stat.identity,
    cluster: 0,
    clusters: 0,
  };
}

/** Fills `folder` with what is in it, sorted by name (F2). */
async function readFolder(files: HostFiles, folder: FatNode): Promise<void> {
  const { path, children = [] } = folder;
  if (files.list === undefined) throw new BlockError('ENOTSUP', `Could not read directory ${path}`);
  const names = [...(await files.list(path).catch(unreadable(path)))].sort();
  // Each file takes two entries at least: no need to look at them to know that there are too many.
  if (names.length > MOST_ENTRIES) throw tooMany(folder, names.length * 2);
  const found: { name: string; stat: FileStat }[] = [];
  for (let at = 0; at < names.length; at += STATS_AT_ONCE) {
    const some = names.slice(at, at + STATS_AT_ONCE);
    const stats = await Promise.all(some.map((name) => statOf(files, `${path}/${name}`)));
    some.forEach((name, i) => {
      const stat = stats[i];
      if (stat !== undefined) found.push({ name, stat });
    });
  }
  // The label of the volume in the root, `.` and `..` elsewhere.
  let entries = folder.parent === undefined ? 1 : 2;
  const fat = fatNames(found.map(({ name }) => name));
  found.forEach(({ name, stat }, i) => {
    const own = fat[i];
    if (own === undefined) return;
    const child = nodeOf(`${path}/${name}`, stat, own, folder);
    checkNode(child);
    entries += 1 + own.longEntries;
    children.push(child);
  });
  if (entries > MOST_ENTRIES) throw tooMany(folder, entries);
  folder.size = entries * ENTRY_BYTES;
}

function tooMany(folder: FatNode, entries: number): BlockError {
  return cannotShow(
    folder.path,
    `what is in it takes ${entries} entries or more, expected at most ${MOST_ENTRIES}`,
  );
}

/** Undefined for what is no file and no folder: links to nothing, devices, pipes, sockets. */
async function statOf(files: HostFiles, path: string): Promise<FileStat | undefined> {
  try {
    const stat = await files.stat(path);
    return stat.kind === 'regular' || stat.kind === 'directory' ? stat : undefined;
  } catch (error) {
    const gone = error instanceof HostError && ['ENOENT', 'ELOOP', 'ENOTDIR'].includes(error.code);
    if (gone && path.includes('\ufffd')) throw cannotShow(path, 'its name is not UTF-8');
    if (gone) return undefined;
    throw error;
  }
}

function checkNode(node: FatNode): void {
  if (node.children === undefined) {
    if (node.size <= MOST_BYTES) return;
    throw cannotShow(node.path, `it has ${node.size} bytes, expected at most ${MOST_BYTES}`);
  }
  for (let above = node.parent; above !== undefined; above = above.parent) {
    if (above.identity !== node.identity) continue;
    throw cannotShow(node.path, `it leads back to the folder '${above.path}'`);
  }
}
