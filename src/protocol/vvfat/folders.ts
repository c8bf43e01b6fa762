/** Entries of folders: "FAT Directory Structure". */
import { encodeFields } from '../../lib/fields.js';
import { padded } from './boot.js';
import { writeLongName } from './names.js';
import type { FatNode } from './tree.js';
import { ENTRY_BYTES } from './tree.js';

const ATTR_DIRECTORY = 0x10;
const ATTR_ARCHIVE = 0x20;
const ATTR_VOLUME_ID = 0x08;

const entryFields = [
  { field: 'DIR_Name', offset: 0, width: 11, bytes: true, meaning: 'base and extension' },
  { field: 'DIR_Attr', offset: 11, width: 1, meaning: 'attributes' },
  { field: 'DIR_CrtTime', offset: 14, width: 2, meaning: 'time of creation' },
  { field: 'DIR_CrtDate', offset: 16, width: 2, meaning: 'date of creation' },
  { field: 'DIR_LstAccDate', offset: 18, width: 2, meaning: 'date of the last access' },
  { field: 'DIR_FstClusHI', offset: 20, width: 2, meaning: 'first cluster, upper half' },
  { field: 'DIR_WrtTime', offset: 22, width: 2, meaning: 'time of the last write' },
  { field: 'DIR_WrtDate', offset: 24, width: 2, meaning: 'date of the last write' },
  { field: 'DIR_FstClusLO', offset: 26, width: 2, meaning: 'first cluster, lower half' },
  { field: 'DIR_FileSize', offset: 28, width: 4, meaning: 'bytes, 0 of a folder' },
] as const;

/** All entries of `folder`, whose children have their clusters; `label`: of the volume. */
export function folderEntries(folder: FatNode, label: string): Uint8Array {
  const out = new Uint8Array(folder.size);
  let at = 0;
  const put = (name: Uint8Array, attributes: number, node: FatNode | undefined): void => {
    writeEntry(out, at, name, attributes, node);
    at += ENTRY_BYTES;
  };
  if (folder.parent === undefined) {
    put(padded(label, 11), ATTR_VOLUME_ID | ATTR_ARCHIVE, undefined);
  } else {
    put(padded('.', 11), ATTR_DIRECTORY, folder);
    put(padded('..', 11), ATTR_DIRECTORY, aboveOf(folder, folder.parent));
  }
  for (const child of folder.children ?? []) {
    if (child.name === undefined) continue;
    writeLongName(child.name, out, at);
    at += child.name.longEntries * ENTRY_BYTES;
    const isFolder = child.children !== undefined;
    put(padded(child.name.short, 11), isFolder ? ATTR_DIRECTORY : ATTR_ARCHIVE, child);
  }
  return out;
}

/** What `..` names: cluster 0 is the root, with FAT32 too. QEMU's dates are the folder's own. */
function aboveOf(folder: FatNode, parent: FatNode): FatNode {
  return { ...folder, cluster: parent.parent === undefined ? 0 : parent.cluster };
}

function writeEntry(
  out: Uint8Array,
  at: number,
  name: Uint8Array,
  attributes: number,
  node: FatNode | undefined,
): void {
  const times = node?.times;
  const created = dosTime(times?.changedMs);
  const written = dosTime(times?.modifiedMs);
  const cluster = node?.cluster ?? 0;
  const entry = {
    DIR_Name: name,
    DIR_Attr: attributes,
    DIR_CrtTime: created.time,
    DIR_CrtDate: created.date,
    DIR_LstAccDate: dosTime(times?.accessedMs).date,
    DIR_FstClusHI: cluster >>> 16,
    DIR_WrtTime: written.time,
    DIR_WrtDate: written.date,
    DIR_FstClusLO: cluster & 0xffff,
    DIR_FileSize: node === undefined || node.children !== undefined ? 0 : node.size,
  };
  encodeFields(entryFields, entry, out, at, 'little');
}

interface DosTime {
  readonly date: number;
  readonly time: number;
}

/** Local time in steps of two seconds, from 1980 to 2107: what lies outside is moved inside. */
function dosTime(ms: number | undefined): DosTime {
  if (ms === undefined) return { date: 0, time: 0 };
  const at = new Date(ms);
  const year = at.getFullYear();
  if (year < 1980) return { date: (1 << 5) | 1, time: 0 };
  if (year > 2107) return { date: (127 << 9) | (12 << 5) | 31, time: 0xbf7d };
  return {
    date: ((year - 1980) << 9) | ((at.getMonth() + 1) << 5) | at.getDate(),
    time: (at.getHours() << 11) | (at.getMinutes() << 5) | (at.getSeconds() >> 1),
  };
}
