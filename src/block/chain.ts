/** Walking down a backing chain. */
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
 * The image of the backing chain of `top` that `name` means: as the image above it names it, or
 * as a path to the same file. Undefined when there is none.
 */
export async function findBacking(top: BlockNode, name: string): Promise<BlockNode | undefined> {
  if (name === '') return undefined;
  const { files } = top.graph.host;
  const identity = async (path: string): Promise<string | undefined> => {
    try {
      return (await files?.stat(path))?.identity;
    } catch {
      // Not a file of this host.
      return undefined;
    }
  };
  const wanted = await identity(name);
  let above = skipFilters(top);
  for (const image of chainDown(top)) {
    if (name === above.backingFile || name === image.filename) return image;
    if (wanted !== undefined && wanted === (await identity(image.filename))) return image;
    above = image;
  }
  return undefined;
}
