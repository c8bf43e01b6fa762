/**
 * The order in which QEMU prints the members of an object: that of its hash table, so that
 * `json:{…}` names and JSON output read the same.
 */
import { JsonDouble } from './json-text.js';

const BUCKETS = 512;
const encoder = new TextEncoder();
/** Names seen before; the hash of a name costs more than all else in a short reply. */
const known = new Map<string, number>();
const MAX_KNOWN = 4096;

function bucketOf(name: string): number {
  const found = known.get(name);
  if (found !== undefined) return found;
  const bucket = computeBucket(name);
  if (known.size < MAX_KNOWN && name.length < 64) known.set(name, bucket);
  return bucket;
}

/** Where a name stands; of equals, the one that came in later stands first. */
function computeBucket(name: string): number {
  const bytes = encoder.encode(name);
  let value = Math.imul(0x238f13af, bytes.length);
  bytes.forEach((byte, i) => {
    value = (value + (byte << ((i * 5) % 24))) | 0;
  });
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % BUCKETS;
}

/**
 * The value with the members of each object in QEMU's order; undefined ones are left out.
 * Objects of the result have no prototype.
 */
export function inQemuOrder(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inQemuOrder);
  if (typeof value !== 'object' || value === null || value instanceof JsonDouble) return value;
  const members = Object.entries(value).filter(([, each]) => each !== undefined);
  members.reverse().sort(([a], [b]) => bucketOf(a) - bucketOf(b));
  const ordered = Object.create(null) as Record<string, unknown>;
  for (const [name, each] of members) ordered[name] = inQemuOrder(each);
  return ordered;
}
