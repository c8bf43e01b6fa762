/** JSON of the tools: QEMU's member order, which is that of its hash table. */
import { formatJsonPretty } from '../../lib/json-text.js';

const BUCKETS = 512;
const encoder = new TextEncoder();

/** Where a name stands in an object as QEMU 10 prints it; ties are rare and keep their order. */
function bucketOf(name: string): number {
  const bytes = encoder.encode(name);
  let value = Math.imul(0x238f13af, bytes.length);
  bytes.forEach((byte, i) => {
    value = (value + (byte << ((i * 5) % 24))) | 0;
  });
  return ((Math.imul(1103515243, value) + 12345) >>> 0) % BUCKETS;
}

/** The value with the members of each object in QEMU's order; undefined ones are left out. */
export function inQemuOrder(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inQemuOrder);
  if (typeof value !== 'object' || value === null) return value;
  const members = Object.entries(value).filter(([, each]) => each !== undefined);
  members.sort(([a], [b]) => bucketOf(a) - bucketOf(b));
  const ordered = Object.create(null) as Record<string, unknown>;
  for (const [name, each] of members) ordered[name] = inQemuOrder(each);
  return ordered;
}

/** Several lines, indented by four, with a newline at the end. */
export function jsonText(value: unknown): string {
  return `${formatJsonPretty(inQemuOrder(value))}\n`;
}
