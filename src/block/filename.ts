/** File names: protocols in front of them, `json:` names, paths relative to an image. */
import type { HostFiles } from '../host/file.js';
import { formatJson } from '../lib/json-text.js';
import { inQemuOrder } from '../lib/qdict-order.js';
import type { NodeOptions } from './driver.js';
import { BlockError } from './errors.js';
import type { BlockNode } from './node.js';
import { Role } from './types.js';

/** The protocol in front of a name (`nbd` of `nbd://…`), if there is one. */
export function schemeOf(filename: string): string | undefined {
  const m = /^([^:/\\]+):/.exec(filename);
  return m?.[1];
}

/** The plain name that opens the same node, or its options as `json:{…}`. */
export function filenameOf(node: BlockNode): string {
  const exact = exactFilename(node);
  if (exact !== undefined) return exact;
  if (node.driver.kind !== 'protocol' && node.children.size === 0) return '';
  return `json:${formatJson(inQemuOrder(fullOptions(node)))}`;
}

/** A name that opens `node` as it is without options; undefined if only options can say it. */
export function exactFilename(node: BlockNode): string | undefined {
  // Nobody but a job knows of such a filter.
  if (node.implicit && node.file !== undefined) return exactFilename(node.file.node);
  const own = node.instance.exactFilename?.();
  if (own !== undefined) return own;
  if (node.driver.kind !== 'format') return undefined;
  const file = node.file?.node;
  // Filters that can be named (`blkdebug:…`) stand for storage as protocols do.
  const isStorage = file?.driver.kind === 'protocol' || file?.driver.schemes !== undefined;
  if (file === undefined || !isStorage || backingOverridden(node)) return undefined;
  if (Object.keys(node.instance.strongOptions?.() ?? {}).length > 0) return undefined;
  return exactFilename(file);
}

/** Whether the backing chain differs from what the image itself names. */
export function backingOverridden(node: BlockNode): boolean {
  const backing = node.backing?.node;
  // Opened only to look at, the image has no backing node to compare with.
  if (node.flags.noIo) return false;
  if (backing === undefined) {
    return node.autoBackingFile !== '' && node.explicitOptions['backing'] === null;
  }
  return filenameOf(backing) !== node.autoBackingFile;
}

/** All options that make up the subtree below `node`. */
export function fullOptions(node: BlockNode): NodeOptions {
  // A filter that users do not see: what is below stands for it.
  if (node.implicit && node.file !== undefined) return fullOptions(node.file.node);
  const out: NodeOptions = { driver: node.driver.name };
  const strong = node.instance.strongOptions?.() ?? {};
  // As the user wrote them, where the user did: "64k" stays "64k".
  for (const key of Object.keys(strong)) out[key] = node.explicitOptions[key] ?? strong[key];
  for (const child of node.children.values()) {
    // The backing file is told below, where it must be.
    if (child === node.backing) continue;
    const element = /^(.+)\.(\d+)$/.exec(child.name);
    if (element === null) {
      out[child.name] = fullOptions(child.node);
      continue;
    }
    // Children of one option: `children.0` and `children.1` make a list.
    const key = element[1] ?? '';
    const list = out[key];
    if (Array.isArray(list)) list.push(fullOptions(child.node));
    else out[key] = [fullOptions(child.node)];
  }
  if (backingOverridden(node)) {
    const backing = node.backing?.node;
    out['backing'] = backing === undefined ? null : fullOptions(backing);
  }
  return out;
}

/**
 * `name` as an image in the folder of `base` means it. Absolute names and names
 * with a protocol stay. Throws EINVAL where `base` has no folder.
 */
export function completePath(files: HostFiles, base: string, name: string): string {
  if (name === '' || schemeOf(name) !== undefined || files.isAbsolute(name)) return name;
  if (base.startsWith('json:')) {
    throw new BlockError('EINVAL', `Cannot use relative backing file names for '${base}'`);
  }
  const scheme = schemeOf(base);
  if (scheme === undefined) return files.join(files.dirname(base), name);
  const rest = base.slice(scheme.length + 1);
  const slash = rest.lastIndexOf('/');
  return `${scheme}:${rest.slice(0, slash + 1)}${name}`;
}

/** Drivers whose nodes stand in no folder, as QEMU calls them. */
const withoutFolder: Readonly<Record<string, string>> = { quorum: 'quorum', nbd: 'NBD' };

/**
 * `name` as the image `node` means it: in the folder of the file that stores the image, under
 * whatever filters. Absolute names and names with a protocol stay. Throws ENOTSUP where there is
 * no folder.
 */
export function nameSeenFrom(files: HostFiles, node: BlockNode, name: string): string {
  if (name === '' || schemeOf(name) !== undefined || files.isAbsolute(name)) return name;
  let storage = node;
  for (;;) {
    const kind = withoutFolder[storage.driver.name];
    if (kind !== undefined) throw noFolder(kind);
    const children = [...storage.children.values()];
    const primary = children.find((child) => (child.role & Role.primary) !== 0);
    if (primary === undefined) break;
    storage = primary.node;
  }
  const exact = exactFilename(storage);
  if (exact === undefined) throw noFolder(storage.driver.name);
  return completePath(files, exact, name);
}

function noFolder(kind: string): BlockError {
  return new BlockError('ENOTSUP', `Cannot generate a base directory for ${kind} nodes`);
}
