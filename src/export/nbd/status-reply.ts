/** The reply to BLOCK_STATUS: the runs of a range in each metadata context that was chosen. */
import { BlockError } from '../../block/errors.js';
import { NBD_CHUNK_DONE, NbdChunk, NbdCmdFlag, NbdReader, writeU64 } from '../../wire/nbd.js';
import type { NbdExtent } from './export.js';
import type { ChosenContext } from './handshake.js';
import type { Replies } from './replies.js';
import type { Work } from './session.js';

/** Most extents of one context in one answer; the client asks again for the rest. */
const MAX_EXTENTS = 32 * 1024;
/** Longest run that an extent of 32 bits can tell, in whole blocks of any size. */
const MAX_RUN = 0xffff_0000;

/**
 * Sends one chunk for each context. `inside` throws for a range that the export does not have,
 * and is asked only for one that came as a payload.
 */
export async function answerStatus(
  work: Work,
  contexts: readonly ChosenContext[],
  extended: boolean,
  replies: Replies,
  inside: (offset: number, length: number) => void,
): Promise<void> {
  let { length } = work;
  let chosen = contexts;
  if (work.payload !== undefined) {
    ({ length, chosen } = readPayload(work, contexts));
    inside(work.offset, length);
  }
  const one = (work.flags & NbdCmdFlag.reqOne) !== 0;
  const cap = extended ? length : Math.min(length, MAX_RUN);
  const payloads: Uint8Array[] = [];
  for (const { id, context } of chosen) {
    const extents = await context.extents(work.offset, cap, one ? 1 : MAX_EXTENTS);
    payloads.push(encode(id, extents, extended));
  }
  if (payloads.length === 0) replies.done(work);
  for (const [i, payload] of payloads.entries()) {
    const flags = i === payloads.length - 1 ? NBD_CHUNK_DONE : 0;
    const type = extended ? NbdChunk.blockStatusExt : NbdChunk.blockStatus;
    replies.chunk(work, flags, type, payload);
  }
}

function encode(id: number, extents: readonly NbdExtent[], extended: boolean): Uint8Array {
  const head = extended ? 8 : 4;
  const entry = extended ? 16 : 8;
  const out = new Uint8Array(head + entry * extents.length);
  const v = new DataView(out.buffer);
  v.setUint32(0, id);
  if (extended) v.setUint32(4, extents.length);
  let at = head;
  for (const { length, flags } of extents) {
    if (extended) {
      writeU64(v, at, length);
      writeU64(v, at + 8, flags);
    } else {
      v.setUint32(at, length);
      v.setUint32(at + 4, flags);
    }
    at += entry;
  }
  return out;
}

/** With extended headers a payload may pick contexts: the range's length, then their numbers. */
function readPayload(
  work: Work,
  contexts: readonly ChosenContext[],
): { length: number; chosen: readonly ChosenContext[] } {
  const r = new NbdReader(work.payload?.flatten() ?? new Uint8Array(0));
  const length = r.u64();
  if (length === undefined || r.left % 4 !== 0) {
    throw new BlockError('EINVAL', 'Malformed payload of a block status request');
  }
  const ids = new Set<number>();
  for (let id = r.u32(); id !== undefined; id = r.u32()) ids.add(id);
  const chosen = contexts.filter((c) => ids.has(c.id));
  if (chosen.length !== ids.size) throw new BlockError('EINVAL', 'Unknown metadata context');
  return { length, chosen };
}
