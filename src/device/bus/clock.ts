/** The guest's clock, in nanoseconds since the machine started; exact for 104 days. */
export interface GuestClock {
  now(): number;
  /** Calls `fn` once when `delayNs` have passed on this clock; returns what cancels that. */
  after(delayNs: number, fn: () => void): () => void;
}
