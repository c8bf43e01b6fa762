/**
 * Where the extents of a descriptor are. A descriptor is text that may come from a stranger: with
 * a name like `/etc/shadow` or `../other/disk-flat.vmdk` it would show, or overwrite, files that
 * its owner never meant to be a disk. So names stay in the folder of the descriptor (or below it);
 * what is elsewhere is opened when the user names it (`extents.0.filename`) or has put a link to it
 * into the folder.
 */
import type { OpenContext } from '../../block/driver.js';
import { BlockError, prepend } from '../../block/errors.js';
import { nameSeenFrom } from '../../block/filename.js';
import type { HostFiles } from '../../host/file.js';

/**
 * The path of extent `index` as the descriptor means it: a path and nothing else. `descriptor`:
 * its name, for errors. Throws EACCES for one outside the folder that the user did not name.
 */
export async function extentPath(
  context: OpenContext,
  descriptor: string,
  filename: string,
  index: number,
): Promise<string> {
  const { files } = context.host;
  if (files === undefined || isNamed(context, index)) return filename;
  let folder: string;
  try {
    // Not joined by the host's rules, which would see a protocol in a name with a colon.
    folder = files.dirname(nameSeenFrom(files, context.node, 'x'));
  } catch (e) {
    if (files.isAbsolute(filename)) throw outside(filename, index);
    throw prepend(`Cannot use relative paths with VMDK descriptor file '${descriptor}': `, e);
  }
  if (!(await isInside(files, folder, filename))) throw outside(filename, index);
  if (files.isAbsolute(filename) || folder === '' || folder === '.') return filename;
  return `${folder}/${filename}`;
}

/** Whether the user says where the extent is. */
function isNamed({ options }: OpenContext, index: number): boolean {
  const extents = options['extents'];
  if (typeof extents !== 'object' || extents === null) return false;
  return (extents as Readonly<Record<string, unknown>>)[String(index)] !== undefined;
}

async function isInside(files: HostFiles, folder: string, filename: string): Promise<boolean> {
  if (filename.split('/').includes('..')) return false;
  if (!files.isAbsolute(filename)) return true;
  const theirs = files.dirname(filename);
  if (theirs === folder) return true;
  const identity = async (path: string): Promise<string | undefined> =>
    (await files.stat(path === '' ? '.' : path).catch(() => undefined))?.identity;
  const own = await identity(folder);
  return own !== undefined && own === (await identity(theirs));
}

function outside(filename: string, index: number): BlockError {
  const option = `extents.${String(index)}.filename`;
  return new BlockError(
    'EACCES',
    `Extent file '${filename.slice(0, 600)}' is outside the folder of the descriptor; name it ` +
      `with ${option} to open it`,
  );
}
