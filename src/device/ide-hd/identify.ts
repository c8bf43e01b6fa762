/** What an ide-hd says of itself: IDENTIFY DEVICE (ATA8-ACS 7.16). */
import { IdentifyWords } from '../bus/ide/identify.js';
import type { IdeNames } from '../bus/ide/names.js';
import type { Geometry } from '../bus/geometry.js';

/** Sectors that 28-bit addresses reach. */
const MAX_LBA28 = 0x0fff_ffff;
/** Greatest number of sectors of a block of READ MULTIPLE. */
export const MAX_MULTIPLE = 16;

export interface IdentifyState {
  readonly names: IdeNames;
  readonly geometry: Geometry;
  /** Geometry that INITIALIZE DEVICE PARAMETERS set. */
  readonly current: Geometry;
  readonly sectors: number;
  readonly multiple: number;
  readonly writeCache: boolean;
  readonly smart: boolean;
  readonly trim: boolean;
  /** Chosen by SET FEATURES: bits of words 62, 63 and 88 that say which mode is active. */
  readonly mode: { readonly kind: 'mwdma' | 'udma' | 'none'; readonly number: number };
  /** log2 of the logical sectors in a physical one. */
  readonly physicalExponent: number;
  readonly rotationRate: number;
  /** Depth of the queue of READ/WRITE FPDMA QUEUED; 0 where the port has none. */
  readonly queueDepth: number;
}

/** The 512 bytes of IDENTIFY DEVICE. */
export function identifyDisk(state: IdentifyState): Uint8Array {
  const { names, geometry, current, sectors, mode } = state;
  const w = new IdentifyWords();
  const lba28 = Math.min(sectors, MAX_LBA28);
  const inCurrent = current.cylinders * current.heads * current.sectors;
  w.set(0, 0x0040)
    .set(1, geometry.cylinders)
    .set(3, geometry.heads)
    .set(4, 512 * geometry.sectors)
    .set(5, 512)
    .set(6, geometry.sectors)
    .text(10, 10, names.serial)
    .set(20, 3)
    .set(21, 512)
    .set(22, 4)
    .text(23, 4, names.version)
    .text(27, 20, names.model)
    .set(47, 0x8000 | MAX_MULTIPLE)
    .set(48, 1)
    .set(49, 0x0f00)
    .set(51, 0x0200)
    .set(52, 0x0200)
    .set(53, 7)
    .set(54, current.cylinders)
    .set(55, current.heads)
    .set(56, current.sectors)
    .set32(57, Math.min(inCurrent, MAX_LBA28))
    .set(59, state.multiple === 0 ? 0 : 0x0100 | state.multiple)
    .set32(60, lba28)
    .set(63, 0x07 | (mode.kind === 'mwdma' ? 0x100 << mode.number : 0))
    .set(64, 3)
    .set(65, 120)
    .set(66, 120)
    .set(67, 120)
    .set(68, 120);
  if (state.trim) w.set(69, 0x4020).set(105, 1).set(169, 1);
  if (state.queueDepth > 0) w.set(75, state.queueDepth - 1).set(76, 0x0102);
  w.set(80, 0x00f0).set(81, 0x0016);
  // NOP, WRITE BUFFER cache, SMART; then 48 bits, flushes; then FUA and SMART's logs.
  w.set(82, 0x4021)
    .set(83, 0x7400)
    .set(84, 0x4042 | (names.wwn === 0n ? 0 : 0x0100));
  w.set(85, 0x4000 | (state.smart ? 1 : 0) | (state.writeCache ? 0x20 : 0)).set(86, 0x3400);
  w.set(87, 0x4042 | (names.wwn === 0n ? 0 : 0x0100));
  w.set(88, 0x3f | (mode.kind === 'udma' ? 0x100 << mode.number : 0));
  w.set(93, 0x6001).set64(100, sectors);
  if (state.physicalExponent > 0) w.set(106, 0x6000 | state.physicalExponent);
  for (let i = 0; i < 4; i++) w.set(108 + i, Number((names.wwn >> BigInt(48 - 16 * i)) & 0xffffn));
  w.set(217, state.rotationRate);
  return w.bytes;
}
