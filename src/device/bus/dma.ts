/** A channel of the ISA bus's DMA controller, as the device on it sees it. */

/** What moved, and whether the count that the guest set ran out with it. */
export interface DmaMoved {
  readonly bytes: number;
  readonly isDone: boolean;
}

export interface DmaChannel {
  /** Data would move now: the guest did not mask the channel. */
  readonly isReady: boolean;
  /**
   * Somebody waits for the channel: `go` is called once when the guest unmasks it. undefined:
   * nobody waits any more.
   */
  await(go: (() => void) | undefined): void;
  /**
   * Moves bytes to memory, as many as the count allows, and none where the guest set another
   * direction; they count all the same.
   */
  give(data: Uint8Array): DmaMoved;
  /** Moves bytes from memory into `out`; zeroes where the guest set another direction. */
  take(out: Uint8Array): DmaMoved;
}

/** A channel that never moves anything, for emulators without such a controller. */
export const noDma: DmaChannel = {
  isReady: false,
  await: () => undefined,
  give: () => ({ bytes: 0, isDone: false }),
  take: () => ({ bytes: 0, isDone: false }),
};
