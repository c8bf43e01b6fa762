/** `length`, `info`, `alloc`, `map`: what is known of the open image. */
import { errorText } from '../../../block/errors.js';
import type { BlockNode } from '../../../block/node.js';
import { filtered } from '../../../block/status.js';
import { inQemuOrder } from '../../../lib/qdict-order.js';
import { formatSpecificLines } from '../../../block/format-specific.js';
import type { ImageCommand } from '../session.js';
import { formatAmount } from '../text.js';
import { readSize, SECTOR } from '../words.js';

export const length: ImageCommand = {
  kind: 'image',
  name: 'length',
  alias: 'l',
  min: 0,
  max: 0,
  summary: 'print the length of the disk',
  run(session, _words, backend) {
    session.out(`${formatAmount(backend.size)}\n`);
    return true;
  },
};

/** The node whose facts are those of `node`: itself, or what a filter or raw image stands on. */
function informative(node: BlockNode): BlockNode | undefined {
  let at: BlockNode | undefined = node;
  while (at !== undefined && at.instance.info === undefined) {
    at = at.driver.name === 'raw' ? at.file?.node : filtered(at);
  }
  return at;
}

export const info: ImageCommand = {
  kind: 'image',
  name: 'info',
  alias: 'i',
  min: 0,
  max: 0,
  summary: 'print facts about the image',
  async run(session, _words, backend) {
    const { node } = backend;
    session.out(`format name: ${node.driver.name}\n`);
    // A protocol is named twice: as driver and as protocol.
    if (node.driver.kind === 'protocol') session.out(`format name: ${node.driver.name}\n`);
    const facts = await informative(node)?.instance.info?.();
    if (facts === undefined) return false;
    session.out(`cluster size: ${formatAmount(facts.clusterSize ?? 0)}\n`);
    session.out(`vm state offset: ${formatAmount(facts.vmStateOffset ?? 0)}\n`);
    const specific = (await node.instance.info?.())?.formatSpecific;
    if (specific !== undefined) {
      session.out('Format specific information:\n');
      const data = inQemuOrder(specific.data) as object;
      for (const line of formatSpecificLines(data, 4)) session.out(`${line}\n`);
    }
    return true;
  },
};

export const alloc: ImageCommand = {
  kind: 'image',
  name: 'alloc',
  alias: 'a',
  min: 1,
  max: 2,
  args: 'offset [count]',
  summary: 'tell how many of the bytes are allocated in the image itself',
  async run(session, words, backend) {
    const offset = readSize(session, words[1] ?? '');
    const wanted = words[2] === undefined ? SECTOR : readSize(session, words[2]);
    const bytes = Math.min(wanted, Math.max(backend.size - offset, 0));
    let sum = 0;
    let at = offset;
    while (at < offset + bytes) {
      let run;
      try {
        run = await backend.blockStatus(at, offset + bytes - at, false);
      } catch (e) {
        session.out(`is_allocated failed: ${errorText(e)}\n`);
        return false;
      }
      if (run.bytes === 0) break;
      if (run.allocated) sum += run.bytes;
      at += run.bytes;
    }
    session.out(`${sum}/${bytes} bytes allocated at offset ${formatAmount(offset)}\n`);
    return true;
  },
};

export const map: ImageCommand = {
  kind: 'image',
  name: 'map',
  min: 0,
  max: 0,
  // The first help column of old had an empty word here, and scripts know its two spaces.
  args: '',
  summary: 'list which parts are allocated in the image itself',
  async run(session, _words, backend) {
    const end = backend.size;
    const hex = (n: number): string => `0x${n.toString(16)}`;
    let at = 0;
    while (at < end) {
      const start = at;
      let allocated: boolean | undefined;
      while (at < end) {
        let run;
        try {
          run = await backend.blockStatus(at, end - at, false);
        } catch (e) {
          session.error(`Failed to get allocation status: ${errorText(e)}`);
          return false;
        }
        if (run.bytes === 0 || (allocated !== undefined && run.allocated !== allocated)) break;
        allocated = run.allocated;
        at += run.bytes;
      }
      if (allocated === undefined) {
        session.error('Unexpected end of image');
        return false;
      }
      const state = allocated ? '    allocated' : 'not allocated';
      session.out(
        `${formatAmount(at - start)} (${hex(at - start)}) bytes ${state} ` +
          `at offset ${formatAmount(start)} (${hex(start)})\n`,
      );
    }
    return true;
  },
};
