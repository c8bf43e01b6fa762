/**
 * The configuration device of firmware (QEMU's docs/specs/fw_cfg): a selector at port 0x510, data
 * byte by byte at 0x511. Numbered items, and files behind a directory.
 */
import type { IoRegion } from '../device/bus/space.js';

const KEY_SIGNATURE = 0x00;
const KEY_ID = 0x01;
const KEY_RAM = 0x03;
const KEY_CPUS = 0x05;
const KEY_DIRECTORY = 0x19;
const FIRST_FILE = 0x20;
/** A bit of the selector that old clients set in order to write. */
const WRITE_CHANNEL = 0x4000;
/** Items of one architecture have keys of their own from here on: there are none. */
const ARCH_LOCAL = 0x8000;
const NAME_BYTES = 56;
const ENTRY_BYTES = 64;

const encoder = new TextEncoder();

/** A text with a zero byte at its end. */
export function textItem(text: string): Uint8Array {
  return encoder.encode(`${text}\0`);
}

export class FwCfg {
  readonly #items = new Map<number, Uint8Array>();
  readonly #files = new Map<string, Uint8Array>();
  #key = 0;
  #at = 0;

  constructor(ramBytes: number) {
    this.#items.set(KEY_SIGNATURE, encoder.encode('QEMU'));
    this.#items.set(KEY_ID, new Uint8Array([1, 0, 0, 0]));
    const ram = new Uint8Array(8);
    new DataView(ram.buffer).setBigUint64(0, BigInt(ramBytes), true);
    this.#items.set(KEY_RAM, ram);
    this.#items.set(KEY_CPUS, new Uint8Array([1, 0]));
  }

  /** Adds or replaces a numbered item. */
  setItem(key: number, data: Uint8Array): void {
    this.#items.set(key, data);
  }

  /** Adds or replaces a file. */
  setFile(name: string, data: Uint8Array): void {
    this.#files.set(name, data);
  }

  readonly region: IoRegion = {
    name: 'fwcfg',
    bytes: 2,
    read: (offset, size) => {
      if (offset !== 1 || size !== 1) return 0;
      return this.#item()?.[this.#at++] ?? 0;
    },
    write: (offset, size, value) => {
      if (offset !== 0 || size !== 2) return;
      this.#key = value & ~WRITE_CHANNEL;
      this.#at = 0;
    },
  };

  #item(): Uint8Array | undefined {
    if (this.#key === KEY_DIRECTORY) return this.#directory();
    if (this.#key >= ARCH_LOCAL) return undefined;
    if (this.#key < FIRST_FILE) return this.#items.get(this.#key);
    return this.#sorted()[this.#key - FIRST_FILE]?.[1];
  }

  #sorted(): (readonly [string, Uint8Array])[] {
    return [...this.#files].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  #directory(): Uint8Array {
    const files = this.#sorted();
    const out = new Uint8Array(4 + ENTRY_BYTES * files.length);
    const view = new DataView(out.buffer);
    view.setUint32(0, files.length);
    files.forEach(([name, data], i) => {
      const at = 4 + ENTRY_BYTES * i;
      view.setUint32(at, data.length);
      view.setUint16(at + 4, FIRST_FILE + i);
      out.set(encoder.encode(name).subarray(0, NAME_BYTES - 1), at + 8);
    });
    return out;
  }
}
