/**
 * Format `dmg`: Apple's disk images (UDIF), to read. A trailer at the end of the file names a
 * property list (or, of old images, a resource fork) with a table of chunks for each partition;
 * chunks are zero, plain, or compressed by ADC, zlib, bzip2, LZFSE or LZMA: see layout.ts.
 *
 * Invariants
 *  D1  Everything in the tables is checked before memory is taken by it: chunks are at most 64 MiB,
 *      lists at most 16 MiB, and they are inside the file.
 *  D2  A chunk is unpacked into exactly its sectors: a stream that yields more or less is an error
 *      of its reads (EIO), and no others.
 *
 * Not supported: writing and creating images, as in QEMU; encrypted images, images of several files
 * (`.dmgpart`), and sparse images and bundles, which are other formats.
 */
import { genericFormat } from '../../block/blockdev-types.js';
import type { Driver } from '../../block/driver.js';

export const dmgDriver: Driver = {
  name: 'dmg',
  kind: 'format',
  needsFile: true,
  optionNames: [],
  blockdev: genericFormat,
  // Nothing tells at the beginning of the file; QEMU's score.
  probe: (_head, filename) => (filename.endsWith('.dmg') ? 2 : 0),
  open: async (context) => (await import('./open.js')).openDmg(context),
};
