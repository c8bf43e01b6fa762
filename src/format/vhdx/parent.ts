/** Finding the parent of a differencing disk by the paths in its locator. */
import type { Child } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { completePath, schemeOf } from '../../block/filename.js';

/** 2.6.2.6.3: keys of paths, best first. */
const keys = ['relative_path', 'volume_path', 'absolute_win32_path'];

/**
 * Names the parent: the first path that exists on this host, else the first there is. Of a path
 * with a drive or a volume the name is taken, beside the image. Throws EINVAL where there is none.
 */
export async function parentName(
  context: OpenContext,
  file: Child,
  locator: ReadonlyMap<string, string>,
): Promise<string> {
  const names = keys.map((key) => plainPath(locator.get(key) ?? '')).filter((name) => name !== '');
  for (const name of names) {
    const path = completePath(context.graph.files, file.node.filename, name);
    const found = await context.host.files?.stat(path).catch(() => undefined);
    if (found !== undefined) return name;
  }
  const first = names[0];
  if (first !== undefined) return first;
  throw new BlockError('EINVAL', 'Cannot open the parent: the differencing disk names none');
}

/** A Windows path as a file of this host: never a protocol or `json:`. */
function plainPath(path: string): string {
  const own = path.replaceAll('\\', '/').replace(/^(?:\.\/)+/, '');
  if (schemeOf(own) === undefined && !own.startsWith('//')) return own;
  const name = own.split('/').at(-1) ?? '';
  return schemeOf(name) === undefined ? name : `./${name}`;
}
