/** Walking down from a node. */
import type { HostFiles } from '../host/file.js';
import { BlockError } from './errors.js';
import { backingOverridden, nameSeenFrom } from './filename.js';
import type { BlockNode } from './node.js';
import { below, skipFilters } from './status.js';

/** The images below `top`, nearest first, filters left out. */
export function chainDown(top: BlockNode): BlockNode[] {
  const found: BlockNode[] = [];
  for (let next = nextImage(top); next !== undefined; next = nextImage(next)) found.push(next);
  return found;
}

function nextImage(node: BlockNode): BlockNode | undefined {
  const next = below(skipFilters(node));
  return next === undefined ? undefined : skipFilters(next);
}

/**
 * The image of the backing chain of `top` that `name` means, seen from the folder of the image
 * above it, as the names in image headers are. Undefined when there is none.
 */
export async function findBacking(top: BlockNode, name: string): Promise<BlockNode | undefined> {
  const { files } = top.graph.host;
  if (name === '' || files === undefined) return undefined;
  let above = skipFilters(top);
  for (const image of chainDown(top)) {
    if (name === above.backingFile && !backingOverridden(above)) return image;
    const full = tryComplete(files, above, name);
    if (full !== undefined && (await isSameFile(files, full, image.filename))) return image;
    above = image;
  }
  return undefined;
}

/** The image of the backing chain of `top` that is stored in the file `path`. */
export async function findInChain(top: BlockNode, path: string): Promise<BlockNode | undefined> {
  const { files } = top.graph.host;
  if (files === undefined) return undefined;
  for (const image of chainDown(top)) {
    if (await isSameFile(files, path, image.filename)) return image;
  }
  return undefined;
}

function tryComplete(files: HostFiles, base: BlockNode, name: string): string | undefined {
  try {
    return nameSeenFrom(files, base, name);
  } catch {
    // An image that no plain name opens has no folder.
    return undefined;
  }
}

async function isSameFile(files: HostFiles, a: string, b: string): Promise<boolean> {
  if (a === b) return true;
  try {
    return (await files.stat(a)).identity === (await files.stat(b)).identity;
  } catch {
    // One of them is no file of this host.
    return false;
  }
}

/** Whether `wanted` is `start` or anywhere below it. */
export function reaches(start: BlockNode, wanted: BlockNode): boolean {
  const seen = new Set<BlockNode>([start]);
  for (const each of seen) {
    if (each === wanted) return true;
    for (const child of each.children.values()) seen.add(child.node);
  }
  return false;
}

/** Throws BlockError when `node` cannot become the child `key` of `parent`: that is below it. */
export function refuseCycle(parent: BlockNode, key: string, node: BlockNode): void {
  if (!reaches(node, parent)) return;
  const text = `Making '${node.name}' a ${key} child of '${parent.name}' would create a cycle`;
  throw new BlockError('EINVAL', text);
}
