/**
 * LUKS1 volumes (LUKS On-Disk Format Specification 1.2.3): open with a password,
 * create, add and erase passwords. Used by the `luks` format (header in front of the
 * payload) and by qcow2 (header in clusters of its own).
 *
 * Invariants
 *  L1  A slot's key material is written before the slot is marked active, with a flush
 *      between, so that a crash leaves the old set of passwords.
 *  L2  An erased slot is marked inactive and its material overwritten with random bytes;
 *      the last active slot is only erased by force.
 *  L3  A header that could not be written is not in memory either: who was told of an error
 *      can try again, and no later write of the header does what was said to have failed.
 *  L4  When the only active slot is overwritten, another one holds the new password meanwhile.
 */
import type { CipherMode, CipherName, HashName, HostCrypto } from '../../host/crypto.js';
import type { Clock, RandomSource } from '../../host/host.js';
import { BlockError } from '../errors.js';
import { afMerge, afSplit } from './af-splitter.js';
import type { LuksHeader, LuksSlot } from './luks-header.js';
import {
  decodeLuksHeader,
  encodeLuksHeader,
  LUKS_ALIGN_SECTORS,
  LUKS_DIGEST_BYTES,
  LUKS_HEADER_BYTES,
  LUKS_MIN_ITERATIONS,
  LUKS_SALT_BYTES,
  LUKS_SECTOR,
  LUKS_SLOT_OFFSET,
  LUKS_SLOTS,
  LUKS_STRIPES,
  luksHasCipher,
  splitSectors,
} from './luks-header.js';
import type { IvGenerator, SectorCipher } from './sector-cipher.js';
import { cipherSizes, hashSizes, keyBytes, sectorCipher } from './sector-cipher.js';

/** Where header and key material are stored; offsets are bytes from the header's start. */
export interface LuksStorage {
  read(offset: number, out: Uint8Array): Promise<void>;
  write(offset: number, data: Uint8Array): Promise<void>;
  flush(): Promise<void>;
}

/** What the machine gives. */
export interface LuksHost {
  readonly crypto: HostCrypto;
  readonly random: RandomSource;
  readonly clock: Clock;
}

/** Creation options with QEMU's names (QCryptoBlockCreateOptionsLUKS) and defaults. */
export interface LuksCreateOptions {
  readonly cipher: CipherName;
  readonly mode: CipherMode;
  readonly ivgen: IvGenerator | undefined;
  readonly ivgenHash: HashName | undefined;
  readonly hash: HashName;
  /** Milliseconds that unlocking may take. */
  readonly iterTimeMs: number;
}

/** Fills in QEMU's defaults: aes-256, xts, plain64, sha256, 2000 ms; essiv takes sha256. */
export function luksDefaults(given: Partial<LuksCreateOptions>): LuksCreateOptions {
  const mode = given.mode ?? 'xts';
  const ivgen = given.ivgen ?? 'plain64';
  const essivHash = ivgen === 'essiv' ? (given.ivgenHash ?? 'sha256') : given.ivgenHash;
  return {
    cipher: given.cipher ?? 'aes-256',
    mode,
    ivgen,
    ivgenHash: essivHash,
    hash: given.hash ?? 'sha256',
    iterTimeMs: given.iterTimeMs ?? 2000,
  };
}

/** Bytes that header and key material of a new volume take (a multiple of 4096). */
export function luksPayloadOffset(options: Pick<LuksCreateOptions, 'cipher' | 'mode'>): number {
  return (
    LUKS_SLOT_OFFSET +
    LUKS_SLOTS * slotSectors(keyBytes(options.cipher, options.mode)) * LUKS_SECTOR
  );
}

function slotSectors(key: number): number {
  const n = splitSectors(key, LUKS_STRIPES);
  return Math.ceil(n / LUKS_ALIGN_SECTORS) * LUKS_ALIGN_SECTORS;
}

/** An unlocked volume. */
export class LuksVolume {
  readonly header: LuksHeader;
  readonly cipher: SectorCipher;
  readonly #host: LuksHost;
  readonly #storage: LuksStorage;
  readonly #masterKey: Uint8Array;

  constructor(host: LuksHost, storage: LuksStorage, header: LuksHeader, masterKey: Uint8Array) {
    this.#host = host;
    this.#storage = storage;
    this.header = header;
    this.#masterKey = masterKey;
    this.cipher = volumeCipher(host, header, masterKey);
  }

  /** Where the payload begins, in bytes; 0 for a detached header. */
  get payloadOffset(): number {
    return this.header.payloadOffsetSectors * LUKS_SECTOR;
  }

  /** What {@link LuksVolume.describe} tells of this volume. */
  info(): Record<string, unknown> {
    return LuksVolume.describe(this.header);
  }

  /** The `data` of QMP's ImageInfoSpecificLUKS, and of qcow2's `encrypt`. */
  static describe(h: LuksHeader): Record<string, unknown> {
    return {
      'ivgen-alg': h.ivgen ?? 'plain',
      ...(h.ivgen !== 'essiv' ? {} : { 'ivgen-hash-alg': h.ivgenHash ?? 'sha256' }),
      'detached-header': h.payloadOffsetSectors === 0,
      'hash-alg': h.hash,
      'cipher-alg': h.cipher,
      uuid: h.uuid,
      'cipher-mode': h.mode,
      slots: h.slots.map((slot) => slotInfo(slot)),
      'payload-offset': h.payloadOffsetSectors * LUKS_SECTOR,
      'master-key-iters': h.digestIterations,
    };
  }

  /**
   * Adds `password` in `slot` or the first free one. Throws EINVAL when none is free (L1), EPERM
   * when `unlock` is given and opens no slot.
   */
  async addPassword(
    password: Uint8Array,
    options: { slot?: number; iterTimeMs: number; force?: boolean; unlock?: Uint8Array },
  ): Promise<void> {
    const index = options.slot ?? this.header.slots.findIndex((s) => !s.active);
    if (index < 0) throw new BlockError('EINVAL', "Can't add a keyslot - all keyslots are in use");
    const slot = this.#slot(index);
    if (slot.active && options.force !== true) {
      throw new BlockError(
        'EINVAL',
        `Refusing to overwrite active keyslot ${String(index)} - please erase it first`,
      );
    }
    if (options.unlock !== undefined) {
      await masterKeyOf(this.#host, this.#storage, this.header, options.unlock);
    }
    const entry = { password, masterKey: this.#masterKey, iterTimeMs: options.iterTimeMs };
    const isLast = slot.active && this.#activeCount() === 1;
    const spare = isLast ? this.header.slots.findIndex((s) => !s.active) : -1;
    if (spare >= 0) await storePassword(this.#host, this.#storage, this.header, spare, entry);
    await storePassword(this.#host, this.#storage, this.header, index, entry);
    if (spare >= 0) await this.#wipe(spare);
  }

  /** Erases one slot (L2), if `password` opens it where one is given. */
  async eraseSlot(index: number, force = false, password?: Uint8Array): Promise<void> {
    const slot = this.#slot(index);
    if (password !== undefined) {
      const key = await trySlot(this.#host, this.#storage, this.header, index, password);
      if (key === undefined) {
        throw new BlockError(
          'EINVAL',
          `Given keyslot ${String(index)} doesn't contain the given old password for erase ` +
            'operation',
        );
      }
    }
    if (!slot.active && !force) {
      throw new BlockError(
        'EINVAL',
        `Given keyslot ${String(index)} is already erased (inactive) `,
      );
    }
    if (this.#activeCount() === 1 && slot.active && !force) {
      throw new BlockError(
        'EINVAL',
        `Attempt to erase the only active keyslot ${String(index)} which will erase all the ` +
          'data in the image irreversibly - refusing operation',
      );
    }
    await this.#wipe(index);
  }

  /** Erases every slot that `password` opens; refuses if none would be left, unless by force. */
  async erasePassword(password: Uint8Array, force = false): Promise<void> {
    const matching: number[] = [];
    for (let i = 0; i < LUKS_SLOTS; i++) {
      const key = await trySlot(this.#host, this.#storage, this.header, i, password);
      if (key !== undefined) matching.push(i);
    }
    if (matching.length === 0) {
      throw new BlockError('EINVAL', 'No keyslots match given (old) password for erase operation');
    }
    if (matching.length === this.#activeCount() && !force) {
      throw new BlockError(
        'EINVAL',
        'All the active keyslots match the (old) password that was given and erasing them will ' +
          'erase all the data in the image irreversibly - refusing operation',
      );
    }
    for (const i of matching) await this.#wipe(i);
  }

  #activeCount(): number {
    return this.header.slots.filter((s) => s.active).length;
  }

  #slot(index: number): LuksSlot {
    const slot = this.header.slots[index];
    if (slot === undefined) {
      throw new BlockError(
        'EINVAL',
        `Invalid keyslot ${String(index)} specified, must be between 0 and ` +
          String(LUKS_SLOTS - 1),
      );
    }
    return slot;
  }

  async #wipe(index: number): Promise<void> {
    const slot = this.#slot(index);
    const salt = new Uint8Array(LUKS_SALT_BYTES);
    await changeSlot(this.#storage, this.header, slot, { active: false, iterations: 0, salt });
    const noise = new Uint8Array(splitSectors(this.header.keyBytes, slot.stripes) * LUKS_SECTOR);
    this.#host.random.fill(noise);
    await this.#storage.write(slot.keyOffsetSectors * LUKS_SECTOR, noise);
    await this.#storage.flush();
  }
}

function slotInfo(slot: LuksSlot): Record<string, unknown> {
  const base = { active: slot.active, 'key-offset': slot.keyOffsetSectors * LUKS_SECTOR };
  return slot.active ? { ...base, iters: slot.iterations, stripes: slot.stripes } : base;
}

function volumeCipher(host: LuksHost, header: LuksHeader, key: Uint8Array): SectorCipher {
  return sectorCipher(host.crypto, {
    cipher: header.cipher,
    mode: header.mode,
    ivgen: header.ivgen,
    ivgenHash: header.ivgenHash,
    key,
    sectorBytes: LUKS_SECTOR,
  });
}

/** Reads the header only (`info` without a password). `detached`: the payload is elsewhere. */
export async function readLuksHeader(storage: LuksStorage, detached = false): Promise<LuksHeader> {
  const bytes = new Uint8Array(LUKS_HEADER_BYTES);
  await storage.read(0, bytes);
  return decodeLuksHeader(bytes, detached);
}

/**
 * Unlocks a volume. Throws EPERM when no slot takes the password. `detached`: `storage` holds the
 * header, the payload is elsewhere.
 */
export async function openLuks(
  host: LuksHost,
  storage: LuksStorage,
  password: Uint8Array,
  detached = false,
): Promise<LuksVolume> {
  const header = await readLuksHeader(storage, detached);
  const key = await masterKeyOf(host, storage, header, password);
  return new LuksVolume(host, storage, header, key);
}

/** Throws EPERM when `password` opens no slot. */
async function masterKeyOf(
  host: LuksHost,
  storage: LuksStorage,
  header: LuksHeader,
  password: Uint8Array,
): Promise<Uint8Array> {
  for (let i = 0; i < LUKS_SLOTS; i++) {
    const key = await trySlot(host, storage, header, i, password);
    if (key !== undefined) return key;
  }
  throw new BlockError('EPERM', 'Invalid password, cannot unlock any keyslot');
}

/** The master key if slot `index` is active and `password` opens it. */
async function trySlot(
  host: LuksHost,
  storage: LuksStorage,
  header: LuksHeader,
  index: number,
  password: Uint8Array,
): Promise<Uint8Array | undefined> {
  const slot = header.slots[index];
  if (slot?.active !== true) return undefined;
  const { crypto } = host;
  const n = header.keyBytes;
  checkRounds(`iteration count of keyslot ${String(index)}`, slot.iterations);
  checkRounds('iteration count of the master key', header.digestIterations);
  const wrapping = await crypto.pbkdf2(header.hash, password, slot.salt, slot.iterations, n);
  const material = new Uint8Array(splitSectors(n, slot.stripes) * LUKS_SECTOR);
  await storage.read(slot.keyOffsetSectors * LUKS_SECTOR, material);
  await volumeCipher(host, header, wrapping).decrypt(material, 0);
  const key = afMerge(crypto, header.hash, material.subarray(0, n * slot.stripes), n);
  return (await isMasterKey(crypto, header, key)) ? key : undefined;
}

async function isMasterKey(
  crypto: HostCrypto,
  header: LuksHeader,
  key: Uint8Array,
): Promise<boolean> {
  const { hash, digestSalt, digestIterations } = header;
  const digest = await crypto.pbkdf2(hash, key, digestSalt, digestIterations, LUKS_DIGEST_BYTES);
  return digest.every((b, i) => b === header.digest[i]);
}

/**
 * Writes header and first password of a new volume. `detached`: the payload is
 * elsewhere. Throws ENOTSUP for ciphers that the host or LUKS1 lacks.
 */
export async function createLuks(
  host: LuksHost,
  storage: LuksStorage,
  password: Uint8Array,
  options: LuksCreateOptions,
  detached = false,
): Promise<LuksVolume> {
  const n = keyBytes(options.cipher, options.mode);
  checkCreate(host.crypto, options);
  const masterKey = randomBytes(host, n);
  const header: LuksHeader = {
    cipher: options.cipher,
    mode: options.mode,
    ivgen: options.ivgen,
    ivgenHash: options.ivgenHash,
    hash: options.hash,
    payloadOffsetSectors: detached ? 0 : luksPayloadOffset(options) / LUKS_SECTOR,
    keyBytes: n,
    digest: new Uint8Array(LUKS_DIGEST_BYTES),
    digestSalt: randomBytes(host, LUKS_SALT_BYTES),
    digestIterations: 0,
    uuid: randomUuid(host),
    slots: [],
  };
  // The cipher is tried before anything is written.
  volumeCipher(host, header, masterKey);
  for (let i = 0; i < LUKS_SLOTS; i++) {
    header.slots.push({
      active: false,
      iterations: 0,
      salt: new Uint8Array(LUKS_SALT_BYTES),
      keyOffsetSectors: LUKS_SLOT_OFFSET / LUKS_SECTOR + i * slotSectors(n),
      stripes: LUKS_STRIPES,
    });
  }
  const perMs = await iterationsPerMs(host, options.hash, LUKS_DIGEST_BYTES);
  // Section 4.1: an eighth of the time goes to the digest of the master key.
  header.digestIterations = Math.max(LUKS_MIN_ITERATIONS, rounds(perMs, options.iterTimeMs / 8));
  header.digest = await host.crypto.pbkdf2(
    options.hash,
    masterKey,
    header.digestSalt,
    header.digestIterations,
    LUKS_DIGEST_BYTES,
  );
  await storePassword(host, storage, header, 0, {
    password,
    masterKey,
    iterTimeMs: options.iterTimeMs,
  });
  return new LuksVolume(host, storage, header, masterKey);
}

function checkCreate(crypto: HostCrypto, options: LuksCreateOptions): void {
  if (!luksHasCipher(options.cipher)) {
    throw new BlockError('EINVAL', `Algorithm '${options.cipher}' not supported`);
  }
  if (options.mode === 'xts' && cipherSizes[options.cipher].block !== 16) {
    throw new BlockError('EINVAL', 'Unsupported cipher mode xts');
  }
  for (const hash of [options.hash, options.ivgenHash]) {
    if (hash !== undefined && !crypto.hasHash(hash)) {
      throw new BlockError('ENOTSUP', `Hash algorithm '${hash}' is not supported`);
    }
  }
}

interface PasswordEntry {
  readonly password: Uint8Array;
  readonly masterKey: Uint8Array;
  readonly iterTimeMs: number;
}

/** Key material first, header last (L1). */
async function storePassword(
  host: LuksHost,
  storage: LuksStorage,
  header: LuksHeader,
  index: number,
  entry: PasswordEntry,
): Promise<void> {
  const slot = header.slots[index];
  if (slot === undefined) throw new BlockError('EINVAL', `There is no keyslot ${String(index)}`);
  const { crypto } = host;
  const n = header.keyBytes;
  const salt = randomBytes(host, LUKS_SALT_BYTES);
  const perMs = await iterationsPerMs(host, header.hash, n);
  const iterations = Math.max(LUKS_MIN_ITERATIONS, rounds(perMs, entry.iterTimeMs));
  const wrapping = await crypto.pbkdf2(header.hash, entry.password, salt, iterations, n);
  const split = afSplit(crypto, host.random, header.hash, entry.masterKey, LUKS_STRIPES);
  const material = new Uint8Array(splitSectors(n, LUKS_STRIPES) * LUKS_SECTOR);
  material.set(split);
  await volumeCipher(host, header, wrapping).encrypt(material, 0);
  await storage.write(slot.keyOffsetSectors * LUKS_SECTOR, material);
  await storage.flush();
  const stripes = LUKS_STRIPES;
  await changeSlot(storage, header, slot, { active: true, iterations, salt, stripes });
}

/** Stores the header with a slot changed; if that fails, the slot is as before (L3). */
async function changeSlot(
  storage: LuksStorage,
  header: LuksHeader,
  slot: LuksSlot,
  changes: Partial<LuksSlot>,
): Promise<void> {
  const before = { ...slot };
  Object.assign(slot, changes);
  try {
    await storage.write(0, encodeLuksHeader(header));
    await storage.flush();
  } catch (e) {
    Object.assign(slot, before);
    throw e;
  }
}

/** Most rounds that a LUKS header can tell. */
const MAX_ROUNDS = 0xffff_ffff;
/**
 * Most rounds that are done: several minutes of work, a hundred times what `iter-time` asks for by
 * default. More is what a crafted header asks for, to keep whoever opens it busy.
 */
const MAX_HOST_ROUNDS = 0x1000_0000;

/** Throws EINVAL for more rounds than anybody waits for. */
function checkRounds(what: string, count: number): void {
  if (count <= MAX_HOST_ROUNDS) return;
  const text = `${String(count)}, expected at most ${String(MAX_HOST_ROUNDS)}`;
  throw new BlockError('EINVAL', `Cannot unlock the LUKS volume: the ${what} is ${text}`);
}

/** Rounds that take `ms`. Throws ERANGE when there are more than can be stored or done. */
function rounds(perMs: number, ms: number): number {
  const n = Math.floor(perMs * ms);
  if (n <= MAX_HOST_ROUNDS) return n;
  const most = n > MAX_ROUNDS ? MAX_ROUNDS : MAX_HOST_ROUNDS;
  const text = `PBKDF iterations ${String(n)} larger than ${String(most)}`;
  throw new BlockError('ERANGE', `${text}: Numerical result out of range`);
}

/** PBKDF2 rounds that this machine does in a millisecond, measured for at least 20 ms. */
async function iterationsPerMs(host: LuksHost, hash: HashName, bytes: number): Promise<number> {
  const salt = new Uint8Array(LUKS_SALT_BYTES);
  const password = new Uint8Array(8);
  for (let n = 4096; ; n *= 4) {
    const start = host.clock.now();
    await host.crypto.pbkdf2(hash, password, salt, n, Math.max(bytes, hashSizes[hash]));
    const ms = host.clock.now() - start;
    if (ms >= 20) return n / ms;
  }
}

function randomBytes(host: LuksHost, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes);
  host.random.fill(out);
  return out;
}

/** A version 4 UUID (RFC 9562) in its usual text form. */
function randomUuid(host: LuksHost): string {
  const b = randomBytes(host, 16);
  b[6] = ((b[6] ?? 0) & 0x0f) | 0x40;
  b[8] = ((b[8] ?? 0) & 0x3f) | 0x80;
  const hex = [...b].map((x) => x.toString(16).padStart(2, '0')).join('');
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20),
  ].join('-');
}
