/**
 * Commands that move sectors: which sectors they are, and how their data go between the disk and
 * the guest. The outcome is what the result phase tells.
 */
import { assert } from '../../lib/assert.js';
import type { FloppyDrive } from '../bus/floppy/drive.js';
import { SECTOR } from '../bus/floppy/drive.js';
import type { Command, CommandName } from './commands.js';

/** Bits of the status registers that results tell. */
export const St0 = { abnormal: 0x40, invalid: 0x80, seekEnd: 0x20, equipment: 0x10 } as const;
export const St1 = {
  missingMark: 0x01,
  notWritable: 0x02,
  noData: 0x04,
  dataError: 0x20,
  endOfCylinder: 0x80,
} as const;
export const St2 = { scanFailed: 0x04, scanEqual: 0x08, dataError: 0x20, deleted: 0x40 } as const;

/** Code of a sector's length: 512 bytes, which all disks here have. */
const LENGTH_512 = 2;

/** A place on a disk, as its identification says it. */
export interface Place {
  readonly cylinder: number;
  readonly head: number;
  readonly sector: number;
}

/** How a command ended. */
export interface Outcome {
  readonly st0: number;
  readonly st1: number;
  readonly st2: number;
  readonly next: Place;
}

/** A sector command with its parameters. */
export interface SectorCommand {
  readonly name: CommandName;
  readonly multi: boolean;
  readonly skip: boolean;
  readonly start: Place;
  readonly length: number;
  /** Number of the last sector of a track, or sectors of it to format. */
  readonly last: number;
  readonly fill: number;
}

/** Where data come from or go to. */
export interface DataPath {
  /**
   * Gives data to the guest; false: it wants no more (terminal count), or (undefined) it will
   * never ask: the command was given up.
   */
  give(data: Uint8Array): Promise<boolean | undefined>;
  /** Takes data from the guest; as {@link give}. */
  take(out: Uint8Array): Promise<boolean | undefined>;
}

export function sectorCommand(command: Command, bytes: Uint8Array): SectorCommand {
  assert(bytes.length >= 6, 'a sector command has its parameters');
  const isFormat = command.name === 'format';
  const whole = command.name === 'read-track';
  return {
    name: command.name,
    multi: !isFormat && (bytes[0]! & 0x80) !== 0,
    skip: (bytes[0]! & 0x20) !== 0,
    start: {
      cylinder: bytes[2]!,
      head: isFormat ? (bytes[1]! >> 2) & 1 : bytes[3]!,
      sector: whole ? 1 : bytes[4]!,
    },
    length: isFormat ? bytes[2]! : bytes[5]!,
    last: isFormat ? bytes[3]! : bytes[6]!,
    fill: bytes[5]!,
  };
}

/** Sectors that a command means, if nothing ends it before. */
export function sectorCount({ name, start, last, multi }: SectorCommand): number {
  if (name === 'format') return last;
  const count = last - start.sector + 1;
  if (count <= 0) return 0;
  return multi && start.head === 0 ? count + last : count;
}

/** Moves the head to a command's cylinder and says what stands in its way. */
export function tryRefuse(
  drive: FloppyDrive | undefined,
  command: SectorCommand,
  rate: number,
): Pick<Outcome, 'st0' | 'st1'> | undefined {
  const refused = (st1: number): Pick<Outcome, 'st0' | 'st1'> => ({ st0: St0.abnormal, st1 });
  if (drive === undefined) return refused(St1.missingMark);
  const { start, name } = command;
  if (name !== 'format') {
    drive.seek(start.cylinder);
    drive.head = start.head & 1;
  }
  if (!drive.isInserted || !drive.hasRate(rate)) return refused(St1.missingMark);
  const writes = name === 'write' || name === 'write-deleted' || name === 'format';
  if (writes && drive.isReadOnly) return refused(St1.notWritable);
  const sector = name === 'format' ? 1 : start.sector;
  const cylinder = name === 'format' ? drive.cylinder : start.cylinder;
  const hasPlace = drive.sectorAt(cylinder, start.head, sector) !== undefined;
  const isEmpty = sectorCount(command) === 0;
  if (!hasPlace || isEmpty || command.length !== LENGTH_512) return refused(St1.noData);
  return undefined;
}

/** What follows a sector, and whether that needs a step to the next cylinder. */
function successor(place: Place, command: SectorCommand, drive: FloppyDrive): Place | undefined {
  const { cylinder, head, sector } = place;
  const sectors = drive.geometry?.sectors ?? 0;
  if (sector !== command.last && sector < sectors) return { ...place, sector: sector + 1 };
  if (!command.multi) return undefined;
  if (head === 0 && drive.geometry?.heads === 2) return { cylinder, head: 1, sector: 1 };
  return { cylinder: cylinder + 1, head: 0, sector: 1 };
}

/** The identification that a result tells: that of the sector behind the last one. */
function behind({ cylinder, head, sector }: Place, command: SectorCommand): Place {
  if (sector !== command.last) return { cylinder, head, sector: sector + 1 };
  if (command.multi && head === 0) return { cylinder, head: 1, sector: 1 };
  return { cylinder: cylinder + 1, head: command.multi ? 0 : head, sector: 1 };
}

type Step = 'more' | 'end' | 'gone' | { readonly st1: number; readonly st2: number };

/** Carries a command out; undefined: it was given up. Its drive did not refuse it. */
export async function transfer(
  drive: FloppyDrive,
  command: SectorCommand,
  path: DataPath,
): Promise<Outcome | undefined> {
  let place: Place = command.start;
  let stepped = 0;
  const outcome = (st0: number, st1: number, st2: number, next: Place): Outcome => {
    return { st0: st0 | stepped | (drive.head << 2), st1, st2, next };
  };
  const total = sectorCount(command);
  const scan = new Scan(command.name);
  for (let done = 1; ; done++) {
    const number = drive.sectorAt(place.cylinder, place.head, place.sector);
    if (number === undefined) return outcome(St0.abnormal, St1.noData, 0, place);
    const step = await moveSector(drive, command, number, path, scan);
    if (step === 'gone') return undefined;
    if (typeof step !== 'string') return outcome(St0.abnormal, step.st1, step.st2, place);
    const isDeleted = command.name === 'read-deleted';
    const st2 = scan.status | (isDeleted ? St2.deleted : 0);
    if (step === 'end' || done === total || isDeleted || scan.isMet) {
      return outcome(0, 0, st2, behind(place, command));
    }
    const next = successor(place, command, drive);
    if (next === undefined) return outcome(St0.abnormal, St1.noData, st2, place);
    drive.head = next.head;
    if (next.cylinder !== place.cylinder) {
      drive.seek(next.cylinder);
      stepped = St0.seekEnd;
    }
    place = next;
  }
}

async function moveSector(
  drive: FloppyDrive,
  { name }: SectorCommand,
  number: number,
  path: DataPath,
  scan: Scan,
): Promise<Step> {
  const data = new Uint8Array(SECTOR);
  const isWrite = name === 'write' || name === 'write-deleted';
  let goesOn: boolean | undefined = true;
  if (isWrite) goesOn = await path.take(data);
  if (goesOn === undefined) return 'gone';
  try {
    if (isWrite) await drive.write(number, data);
    else await drive.read(number, data);
  } catch {
    return { st1: isWrite ? St1.notWritable : St1.dataError, st2: isWrite ? 0 : St2.dataError };
  }
  if (scan.isScan) {
    const wanted = new Uint8Array(SECTOR);
    goesOn = await path.take(wanted);
    scan.compare(data, wanted);
  } else if (!isWrite && name !== 'verify') goesOn = await path.give(data);
  if (goesOn === undefined) return 'gone';
  return goesOn ? 'more' : 'end';
}

/** What SCAN commands found: a sector all of whose bytes are as they ask. */
class Scan {
  readonly isScan: boolean;
  isMet = false;
  status = 0;
  readonly #name: CommandName;

  constructor(name: CommandName) {
    this.#name = name;
    this.isScan = name.startsWith('scan-');
  }

  /** 0xff in the guest's data matches everything. */
  compare(disk: Uint8Array, wanted: Uint8Array): void {
    let isEqual = true;
    this.isMet = true;
    for (let i = 0; i < disk.length; i++) {
      const difference = wanted[i] === 0xff ? 0 : disk[i]! - wanted[i]!;
      if (difference === 0) continue;
      isEqual = false;
      const fits = difference < 0 ? 'scan-low' : 'scan-high';
      if (this.#name !== fits) this.isMet = false;
    }
    this.status = !this.isMet ? St2.scanFailed : isEqual ? St2.scanEqual : 0;
  }
}

/** Bytes that the guest gives for each sector of FORMAT TRACK: its identification. */
const ID_BYTES = 4;

/** Formats a track: each sector that the guest names gets the filler byte. */
export async function format(
  drive: FloppyDrive,
  command: SectorCommand,
  path: DataPath,
): Promise<Outcome | undefined> {
  const filler = new Uint8Array(SECTOR).fill(command.fill);
  const { head } = command.start;
  const place = { cylinder: drive.cylinder, head, sector: 1 };
  const ended = (st0: number, st1: number): Outcome => {
    return { st0: st0 | (drive.head << 2), st1, st2: 0, next: place };
  };
  for (let done = 0; done < command.last; done++) {
    const id = new Uint8Array(ID_BYTES);
    const goesOn = await path.take(id);
    if (goesOn === undefined) return undefined;
    const number = drive.sectorAt(drive.cylinder, head, id[2]!);
    // An identification that no sector of the image has cannot be kept.
    if (number === undefined || id[3] !== LENGTH_512) return ended(St0.abnormal, St1.noData);
    try {
      await drive.write(number, filler);
    } catch {
      return ended(St0.abnormal, St1.notWritable);
    }
    if (!goesOn) break;
  }
  return ended(0, 0);
}
