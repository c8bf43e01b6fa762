/**
 * Port: the memory of a guest, as devices reach it by DMA. Whoever runs the guest implements it.
 *
 * Addresses are guest-physical bytes. A guest names any address it likes: nothing here throws for
 * one. What is no RAM reads as zeroes and drops what is written, so that a device can never
 * reach a device's registers, its own included.
 */
export interface GuestMemory {
  /** Fills `out` from memory. */
  read(address: number, out: Uint8Array): void;
  /** Copies `data` to memory. */
  write(address: number, data: Uint8Array): void;
  /**
   * The RAM itself, when the whole range is RAM and stays where it is as long as the guest lives;
   * undefined: copy with {@link read} and {@link write}.
   */
  tryView(address: number, bytes: number): Uint8Array | undefined;
}

/** A piece of guest memory: address and length in bytes. */
export interface GuestRange {
  readonly address: number;
  readonly bytes: number;
}
