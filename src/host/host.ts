/** Port: everything that a graph needs from the machine it runs on, in one record. */
import type { Compression } from './compression.js';
import type { HostCrypto } from './crypto.js';
import type { HostFiles } from './file.js';
import type { HostSockets } from './socket.js';

/** Timer port; times in milliseconds. */
export interface Clock {
  now(): number;
  /** Calls `fn` once after `delayMs`; returns a function that cancels it. */
  after(delayMs: number, fn: () => void): () => void;
}

export interface RandomSource {
  /** Fills `out` with cryptographically strong random bytes. */
  fill(out: Uint8Array): void;
}

/** Helpers whose native and JavaScript implementations give equal results. */
export interface Hot {
  /** Whether each byte of `b` is zero. */
  isZero(b: Uint8Array): boolean;
  /** CRC32C (Castagnoli) of `b`, continued from `seed` (0 at the start). */
  crc32c(b: Uint8Array, seed?: number): number;
  /** Whether two arrays of one length hold the same bytes; absent: compare word by word. */
  equal?(a: Uint8Array, b: Uint8Array): boolean;
  /** Those of lib/table-scan.ts. */
  countPlain(table: Uint8Array, from: number, counts: Uint8Array, scan: Float64Array): number;
  equalCounts(block: Uint8Array, counts: Uint8Array): number;
}

export interface Host {
  /** Undefined where there is no file system (a browser without OPFS). */
  readonly files: HostFiles | undefined;
  readonly compression: Compression;
  /** Loads the ciphers and hashes; absent where the host has none that disks need. */
  readonly loadCrypto?: () => Promise<HostCrypto>;
  /** Loads the sockets; absent where programs cannot connect. */
  readonly loadSockets?: () => Promise<HostSockets>;
  readonly clock: Clock;
  readonly random: RandomSource;
  readonly hot: Hot;
}
