/** `info block`, `info blockstats`: what QMP's queries tell, for people. */
import { imageText } from '../../../block/info-text.js';
import type { NodeInfo } from '../../../block/image-info.js';
import type { HmpCommand, HmpRun } from '../command.js';

interface Cache {
  readonly writeback: boolean;
  readonly direct: boolean;
  readonly 'no-flush': boolean;
}

interface Image extends NodeInfo {
  readonly 'backing-image'?: Image;
}

/** QMP's BlockDeviceInfo, as this file reads it. */
interface Inserted {
  readonly file: string;
  readonly 'node-name': string;
  readonly drv: string;
  readonly ro: boolean;
  readonly encrypted: boolean;
  readonly active: boolean;
  readonly cache: Cache;
  readonly backing_file?: string;
  readonly backing_file_depth: number;
  readonly detect_zeroes: string;
  readonly image: Image;
  readonly [limit: string]: object | number | string | boolean | undefined;
}

/** QMP's BlockInfo. */
interface Device {
  readonly device: string;
  readonly qdev?: string;
  readonly locked: boolean;
  readonly removable: boolean;
  readonly tray_open?: boolean;
  readonly 'io-status'?: string;
  readonly inserted?: Inserted;
}

async function infoBlock(run: HmpRun): Promise<void> {
  const wanted = run.tryText('device');
  const verbose = run.flag('verbose');
  let printed = false;
  if (!run.flag('nodes')) {
    const devices = (await run.qmp('query-block')) as readonly Device[];
    for (const [index, each] of devices.entries()) {
      if (wanted !== undefined && each.device !== wanted) continue;
      if (index > 0) run.print('\n');
      run.print(deviceText(each, each.inserted, verbose));
      printed = true;
    }
    if (wanted === undefined || printed) return;
  }
  const nodes = (await run.qmp('query-named-block-nodes')) as readonly Inserted[];
  for (const [index, each] of nodes.entries()) {
    if (wanted !== undefined && each['node-name'] !== wanted) continue;
    if (index > 0) run.print('\n');
    run.print(deviceText(undefined, each, verbose));
  }
}

function deviceText(
  device: Device | undefined,
  inserted: Inserted | undefined,
  verbose: boolean,
): string {
  const lines = [headLine(device, inserted)];
  if (device !== undefined) lines.push(...deviceLines(device));
  if (inserted !== undefined) lines.push(...insertedLines(inserted));
  let text = lines.map((line) => `${line}\n`).join('');
  if (!verbose || inserted === undefined) return text;
  text += '\nImages:\n';
  for (let image: Image | undefined = inserted.image; image; image = image['backing-image']) {
    text += imageText(image);
  }
  return text;
}

function headLine(device: Device | undefined, inserted: Inserted | undefined): string {
  const node = inserted?.['node-name'];
  let name = node ?? device?.qdev ?? '<anonymous>';
  if (device !== undefined && device.device !== '') {
    name = node === undefined ? device.device : `${device.device} (${node})`;
  }
  if (inserted === undefined) return `${name}: [not inserted]`;
  const notes = [
    inserted.drv,
    ...(inserted.ro ? ['read-only'] : []),
    ...(inserted.encrypted ? ['encrypted'] : []),
    ...(inserted.active ? [] : ['inactive']),
  ];
  return `${name}: ${inserted.file} (${notes.join(', ')})`;
}

const label = (name: string, text: string): string => `    ${`${name}:`.padEnd(18)}${text}`;

function deviceLines(device: Device): string[] {
  const lines: string[] = [];
  const status = device['io-status'];
  if (device.qdev !== undefined) lines.push(label('Attached to', device.qdev));
  if (status !== undefined && status !== 'ok') lines.push(label('I/O status', status));
  if (device.removable) {
    const lock = device.locked ? 'locked' : 'not locked';
    const tray = device.tray_open === true ? 'open' : 'closed';
    lines.push(label('Removable device', `${lock}, tray ${tray}`));
  }
  return lines;
}

function insertedLines(inserted: Inserted): string[] {
  const { cache, backing_file: backing, backing_file_depth: depth } = inserted;
  const notes = [
    cache.writeback ? 'writeback' : 'writethrough',
    ...(cache.direct ? ['direct'] : []),
    ...(cache['no-flush'] ? ['ignore flushes'] : []),
  ];
  const lines = [label('Cache mode', notes.join(', '))];
  if (backing !== undefined) {
    lines.push(label('Backing file', `${backing} (chain depth: ${String(depth)})`));
  }
  const zeroes = inserted.detect_zeroes;
  if (zeroes !== 'off') lines.push(label('Detect zeroes', zeroes));
  if (['bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr'].some((name) => inserted[name])) {
    const limits = limitNames.map((name) => `${name}=${shown(inserted[name])}`);
    lines.push(label('I/O throttling', limits.join(' ')));
  }
  return lines;
}

const shown = (limit: unknown): string =>
  typeof limit === 'number' || typeof limit === 'string' ? String(limit) : '0';

const limitNames = [
  'bps',
  'bps_rd',
  'bps_wr',
  'bps_max',
  'bps_rd_max',
  'bps_wr_max',
  'iops',
  'iops_rd',
  'iops_wr',
  'iops_max',
  'iops_rd_max',
  'iops_wr_max',
  'iops_size',
  'group',
] as const;

const statNames = [
  'rd_bytes',
  'wr_bytes',
  'rd_operations',
  'wr_operations',
  'flush_operations',
  'wr_total_time_ns',
  'rd_total_time_ns',
  'flush_total_time_ns',
  'rd_merged',
  'wr_merged',
  'idle_time_ns',
] as const;

interface Stats {
  readonly device?: string;
  readonly stats: Readonly<Record<string, number>>;
}

export const blockInfos: readonly HmpCommand[] = [
  {
    name: 'block',
    args: 'nodes:-n,verbose:-v,device:B?',
    params: '[-n] [-v] [device]',
    help: 'the block devices and what is in them (-n: all nodes; -v: with their images)',
    run: infoBlock,
  },
  {
    name: 'blockstats',
    args: '',
    params: '',
    help: 'what the block devices have done',
    run: async (run) => {
      const all = (await run.qmp('query-blockstats')) as readonly Stats[];
      for (const { device, stats } of all) {
        if (device === undefined) continue;
        const counts = statNames.map((name) => `${name}=${String(stats[name] ?? 0)}`);
        run.print(`${device}: ${counts.join(' ')}\n`);
      }
    },
  },
];
