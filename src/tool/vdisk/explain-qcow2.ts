/** What `explain` tells of a qcow2 image besides what every format gets. */
import { closeSync, openSync, readSync } from 'node:fs';
import type { ExplainedHeader } from '../../format/qcow2/explain.js';
import { explainHeader } from '../../format/qcow2/explain.js';
import type { Explanation } from './findings.js';
import { operand } from './findings.js';

/** Most clusters of a file, snapshots, and bytes of tables with which an image is checked here. */
const MAX_CLUSTERS = 16 * 1024 * 1024;
const MAX_SNAPSHOTS = 64;
const MAX_TABLE_BYTES = 256 * 1024 * 1024;
const MAX_L1_BYTES = 4 * 1024 * 1024;

/** Adds what the header says; the header itself for {@link isSmall}. */
export function explainQcow2(found: Explanation, head: Uint8Array): ExplainedHeader {
  const bytes = found['file-size'] ?? 0;
  const header = explainHeader(head, bytes);
  const { fields, features, pastEnd } = header;
  found.version = fields.version;
  found['virtual-size'] = fields.size;
  if (fields.cluster_bits >= 9 && fields.cluster_bits <= 21) {
    found['cluster-size'] = 2 ** fields.cluster_bits;
  }
  found.snapshots = fields.nb_snapshots;
  if (fields.crypt_method === 1) found.encryption = 'AES (the old, weak kind)';
  if (fields.crypt_method === 2) found.encryption = 'LUKS';
  found.features.push(...features);
  addFindings(found, header);
  if (pastEnd.length > 0) {
    found.findings.push({
      kind: 'problem',
      text:
        `The file was cut short: ${pastEnd.join(' and ')} should lie behind its end. What was ` +
        'cut off is lost; get the whole file again if you can',
    });
  }
  return header;
}

function addFindings(found: Explanation, { features }: ExplainedHeader): void {
  const all = `vdisk-img check -r all -f qcow2 ${operand(found.filename)}`;
  for (const { kind, bit, name, known } of features) {
    if (kind === 'incompatible' && !known) {
      const text = `It needs a feature that vdisk does not know: ${name ?? `bit ${String(bit)}`}`;
      found.findings.push({ kind: 'problem', text });
    }
    if (kind !== 'incompatible' || !known) continue;
    if (bit === 0) {
      const text = 'It was not closed, so its refcounts may lag; opening it to write repairs that';
      found.findings.push({ kind: 'note', text, command: all });
    }
    if (bit === 1) {
      const text = 'It is marked corrupt, so that nobody writes to it before it is repaired';
      found.findings.push({ kind: 'problem', text, command: all });
    }
  }
}

/** Whether a check needs little time and memory, whatever the tables hold. */
export function isSmall(path: string, { fields }: ExplainedHeader, fileBytes: number): boolean {
  const cluster = 2 ** fields.cluster_bits;
  if (fileBytes / cluster > MAX_CLUSTERS || fields.nb_snapshots > MAX_SNAPSHOTS) return false;
  const l1Bytes = fields.l1_size * 8;
  if (l1Bytes * (fields.nb_snapshots + 1) > MAX_L1_BYTES) return false;
  const l1 = new Uint8Array(l1Bytes);
  const fd = openSync(path, 'r');
  try {
    readSync(fd, l1, 0, l1Bytes, fields.l1_table_offset);
  } finally {
    closeSync(fd);
  }
  const view = new DataView(l1.buffer);
  let tables = 0;
  for (let at = 0; at < l1Bytes; at += 8) {
    if ((view.getUint32(at) | view.getUint32(at + 4)) !== 0) tables++;
  }
  return tables * (fields.nb_snapshots + 1) * cluster <= MAX_TABLE_BYTES;
}
