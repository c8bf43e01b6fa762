/**
 * What a CD or DVD drive answers (MMC-6, SPC-4): inquiry, sense, table of contents, configuration,
 * mode pages, events. Pure codecs: each takes what it tells and returns the bytes.
 */

/** Sense key, additional sense code and qualifier. */
export interface Sense {
  readonly key: number;
  readonly asc: number;
  readonly ascq: number;
}

const sense = (key: number, asc: number, ascq = 0): Sense => ({ key, asc, ascq });

/** Errors that the drive reports. */
export const senses = {
  none: sense(0, 0),
  noMedium: sense(2, 0x3a),
  removalPrevented: sense(2, 0x53, 2),
  readError: sense(3, 0x11),
  invalidCommand: sense(5, 0x20),
  outOfRange: sense(5, 0x21),
  invalidField: sense(5, 0x24),
  incompatibleMedium: sense(5, 0x30),
  mediumChanged: sense(6, 0x28),
} as const;

/** Frames of a CD of 80 minutes; longer media are DVDs. */
const CD_FRAMES = 80 * 60 * 75;
const PROFILE_CD = 0x08;
const PROFILE_DVD = 0x10;
const LEAD_OUT = 0xaa;

/** Whether a medium of so many blocks is a DVD. */
export function isDvd(blocks: number): boolean {
  return blocks > CD_FRAMES;
}

function record(bytes: number): { readonly out: Uint8Array; readonly view: DataView } {
  const out = new Uint8Array(bytes);
  return { out, view: new DataView(out.buffer) };
}

function putText(out: Uint8Array, at: number, bytes: number, text: string): void {
  for (let i = 0; i < bytes; i++) out[at + i] = i < text.length ? text.charCodeAt(i) & 0x7f : 0x20;
}

/** Fixed-format sense data of 18 bytes (SPC-4 4.5.3). */
export function senseData({ key, asc, ascq }: Sense): Uint8Array {
  const { out } = record(18);
  out.set([0x70, 0, key, 0, 0, 0, 0, 10]);
  out[12] = asc;
  out[13] = ascq;
  return out;
}

/** Standard inquiry data. */
export function inquiryData(vendor: string, product: string, revision: string): Uint8Array {
  const { out } = record(36);
  out.set([0x05, 0x80, 0x00, 0x21, 31]);
  putText(out, 8, 8, vendor);
  putText(out, 16, 16, product);
  putText(out, 32, 4, revision);
  return out;
}

/** READ CAPACITY: last block and block length. */
export function capacityData(blocks: number): Uint8Array {
  const { out, view } = record(8);
  view.setUint32(0, Math.min(Math.max(blocks, 1) - 1, 0xffff_ffff));
  view.setUint32(4, 2048);
  return out;
}

function address(out: Uint8Array, at: number, lba: number, msf: boolean): void {
  if (!msf) {
    new DataView(out.buffer).setUint32(at, lba);
    return;
  }
  const frame = lba + 150;
  out[at + 1] = Math.min(255, Math.floor(frame / 75 / 60));
  out[at + 2] = Math.floor(frame / 75) % 60;
  out[at + 3] = frame % 75;
}

/** READ TOC format 0 of a disc with one data track; undefined: there is no such track. */
export function tocData(blocks: number, msf: boolean, start: number): Uint8Array | undefined {
  if (start > 1 && start !== LEAD_OUT) return undefined;
  const tracks = start <= 1 ? [1, LEAD_OUT] : [LEAD_OUT];
  const { out, view } = record(4 + 8 * tracks.length);
  view.setUint16(0, out.length - 2);
  out[2] = 1;
  out[3] = 1;
  tracks.forEach((track, i) => {
    const at = 4 + 8 * i;
    out[at + 1] = track === 1 ? 0x14 : 0x16;
    out[at + 2] = track;
    address(out, at + 4, track === 1 ? 0 : blocks, msf);
  });
  return out;
}

/** READ TOC format 1: one session. */
export function sessionData(msf: boolean): Uint8Array {
  const { out } = record(12);
  out.set([0, 10, 1, 1, 0, 0x14, 1]);
  address(out, 8, 0, msf);
  return out;
}

/** READ TOC format 2: the lead-in as it is on the disc. */
export function rawTocData(blocks: number, msf: boolean): Uint8Array {
  const points = [0xa0, 0xa1, 0xa2, 1];
  const { out, view } = record(4 + 11 * points.length);
  view.setUint16(0, out.length - 2);
  out[2] = 1;
  out[3] = 1;
  points.forEach((point, i) => {
    const at = 4 + 11 * i;
    out[at] = 1;
    out[at + 1] = point === 0xa2 ? 0x16 : 0x14;
    out[at + 3] = point;
    if (point === 0xa0 || point === 0xa1) out[at + 8] = 1;
    else {
      const place = new Uint8Array(4);
      address(place, 0, point === 1 ? 0 : blocks, msf);
      out.set(place.subarray(1), at + 8);
    }
  });
  return out;
}

/** GET CONFIGURATION: profiles, core, removable medium, multiple reading. */
export function configurationData(blocks: number | undefined): Uint8Array {
  const { out, view } = record(8 + 12 + 12 + 8);
  view.setUint32(0, out.length - 4);
  const current = blocks === undefined ? 0 : isDvd(blocks) ? PROFILE_DVD : PROFILE_CD;
  view.setUint16(6, current);
  // Profile list.
  out.set([0, 0, 0x03, 8], 8);
  view.setUint16(12, PROFILE_DVD);
  out[14] = current === PROFILE_DVD ? 1 : 0;
  view.setUint16(16, PROFILE_CD);
  out[18] = current === PROFILE_CD ? 1 : 0;
  // Core: ATAPI.
  out.set([0, 1, 0x0b, 8, 0, 0, 0, 2, 1], 20);
  // Removable medium: tray, may be locked, ejects.
  out.set([0, 3, 0x03, 4, 0x29], 32);
  return out;
}

/** A mode parameter header and a page; undefined: there is no such page. */
export function modePage(page: number, isLocked: boolean, medium: number): Uint8Array | undefined {
  let body: number[];
  switch (page) {
    case 0x01: // read errors: eight tries
      body = [0x01, 6, 0, 5, 0, 0, 0, 0];
      break;
    case 0x0e: // sound
      body = [0x0e, 14, 4, 0, 0, 0, 0, 0, 1, 0xff, 2, 0xff, 0, 0, 0, 0];
      break;
    case 0x2a: // what the drive can do
      body = [0x2a, 0x12, 0x3b, 0, 0x70, 0, 0x29 | (isLocked ? 2 : 0), 0];
      body.push(0x02, 0xc2, 0, 2, 0x02, 0x00, 0x02, 0xc2, 0, 0, 0, 0);
      break;
    default:
      return undefined;
  }
  const { out, view } = record(8 + body.length);
  view.setUint16(0, out.length - 2);
  out[2] = medium;
  out.set(body, 8);
  return out;
}

/** What GET EVENT STATUS NOTIFICATION tells of the medium. */
export interface MediaEvent {
  /** 0 nothing, 1 somebody wants the medium out, 2 a new one, 3 it was taken out. */
  readonly code: number;
  readonly isTrayOpen: boolean;
  readonly isPresent: boolean;
}

/** The answer for the classes that a drive was asked for, a bit each; only the medium's exist. */
export function eventData(classes: number, event: MediaEvent): Uint8Array {
  const media = 1 << 4;
  if ((classes & media) === 0) return new Uint8Array([0, 2, 0x80, media]);
  const status = (event.isTrayOpen ? 1 : 0) | (event.isPresent ? 2 : 0);
  return new Uint8Array([0, 6, 4, media, event.code, status, 0, 0]);
}

/** READ DISC INFORMATION: one finished session with one track. */
export function discData(): Uint8Array {
  const { out } = record(34);
  out.set([0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
  return out;
}

/** READ DVD STRUCTURE; undefined: there is no such structure. */
export function dvdStructure(format: number, blocks: number): Uint8Array | undefined {
  switch (format) {
    case 0x00: {
      const { out, view } = record(4 + 17);
      view.setUint16(0, 4 + 17 - 2);
      out.set([0x01, 0x0f, 0x01, 0x00], 4);
      view.setUint32(8, 0x03_0000);
      view.setUint32(12, Math.min(0x03_0000 + blocks - 1, 0xff_ffff));
      view.setUint32(16, Math.min(blocks - 1, 0xff_ffff));
      return out;
    }
    case 0x01: // no copyright
      return new Uint8Array([0, 6, 0, 0, 0, 0, 0, 0]);
    case 0x03: {
      const { out, view } = record(4 + 188); // no burst cutting area
      view.setUint16(0, 4 + 188 - 2);
      return out;
    }
    case 0x04: {
      const { out, view } = record(4 + 2048);
      view.setUint16(0, 4 + 2048 - 2);
      return out;
    }
    case 0xff: {
      const { out, view } = record(4 + 16);
      view.setUint16(0, 4 + 16 - 2);
      [0x00, 0x01, 0x03, 0x04].forEach((each, i) => {
        out[4 + 4 * i] = each;
        out[5 + 4 * i] = 0x40;
      });
      return out;
    }
    default:
      return undefined;
  }
}

/** A CD frame of 2352 bytes around 2048 of data: sync, header, and no correction codes. */
export function rawFrame(lba: number, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(2352);
  out.fill(0xff, 1, 11);
  const msf = new Uint8Array(4);
  address(msf, 0, lba, true);
  out.set(msf.subarray(1), 12);
  out[15] = 1;
  out.set(data, 16);
  return out;
}
