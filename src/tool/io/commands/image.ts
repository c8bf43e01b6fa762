/** `open`, `close`, `reopen`. */
import type { NodeOptions, OpenFlags } from '../../../block/driver.js';
import { messageOf } from '../../../block/errors.js';
import { nestOptions } from '../../../block/node-options.js';
import type { CacheMode } from '../../../block/types.js';
import { Perm } from '../../../block/types.js';
import { parseOpts } from '../../../options/qemu-opts.js';
import type { ImageHow } from '../image.js';
import {
  defaultHow,
  openImage,
  parseAioMode,
  parseCacheMode,
  parseDiscardMode,
  reopenImage,
} from '../image.js';
import type { ImageCommand, IoSession, ProgramCommand } from '../session.js';
import { letters } from '../session.js';
import { readOptions, refuse, Refused, refuseUsage } from '../words.js';

/** Tells on standard error why the command is given up. */
function fail(session: IoSession, e: unknown): never {
  session.error(e);
  throw new Refused(messageOf(e));
}

/** Adds a list of options to what earlier ones said; warnings are printed. */
export function addOptions(session: IoSession, into: NodeOptions, text: string): NodeOptions {
  try {
    const { values, warnings } = parseOpts(text, { warnFlags: true });
    for (const warning of warnings) session.error(`warning: ${warning}`);
    return { ...into, ...Object.fromEntries(values) };
  } catch (e) {
    return fail(session, e);
  }
}

/** Sets what the letters have in common that `open` and the program itself know. */
export function setImageOption(
  session: IoSession,
  how: ImageHow,
  letter: string,
  value: string,
): void {
  switch (letter) {
    case 'r':
      how.readOnly = true;
      break;
    case 's':
      how.snapshot = true;
      break;
    case 'n':
      how.cache = { writeback: true, direct: true, noFlush: how.cache.noFlush };
      break;
    case 'C':
      how.copyOnRead = true;
      break;
    case 'k':
      how.aio = 'native';
      break;
    case 'U':
      how.forceShare = true;
      break;
    case 't':
      how.cache = parseCacheMode(value) ?? fail(session, `Invalid cache option: ${value}`);
      break;
    case 'd':
      how.unmap = parseDiscardMode(value) ?? fail(session, `Invalid discard option: ${value}`);
      break;
    case 'i':
      how.aio = parseAioMode(value) ?? fail(session, `Invalid aio option: ${value}`);
      break;
  }
}

export const open: ProgramCommand = {
  kind: 'program',
  name: 'open',
  alias: 'o',
  min: 1,
  args: '[-rsCnkU] [-t cache] [-d discard] [-o options] [path]',
  summary: 'open an image for the commands that follow',
  doc: ["'open -n -o driver=raw /tmp/data' opens a raw image past the host's cache."],
  options: letters({
    C: 'store what was read from a backing file',
    d: 'MODE: whether discards reach the storage: unmap or ignore',
    i: 'MODE: how requests reach the kernel: threads, native or io_uring',
    k: 'the same as -i native',
    n: "bypass the host's cache, the same as -t none",
    o: 'OPTIONS: options of the block driver',
    r: 'read only',
    s: 'write to a temporary overlay',
    t: 'MODE: cache mode: none, writeback, writethrough, directsync or unsafe',
    U: 'read although others may write',
  }),
  async run(session, words) {
    const how = defaultHow();
    const operands = readOptions(session, open, words, (letter, value) => {
      if (letter === 'o') how.options = addOptions(session, how.options, value);
      else setImageOption(session, how, letter, value);
    });
    const given = Object.keys(how.options).length > 0;
    const none = operands.length === 0 && !given && session.backend === undefined;
    if (operands.length > 1 || none) {
      return refuseUsage(session, open);
    }
    const [name] = operands;
    if (session.imageOpts && given) {
      refuse(session, "--image-opts and 'open -o' are mutually exclusive");
    }
    if (!session.imageOpts || name === undefined) {
      return openInSession(session, { ...how, filename: name });
    }
    return openInSession(session, { ...how, options: addOptions(session, {}, name) });
  },
};

/** Opens and makes it the session's image; prints why not and answers false. */
export async function openInSession(session: IoSession, how: ImageHow): Promise<boolean> {
  if (session.backend !== undefined) {
    return session.error("file open already, try 'help close'");
  }
  try {
    session.backend = await openImage(session.graph, how);
    return true;
  } catch (e) {
    return session.error(e);
  }
}

export const close: ImageCommand = {
  kind: 'image',
  name: 'close',
  alias: 'c',
  min: 0,
  max: 0,
  summary: 'close the open image',
  async run(session, _words, backend) {
    session.backend = undefined;
    await session.drain();
    try {
      await backend.close();
      return true;
    } catch (e) {
      return session.error(e);
    }
  },
};

interface ReopenWords {
  /** What -r or -w asked for. */
  writable: boolean | undefined;
  cache: CacheMode | undefined;
  options: NodeOptions;
}

export const reopen: ImageCommand = {
  kind: 'image',
  name: 'reopen',
  min: 0,
  args: '[(-r|-w)] [-c cache] [-o options]',
  summary: 'change options of the open image',
  doc: ["'reopen -o lazy-refcounts=on' makes a qcow2 image write its refcounts later."],
  options: letters({
    r: 'read only from now on',
    w: 'writable from now on',
    c: 'MODE: cache mode, as for open -t',
    o: 'OPTIONS: options of the block driver, as for open -o',
  }),
  async run(session, words, backend) {
    const asked: ReopenWords = { writable: undefined, cache: undefined, options: {} };
    const operands = readOptions(session, reopen, words, (letter, value) => {
      if (letter === 'c') {
        asked.cache = parseCacheMode(value) ?? fail(session, `Invalid cache option: ${value}`);
      } else if (letter === 'o') {
        asked.options = addOptions(session, asked.options, value);
      } else {
        if (asked.writable !== undefined) fail(session, 'Only one -r/-w option may be given');
        asked.writable = letter === 'w';
      }
    });
    if (operands.length > 0) return refuseUsage(session, reopen);
    try {
      // The next command that writes asks for the permission again.
      const { perm, shared } = backend.perms;
      if (asked.writable === false) {
        await session.drain();
        await backend.setPerms({ perm: perm & ~(Perm.write | Perm.writeUnchanged), shared });
      }
      checkDoubles(session, asked);
      await reopenImage(backend, asked.options, flagsOf(asked));
      if (asked.cache !== undefined) backend.writeCache = asked.cache.writeback;
      return true;
    } catch (e) {
      return e instanceof Refused ? false : session.error(e);
    }
  },
};

function checkDoubles(session: IoSession, asked: ReopenWords): void {
  const options = nestOptions(asked.options);
  if (asked.writable !== undefined && options['read-only'] !== undefined) {
    fail(session, "Cannot set both -r/-w and 'read-only'");
  }
  const cache = options['cache'];
  if (asked.cache === undefined || typeof cache !== 'object' || cache === null) return;
  if ('direct' in cache || 'no-flush' in cache) {
    fail(session, 'Cannot set both -c and the cache options');
  }
}

function flagsOf(asked: ReopenWords): Partial<OpenFlags> {
  return {
    ...(asked.writable === undefined ? {} : { writable: asked.writable }),
    ...(asked.cache === undefined ? {} : { cache: asked.cache }),
  };
}
