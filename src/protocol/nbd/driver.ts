/**
 * Protocol `nbd`: a disk that an NBD server exports (NetworkBlockDevice/nbd, doc/proto.md).
 *
 * Understood: old style, newstyle and fixed newstyle, structured replies, extended headers,
 * `base:allocation`, TLS, several connections where the server allows them, reconnection.
 * Not supported: RESIZE (experimental in the document).
 */
import { createOnExisting, existingCreateOptions } from '../../block/create-existing.js';
import type { Driver } from '../../block/driver.js';
import { nbdOptionNames, nbdOptions, parseNbdFilename } from './options.js';

export const nbdDriver: Driver = {
  name: 'nbd',
  kind: 'protocol',
  schemes: ['nbd', 'nbd+tcp', 'nbd+unix', 'nbds', 'nbds+tcp', 'nbds+unix'],
  needsFile: false,
  optionNames: nbdOptionNames,
  blockdev: nbdOptions,
  parseFilename: parseNbdFilename,
  createOptions: existingCreateOptions,
  create: (context) => createOnExisting(context, 'nbd'),
  open: async (context) => (await import('./open.js')).openNbd(context),
};
