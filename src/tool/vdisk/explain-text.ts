/** An explanation for people. */
import { formatSize, formatSizeExact } from '../../lib/sizes.js';
import type { Explanation } from './findings.js';

const LABEL = 14;

function row(lines: string[], label: string, text: string | undefined): void {
  if (text !== undefined && text !== '') lines.push(`  ${label.padEnd(LABEL)}${text}`);
}

/** Lines with facts, then what is wrong, then what to do. */
export function explanationText(found: Explanation): string {
  const lines = [found.filename];
  addFacts(lines, found);
  addUse(lines, found);
  const problems = found.findings.filter(({ kind }) => kind === 'problem');
  const notes = found.findings.filter(({ kind }) => kind === 'note');
  addFindings(lines, problems.length > 0 ? 'What is wrong' : '', problems);
  addFindings(lines, notes.length > 0 ? 'Good to know' : '', notes);
  if (problems.length === 0) lines.push('', 'Nothing wrong was found.');
  return lines.map((line) => `${line}\n`).join('');
}

function addFacts(lines: string[], found: Explanation): void {
  const version = found.version === undefined ? '' : `, version ${String(found.version)}`;
  if (found['file-size'] === undefined && found.holders.length === 0) return;
  row(lines, 'format', found.title + version);
  row(lines, 'content', found.content);
  const virtual = found['virtual-size'];
  if (virtual !== undefined) row(lines, 'disk', formatSizeExact(virtual));
  const size = found['file-size'];
  if (size !== undefined) {
    const stored = found['disk-size'];
    const takes = stored === undefined ? '' : `, takes ${formatSize(stored)}`;
    row(lines, 'file', `${formatSizeExact(size)}${takes}`);
  }
  const cluster = found['cluster-size'];
  if (cluster !== undefined) row(lines, 'clusters', formatSize(cluster));
  row(lines, 'encryption', found.encryption);
  const format = found['backing-format'];
  const backing = found['backing-file'];
  if (backing !== undefined) {
    row(lines, 'backing file', `${backing}${format === undefined ? '' : ` (${format})`}`);
  }
  row(lines, 'data file', found['data-file']);
  if (found.snapshots !== undefined && found.snapshots > 0) {
    row(lines, 'snapshots', String(found.snapshots));
  }
  if (found.bitmaps !== undefined) row(lines, 'bitmaps', String(found.bitmaps));
  let label = 'features';
  for (const { kind, bit, name, meaning } of found.features) {
    row(
      lines,
      label,
      `${kind} bit ${String(bit)}${name === undefined ? '' : ` (${name})`}: ${meaning}`,
    );
    if (label !== '') label = '';
  }
}

function addUse(lines: string[], found: Explanation): void {
  let label = 'used by';
  for (const { pid, command, opened, locks } of found.holders) {
    const what = locks.length === 0 ? ', without a lock' : `: ${locks.join(', ')}`;
    row(lines, label, `process ${String(pid)} (${command}), open ${opened}${what}`);
    label = '';
  }
  for (const device of found['loop-devices']) {
    row(lines, label, `the loop device ${device}`);
    label = '';
  }
  const unknown = found['unknown-locks'];
  if (unknown > 0) row(lines, label, `another user's process (${String(unknown)} locks)`);
  const reading = found['opens-for-reading'];
  if (reading !== undefined) row(lines, 'for reading', reading ? 'opens' : found['read-error']);
  const writing = found['opens-for-writing'];
  if (writing !== undefined) row(lines, 'for writing', writing ? 'opens' : found['write-error']);
  const { check } = found;
  if (check !== undefined) {
    const { corruptions, leaks, errors } = check;
    const sound = corruptions + leaks + errors === 0;
    const counts = `${String(corruptions)} errors, ${String(leaks)} leaked clusters`;
    row(lines, 'check', sound ? 'no errors' : counts);
  }
}

function addFindings(lines: string[], title: string, findings: Explanation['findings']): void {
  if (title === '') return;
  lines.push('', title);
  for (const { text, command } of findings) {
    lines.push(`- ${text}`);
    if (command !== undefined) lines.push(`      ${command}`);
  }
}
