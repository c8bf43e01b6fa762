/** LUKS1 header codec (LUKS On-Disk Format Specification 1.2.3, section 3). Big-endian. */
import type { CipherMode, CipherName, HashName } from '../../host/crypto.js';
import { BlockError } from '../errors.js';
import type { IvGenerator } from './sector-cipher.js';
import { cipherSizes, hashSizes, keyBytes } from './sector-cipher.js';

export const LUKS_MAGIC = new Uint8Array([0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]);
export const LUKS_SECTOR = 512;
export const LUKS_SLOTS = 8;
/** Bytes of the header proper; key material begins at LUKS_SLOT_OFFSET. */
export const LUKS_HEADER_BYTES = 592;
export const LUKS_SLOT_OFFSET = 4096;
/** Key material areas are multiples of it. */
export const LUKS_ALIGN_SECTORS = 4096 / LUKS_SECTOR;
export const LUKS_STRIPES = 4000;
export const LUKS_SALT_BYTES = 32;
export const LUKS_DIGEST_BYTES = 20;
const SLOT_ENABLED = 0x00ac71f3;
const SLOT_DISABLED = 0x0000dead;
/** Fewest PBKDF2 rounds (specification, section 4). */
export const LUKS_MIN_ITERATIONS = 1000;

export interface LuksSlot {
  active: boolean;
  iterations: number;
  salt: Uint8Array;
  keyOffsetSectors: number;
  stripes: number;
}

export interface LuksHeader {
  readonly cipher: CipherName;
  readonly mode: CipherMode;
  readonly ivgen: IvGenerator | undefined;
  readonly ivgenHash: HashName | undefined;
  readonly hash: HashName;
  payloadOffsetSectors: number;
  readonly keyBytes: number;
  digest: Uint8Array;
  digestSalt: Uint8Array;
  digestIterations: number;
  uuid: string;
  readonly slots: LuksSlot[];
}

/** Field offsets of the header and of a key slot. */
const at = {
  version: 6,
  cipher_name: 8,
  cipher_mode: 40,
  hash_spec: 72,
  payload_offset: 104,
  key_bytes: 108,
  mk_digest: 112,
  mk_digest_salt: 132,
  mk_digest_iter: 164,
  uuid: 168,
  slots: 208,
} as const;
const SLOT_BYTES = 48;
const slotAt = { active: 0, iterations: 4, salt: 8, key_material_offset: 40, stripes: 44 } as const;

const families: Readonly<Record<string, readonly CipherName[]>> = {
  aes: ['aes-128', 'aes-192', 'aes-256'],
  cast5: ['cast5-128'],
  serpent: ['serpent-128', 'serpent-192', 'serpent-256'],
  twofish: ['twofish-128', 'twofish-192', 'twofish-256'],
  sm4: ['sm4'],
};

function text(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  let out = '';
  for (const b of end < 0 ? bytes : bytes.subarray(0, end)) out += String.fromCharCode(b);
  return out;
}

function fail(message: string): never {
  throw new BlockError('EINVAL', message);
}

/** Whether an image begins with the magic. */
export function isLuks(head: Uint8Array): boolean {
  return LUKS_MAGIC.every((b, i) => head[i] === b);
}

/**
 * Reads and checks a header of at least LUKS_HEADER_BYTES bytes; throws EINVAL. `detached`: the
 * payload is elsewhere, so it may begin at 0.
 */
export function decodeLuksHeader(bytes: Uint8Array, detached = false): LuksHeader {
  if (!isLuks(bytes) || bytes.byteLength < LUKS_HEADER_BYTES) {
    fail('Volume is not in LUKS format');
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = view.getUint16(at.version);
  if (version !== 1) {
    throw new BlockError('ENOTSUP', `LUKS version ${String(version)} is not supported`);
  }
  const nul = (offset: number, what: string): string => {
    const field = bytes.subarray(offset, offset + 32);
    if (!field.includes(0)) fail(`LUKS header ${what} is not NUL terminated`);
    return text(field);
  };
  const cipherName = nul(at.cipher_name, 'cipher name');
  const modeText = nul(at.cipher_mode, 'cipher mode');
  const hash = toHash(nul(at.hash_spec, 'hash spec'));
  const masterKeyBytes = view.getUint32(at.key_bytes);
  const { mode, ivgen, ivgenHash } = parseMode(modeText);
  const header: LuksHeader = {
    cipher: toCipher(cipherName, mode, masterKeyBytes),
    mode,
    ivgen,
    ivgenHash,
    hash,
    payloadOffsetSectors: view.getUint32(at.payload_offset),
    keyBytes: masterKeyBytes,
    digest: bytes.slice(at.mk_digest, at.mk_digest + LUKS_DIGEST_BYTES),
    digestSalt: bytes.slice(at.mk_digest_salt, at.mk_digest_salt + LUKS_SALT_BYTES),
    digestIterations: view.getUint32(at.mk_digest_iter),
    uuid: text(bytes.subarray(at.uuid, at.uuid + 40)),
    slots: [],
  };
  for (let i = 0; i < LUKS_SLOTS; i++) header.slots.push(decodeSlot(bytes, view, i));
  checkLayout(header, detached);
  return header;
}

function decodeSlot(bytes: Uint8Array, view: DataView, index: number): LuksSlot {
  const base = at.slots + index * SLOT_BYTES;
  const active = view.getUint32(base + slotAt.active);
  if (active !== SLOT_ENABLED && active !== SLOT_DISABLED) {
    fail(`Keyslot ${String(index)} state (active/disable) is corrupted`);
  }
  return {
    active: active === SLOT_ENABLED,
    iterations: view.getUint32(base + slotAt.iterations),
    salt: bytes.slice(base + slotAt.salt, base + slotAt.salt + LUKS_SALT_BYTES),
    keyOffsetSectors: view.getUint32(base + slotAt.key_material_offset),
    stripes: view.getUint32(base + slotAt.stripes),
  };
}

/** Key material lies between header and payload, slots do not overlap, counts are sane. */
function checkLayout(header: LuksHeader, detached: boolean): void {
  if (header.digestIterations === 0) fail('LUKS key iteration count is zero');
  if (!detached && header.payloadOffsetSectors * LUKS_SECTOR < LUKS_SLOT_OFFSET) {
    fail('LUKS payload is overlapping with the header');
  }
  const split = splitSectors(header.keyBytes, LUKS_STRIPES);
  header.slots.forEach((slot, i) => {
    const name = `Keyslot ${String(i)}`;
    if (slot.stripes !== LUKS_STRIPES) {
      fail(`${name} is corrupted (stripes ${String(slot.stripes)} != ${String(LUKS_STRIPES)})`);
    }
    if (slot.active && slot.iterations === 0) fail(`${name} iteration count is zero`);
    const start = slot.keyOffsetSectors;
    if (start < Math.ceil(LUKS_HEADER_BYTES / LUKS_SECTOR)) {
      fail(`${name} is overlapping with the LUKS header`);
    }
    if (header.payloadOffsetSectors !== 0 && start + split > header.payloadOffsetSectors) {
      fail(`${name} is overlapping with the encrypted payload`);
    }
    header.slots.forEach((other, k) => {
      if (k <= i) return;
      const apart =
        other.keyOffsetSectors >= start + split || start >= other.keyOffsetSectors + split;
      if (!apart) fail(`Keyslots ${String(i)} and ${String(k)} are overlapping in the header`);
    });
  });
}

/** Sectors that one slot's key material takes. */
export function splitSectors(key: number, stripes: number): number {
  return Math.ceil((key * stripes) / LUKS_SECTOR);
}

/** The header's bytes, LUKS_HEADER_BYTES long. */
export function encodeLuksHeader(header: LuksHeader): Uint8Array {
  const bytes = new Uint8Array(LUKS_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(LUKS_MAGIC);
  view.setUint16(at.version, 1);
  put(bytes, at.cipher_name, header.cipher.split('-')[0] ?? '');
  put(bytes, at.cipher_mode, modeText(header));
  put(bytes, at.hash_spec, header.hash);
  view.setUint32(at.payload_offset, header.payloadOffsetSectors);
  view.setUint32(at.key_bytes, header.keyBytes);
  bytes.set(header.digest, at.mk_digest);
  bytes.set(header.digestSalt, at.mk_digest_salt);
  view.setUint32(at.mk_digest_iter, header.digestIterations);
  put(bytes, at.uuid, header.uuid);
  header.slots.forEach((slot, i) => {
    const base = at.slots + i * SLOT_BYTES;
    view.setUint32(base + slotAt.active, slot.active ? SLOT_ENABLED : SLOT_DISABLED);
    view.setUint32(base + slotAt.iterations, slot.iterations);
    bytes.set(slot.salt, base + slotAt.salt);
    view.setUint32(base + slotAt.key_material_offset, slot.keyOffsetSectors);
    view.setUint32(base + slotAt.stripes, slot.stripes);
  });
  return bytes;
}

function put(bytes: Uint8Array, offset: number, value: string): void {
  for (let i = 0; i < value.length; i++) bytes[offset + i] = value.charCodeAt(i);
}

function modeText(header: LuksHeader): string {
  if (header.ivgen === undefined) return header.mode;
  const hash = header.ivgenHash === undefined ? '' : `:${header.ivgenHash}`;
  return `${header.mode}-${header.ivgen}${hash}`;
}

function toHash(name: string): HashName {
  if (Object.hasOwn(hashSizes, name)) return name as HashName;
  return fail(`Hash algorithm '${name}' not supported`);
}

function toCipher(name: string, mode: CipherMode, key: number): CipherName {
  const family = Object.hasOwn(families, name) ? families[name] : undefined;
  // Of the two keys of XTS one is told, as in QEMU.
  const told = mode === 'xts' ? Math.floor(key / 2) : key;
  return (
    family?.find((c) => keyBytes(c, mode) === key) ??
    fail(`Algorithm '${name}' with key size ${String(told)} bytes not supported`)
  );
}

function isMode(text: string): text is CipherMode {
  return ['ecb', 'cbc', 'xts', 'ctr'].includes(text);
}

function isIvGenerator(text: string): text is IvGenerator {
  return ['plain', 'plain64', 'essiv'].includes(text);
}

/** `xts-plain64`, `cbc-essiv:sha256`, `ecb`. */
function parseMode(value: string): {
  mode: CipherMode;
  ivgen: IvGenerator | undefined;
  ivgenHash: HashName | undefined;
} {
  const m = /^([^-]*)(?:-([^:]*)(?::(.*))?)?$/su.exec(value);
  const [, mode = '', ivgen] = m ?? [];
  if (ivgen === undefined && mode !== 'ecb') {
    fail(`Unexpected cipher mode string format '${value}'`);
  }
  if (!isMode(mode)) return fail(`Cipher mode '${mode}' not supported`);
  if (ivgen !== undefined && !isIvGenerator(ivgen)) {
    return fail(`IV generator '${ivgen}' not supported`);
  }
  if (ivgen === 'essiv' && m?.[3] === undefined) fail('Missing IV generator hash specification');
  return { mode, ivgen, ivgenHash: m?.[3] === undefined ? undefined : toHash(m[3]) };
}

/** Whether a cipher can be named in a LUKS1 header (it has no DES). */
export function luksHasCipher(cipher: CipherName): boolean {
  return cipherSizes[cipher].key > 0 && cipher !== 'des' && cipher !== '3des';
}
