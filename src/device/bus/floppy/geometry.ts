/** Formats of floppy disks, and which of them a medium of a length has. */

/** Kinds of drives, as properties name them. */
export type FloppyType = '144' | '288' | '120' | 'none';

/** Data rates, as they stand in the rate registers. */
const KBPS_500 = 0;
const KBPS_300 = 1;
const KBPS_250 = 2;
const KBPS_1000 = 3;

export interface FloppyGeometry {
  readonly drive: FloppyType;
  /** Sectors of a track, 512 bytes each. */
  readonly sectors: number;
  readonly cylinders: number;
  readonly heads: 1 | 2;
  readonly rate: number;
}

type Row = readonly [FloppyType, number, number, 1 | 2, number];

/** The usual one of each kind of drive comes first; among equal lengths the first counts. */
const rows: readonly Row[] = [
  ['144', 18, 80, 2, KBPS_500],
  ['144', 20, 80, 2, KBPS_500],
  ['144', 21, 80, 2, KBPS_500],
  ['144', 21, 82, 2, KBPS_500],
  ['144', 21, 83, 2, KBPS_500],
  ['144', 22, 80, 2, KBPS_500],
  ['144', 23, 80, 2, KBPS_500],
  ['144', 24, 80, 2, KBPS_500],
  ['288', 36, 80, 2, KBPS_1000],
  ['288', 39, 80, 2, KBPS_1000],
  ['288', 40, 80, 2, KBPS_1000],
  ['288', 44, 80, 2, KBPS_1000],
  ['288', 48, 80, 2, KBPS_1000],
  ['144', 9, 80, 2, KBPS_250],
  ['144', 10, 80, 2, KBPS_250],
  ['144', 10, 82, 2, KBPS_250],
  ['144', 10, 83, 2, KBPS_250],
  ['144', 13, 80, 2, KBPS_250],
  ['144', 14, 80, 2, KBPS_250],
  ['120', 15, 80, 2, KBPS_500],
  ['120', 18, 80, 2, KBPS_500],
  ['120', 18, 82, 2, KBPS_500],
  ['120', 18, 83, 2, KBPS_500],
  ['120', 20, 80, 2, KBPS_500],
  ['120', 9, 40, 2, KBPS_300],
  ['120', 9, 40, 1, KBPS_300],
  ['120', 10, 41, 2, KBPS_300],
  ['120', 10, 42, 2, KBPS_300],
  ['120', 8, 40, 2, KBPS_250],
  ['120', 8, 40, 1, KBPS_250],
  ['144', 9, 80, 1, KBPS_250],
];

const formats: readonly FloppyGeometry[] = rows.map(([drive, sectors, cylinders, heads, rate]) => ({
  drive,
  sectors,
  cylinders,
  heads,
  rate,
}));

/** Number of sectors. */
export function floppySectors({ sectors, cylinders, heads }: FloppyGeometry): number {
  return sectors * cylinders * heads;
}

/** Drives of 2.88 MB take disks of 1.44 MB, too. */
function takes(type: FloppyType, { drive }: FloppyGeometry): boolean {
  return drive === type || (type === '288' && drive === '144');
}

/**
 * The format of a medium of `sectors` sectors in a drive of a kind: one of just that length, or
 * else the usual one of the drive. `type` undefined: whichever drive has such a format.
 */
export function floppyGeometry(
  sectors: number,
  type: FloppyType | undefined,
): FloppyGeometry | undefined {
  const able = type === undefined ? formats : formats.filter((each) => takes(type, each));
  const exact = able.find((each) => floppySectors(each) === sectors);
  if (exact !== undefined || type === undefined) return exact;
  return able.find((each) => each.drive === type);
}

/** Numbers of kinds of drives in CMOS byte 0x10. */
export const floppyCmosTypes: Readonly<Record<FloppyType, number>> = {
  none: 0,
  '120': 2,
  '144': 4,
  '288': 5,
};
