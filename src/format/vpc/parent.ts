/** Finding the parent of a differencing disk: names and locators, as paths of this host. */
import type { Child } from '../../block/child.js';
import type { OpenContext } from '../../block/driver.js';
import { BlockError } from '../../block/errors.js';
import { completePath, schemeOf } from '../../block/filename.js';
import { Iov } from '../../lib/iov.js';
import { parseLocators } from './footer.js';
import type { DynamicHeader, ParentLocator } from './layout.js';
import { Limit, Platform } from './layout.js';

/** Kinds of paths, best first: a relative one survives moving a folder of images. */
const order: readonly number[] = [Platform.relative, Platform.url, Platform.absolute];

/**
 * Names the parent as the image gives it: the first path that exists, else the first there is.
 * The parent's own name counts as a path in the same folder. Throws EINVAL where there is none.
 */
export async function parentName(
  context: OpenContext,
  file: Child,
  header: DynamicHeader,
  headerBytes: Uint8Array,
): Promise<string> {
  const names: string[] = [];
  const locators = parseLocators(headerBytes);
  for (const code of order) {
    for (const locator of locators) {
      if (locator.platform_code !== code) continue;
      const name = plainPath(await readPath(file, locator));
      if (name !== '') names.push(name);
    }
  }
  const own = plainPath(baseName(utf16(header.parent_unicode_name, false)));
  if (own !== '') names.push(own);
  const { files } = context.host;
  const image = file.node.filename;
  for (const name of names) {
    const path = completePath(context.graph.files, image, name);
    const found = await files?.stat(path).catch(() => undefined);
    if (found !== undefined) return name;
  }
  const first = names[0];
  if (first !== undefined) return first;
  throw new BlockError('EINVAL', 'Cannot open the parent: the differencing disk names none');
}

async function readPath(file: Child, locator: ParentLocator): Promise<string> {
  const { platform_data_length: length, platform_data_offset: offset } = locator;
  if (length === 0 || length > Limit.pathBytes || offset + length > file.size) return '';
  const bytes = new Uint8Array(length);
  await file.read(offset, Iov.of(bytes));
  if (locator.platform_code === Platform.url) return urlPath(new TextDecoder().decode(bytes));
  return hostPath(utf16(bytes, true));
}

/** Characters up to the first NUL. */
function utf16(bytes: Uint8Array, littleEndian: boolean): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let text = '';
  for (let i = 0; i + 1 < bytes.byteLength; i += 2) {
    const unit = view.getUint16(i, littleEndian);
    if (unit === 0) break;
    text += String.fromCharCode(unit);
  }
  return text;
}

/**
 * What an image names is a file: nothing that would be taken for a protocol or `json:`. Of a path
 * with a drive letter the name is left, to be looked for beside the image.
 */
function plainPath(path: string): string {
  if (schemeOf(path) === undefined) return path;
  const name = baseName(path);
  return schemeOf(name) === undefined ? name : `./${name}`;
}

/** A Windows path in the form of other hosts: `.\a\b` is `a/b`. */
function hostPath(path: string): string {
  return path.replaceAll('\\', '/').replace(/^(?:\.\/)+/, '');
}

function urlPath(url: string): string {
  const match = /^file:\/\/(?:localhost)?(\/[^\0]*)/.exec(url);
  if (match?.[1] === undefined) return '';
  try {
    return decodeURIComponent(match[1]);
  } catch {
    return '';
  }
}

function baseName(path: string): string {
  return hostPath(path).split('/').at(-1) ?? '';
}
