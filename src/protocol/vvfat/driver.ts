/**
 * Protocol `vvfat`: a folder of the host shown as a FAT disk, read-only (Microsoft, "FAT: General
 * Overview of On-Disk Format", version 1.03; the geometry and the order of things are QEMU's).
 *
 * Invariants
 *  F1  The tree is read when the disk is opened, and stays as it was then: names, sizes, dates.
 *      Content is read from the files when a guest asks for it.
 *  F2  Each file and folder is one run of clusters, in the order of the tree by levels and, in a
 *      folder, of the names: the same folder gives the same disk. FATs are computed, not stored.
 *  F3  A file that is shorter by now, or no file any more, fails to be read (EIO); never do bytes
 *      of something else show.
 *  F4  Memory is bounded by {@link MOST_FILES}; at most {@link MOST_OPEN} files are open that no
 *      request is using.
 *
 * Links are followed, out of the folder too; a link that leads back to a folder around it is
 * refused. Left out: links to nothing, devices, sockets and pipes.
 *
 * Not supported: writing (`rw`), which is refused by name.
 */
import type { Driver } from '../../block/driver.js';
import { fieldsOf } from '../../options/schema.js';
import { parseVvfatFilename, vvfatOptions } from './options.js';

export const vvfatDriver: Driver = {
  name: 'vvfat',
  kind: 'protocol',
  schemes: ['fat'],
  needsFile: false,
  optionNames: Object.keys(fieldsOf(vvfatOptions)),
  blockdev: vvfatOptions,
  parseFilename: parseVvfatFilename,
  open: async (context) => (await import('./open.js')).openVvfat(context),
};
