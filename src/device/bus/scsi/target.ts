/** What a target answers itself, for all of its units and for those that are not there (SAM-5). */
import { Iov } from '../../../lib/iov.js';
import { inquiryData, senses } from '../../../wire/mmc.js';
import type { ScsiBus, ScsiMove, ScsiOutcome, ScsiTask, ScsiUnit } from './bus.js';
import { ScsiStatus } from './bus.js';

const REPORT_LUNS = 0xa0;
const INQUIRY = 0x12;
const REQUEST_SENSE = 0x03;
/** No unit is connected here, and none can be. */
const NOT_SUPPORTED = 0x7f;

/** Gives data to an initiator, cut to what its command asks for and to its room. */
export function replyWith(task: ScsiTask, data: Uint8Array, allocated: number): ScsiOutcome {
  const bytes = Math.min(data.length, allocated, task.in.bytes);
  if (bytes > 0) task.in.slice(0, bytes).copyFrom(data.subarray(0, bytes));
  return { status: ScsiStatus.good, bytes };
}

/** Fails a command. */
export function failed(sense: ScsiOutcome['sense'] & object): ScsiOutcome {
  return { status: ScsiStatus.checkCondition, sense, bytes: 0 };
}

/** A unit of a target: its own, or one that tells that there is none; undefined: no target. */
export function tryTarget(
  bus: ScsiBus,
  channel: number,
  target: number,
  lun: number,
): ScsiUnit | undefined {
  const luns = bus.luns(channel, target);
  if (luns.length === 0) return undefined;
  const unit = bus.tryUnit(channel, target, lun) ?? absent;
  return {
    moves: (cdb) => (cdb[0] === REPORT_LUNS ? into(u32(cdb, 6)) : unit.moves(cdb)),
    execute: (task) => {
      if (task.cdb[0] !== REPORT_LUNS) return unit.execute(task);
      return Promise.resolve(replyWith(task, lunList(luns), u32(task.cdb, 6)));
    },
    reset: () => {
      unit.reset();
    },
  };
}

function u32(cdb: Uint8Array, at: number): number {
  return new DataView(cdb.buffer, cdb.byteOffset, cdb.byteLength).getUint32(at);
}

function into(bytes: number): ScsiMove {
  return { direction: 'in', bytes };
}

function lunList(luns: readonly number[]): Uint8Array {
  const out = new Uint8Array(8 + 8 * luns.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, 8 * luns.length);
  luns.forEach((lun, i) => {
    view.setUint16(8 + 8 * i, lun < 256 ? lun : 0x4000 | lun);
  });
  return out;
}

const absent: ScsiUnit = {
  moves: (cdb) => (cdb[0] === INQUIRY || cdb[0] === REQUEST_SENSE ? into(cdb[4]!) : noMove),
  execute: (task) => {
    if (task.cdb[0] !== INQUIRY) return Promise.resolve(failed({ key: 5, asc: 0x25, ascq: 0 }));
    if ((task.cdb[1]! & 1) !== 0) return Promise.resolve(failed(senses.invalidField));
    const data = inquiryData('', '', '');
    data[0] = NOT_SUPPORTED;
    return Promise.resolve(replyWith(task, data, task.cdb[4]!));
  },
  reset: () => undefined,
};

export const noMove: ScsiMove = { direction: 'none', bytes: 0 };

/** An empty buffer, for commands that move nothing one way. */
export const noData = Iov.of(new Uint8Array(0));
