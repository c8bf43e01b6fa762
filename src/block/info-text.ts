/** Image facts as text for people, as QEMU 10 prints them. */
import { formatSize, formatSizeExact } from '../lib/sizes.js';
import { formatSpecificLines } from './format-specific.js';
import type { GraphInfo, NodeInfo, SnapshotFacts } from './image-info.js';
import { inQemuOrder } from '../lib/qdict-order.js';

/** The lines about an image and its children. */
export function infoText(info: GraphInfo): string {
  const lines: string[] = [];
  addNode(lines, info, 0, '/');
  return lines.map((line) => `${line}\n`).join('');
}

function addNode(lines: string[], info: GraphInfo, depth: number, path: string): void {
  const indent = ' '.repeat(depth * 4);
  const own: string[] = [];
  addFacts(own, info, depth > 0 && info.children.length === 0);
  for (const line of own) lines.push(indent + line);
  for (const child of info.children) {
    const childPath = `${path}${child.name}`;
    lines.push(`${indent}Child node '${childPath}':`);
    addNode(lines, child.info, depth + 1, `${childPath}/`);
  }
}

/** The lines about one node that is shown as an image, whatever is below it. */
export function imageText(info: NodeInfo): string {
  const lines: string[] = [];
  addFacts(lines, info, false);
  return lines.map((line) => `${line}\n`).join('');
}

function addFacts(lines: string[], info: NodeInfo, protocol: boolean): void {
  const size = info['virtual-size'];
  const actual = info['actual-size'];
  const names = protocol
    ? ['filename', 'protocol type', 'file length']
    : ['image', 'file format', 'virtual size'];
  lines.push(
    `${names[0] ?? ''}: ${info.filename}`,
    `${names[1] ?? ''}: ${info.format}`,
    `${names[2] ?? ''}: ${formatSizeExact(size)}`,
    `disk size: ${actual === undefined ? 'unavailable' : formatSize(actual)}`,
  );
  if (info.encrypted === true) lines.push('encrypted: yes');
  const cluster = info['cluster-size'];
  if (cluster !== undefined) lines.push(`cluster_size: ${String(cluster)}`);
  if (info['dirty-flag']) lines.push('cleanly shut down: no');
  addBacking(lines, info);
  if (info.snapshots !== undefined) lines.push('Snapshot list:', ...snapshotTable(info.snapshots));
  const specific = info['format-specific'];
  if (specific !== undefined && Object.keys(specific.data).length > 0) {
    const data = inQemuOrder(specific.data) as object;
    lines.push('Format specific information:', ...formatSpecificLines(data, 4));
  }
}

function addBacking(lines: string[], info: NodeInfo): void {
  const name = info['backing-filename'];
  if (name === undefined) return;
  const full = info['full-backing-filename'];
  let note = '';
  if (full === undefined) note = ' (cannot determine actual path)';
  else if (full !== name) note = ` (actual path: ${full})`;
  lines.push(`backing file: ${name}${note}`);
  const format = info['backing-filename-format'];
  if (format !== undefined) lines.push(`backing file format: ${format}`);
}

/** Header and one line per snapshot; dates in local time. */
export function snapshotTable(snapshots: readonly SnapshotFacts[]): string[] {
  const row = (cells: readonly string[]): string => {
    const [id = '', tag = '', size = '', date = '', clock = '', icount = ''] = cells;
    return (
      `${id.padEnd(7)} ${tag.padEnd(16)} ${size.padStart(8)} ${date.padStart(19)} ` +
      `${clock.padStart(15)} ${icount.padStart(10)}`
    );
  };
  return [
    row(['ID', 'TAG', 'VM_SIZE', 'DATE', 'VM_CLOCK', 'ICOUNT']),
    ...snapshots.map((s) =>
      row([
        s.id,
        s.name,
        formatSize(s['vm-state-size']),
        dateText(s['date-sec']),
        clockText(s['vm-clock-sec'], s['vm-clock-nsec']),
        s.icount === undefined ? '--' : String(s.icount),
      ]),
    ),
  ];
}

const two = (value: number): string => String(value).padStart(2, '0');

function dateText(seconds: number): string {
  const d = new Date(seconds * 1000);
  return (
    `${String(d.getFullYear())}-${two(d.getMonth() + 1)}-${two(d.getDate())} ` +
    `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`
  );
}

function clockText(seconds: bigint, nanoseconds: bigint): string {
  const whole = Number(seconds);
  const hours = String(Math.floor(whole / 3600)).padStart(4, '0');
  const minutes = two(Math.floor(whole / 60) % 60);
  const milliseconds = String(nanoseconds / 1_000_000n).padStart(3, '0');
  return `${hours}:${minutes}:${two(whole % 60)}.${milliseconds}`;
}
