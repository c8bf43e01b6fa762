/**
 * The parent of a differencing image. The image has no name of it, only its UUIDs; VirtualBox finds
 * it in its registry. Here it is looked for in the folder of the image and in those that VirtualBox
 * lays out (`Snapshots` beside the parent): first under its UUID as a name, then among the `.vdi`
 * files there, by their headers. Nothing but a VDI image with the right UUIDs is taken.
 */
import type { OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { exactFilename } from '../../block/filename.js';
import type { HostFiles } from '../../host/file.js';
import { Iov } from '../../lib/iov.js';
import { isVdi, uuidText } from './header.js';
import { HEADER_BYTES, Uuid } from './layout.js';

/** Most files of a folder that are looked into. */
const MAX_LOOKED_AT = 1000;

/**
 * Path of the parent of the image with this header; undefined where its options tell, or nobody
 * asks. Throws ENOENT when no file is the parent.
 */
export async function findParent(
  context: OpenContext,
  header: Uint8Array,
): Promise<string | undefined> {
  const { node, flags, host } = context;
  if (flags.noBacking || 'backing' in node.explicitOptions) return undefined;
  const uuid = uuidText(header, Uuid.parent);
  const { files } = host;
  const file = node.file?.node;
  const own = file === undefined ? undefined : exactFilename(file);
  if (uuid === undefined) return undefined;
  if (files !== undefined && own !== undefined) {
    const folder = files.dirname(own);
    const found = await search(files, own, header, uuid, folders(files, folder));
    if (found !== undefined) return found;
  }
  throw new BlockError(
    'ENOENT',
    `Cannot find the parent of this differencing VDI image: no VDI file nearby has the UUID ` +
      `${uuid}; name it with backing.file.filename`,
  );
}

/** The image's folder, the one above, and where VirtualBox puts snapshots. */
function folders(files: HostFiles, folder: string): string[] {
  const here = folder === '' ? '.' : folder;
  const isPlain = !/(?:^|\/)\.\.?$/.test(here);
  const above = isPlain ? files.dirname(here) || '.' : files.join(here, '..');
  return [here, above, files.join(here, 'Snapshots')];
}

async function search(
  files: HostFiles,
  own: string,
  header: Uint8Array,
  uuid: string,
  places: readonly string[],
): Promise<string | undefined> {
  for (const folder of places) {
    const named = [`{${uuid}}.vdi`, `${uuid}.vdi`];
    const listed = (await files.list?.(folder).catch(() => [])) ?? [];
    const others = listed.filter((name) => /\.vdi$/i.test(name)).slice(0, MAX_LOOKED_AT);
    for (const name of [...named, ...others]) {
      const path = files.join(folder, name);
      if (path !== own && (await isParent(files, path, header))) return path;
    }
  }
  return undefined;
}

/** Whether the file is a VDI image with the UUIDs that `header` names as its parent's. */
async function isParent(files: HostFiles, path: string, header: Uint8Array): Promise<boolean> {
  const head = new Uint8Array(HEADER_BYTES);
  try {
    if ((await files.stat(path)).kind !== 'regular') return false;
    const file = await files.open(path, { writable: false, direct: false, engine: 'auto' });
    try {
      if ((await file.read(0, Iov.of(head))) < HEADER_BYTES) return false;
    } finally {
      await file.close();
    }
  } catch {
    return false;
  }
  if (!isVdi(head)) return false;
  if (uuidText(head, Uuid.image) !== uuidText(header, Uuid.parent)) return false;
  const modified = uuidText(header, Uuid.parentModified);
  return modified === undefined || uuidText(head, Uuid.modified) === modified;
}
