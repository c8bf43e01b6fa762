/** How fast a job may be: bytes a second, with a tenth of a second's worth at once. */
import type { Clock } from '../host/host.js';

/** The part of a second whose worth goes through without a wait. */
const BURST = 0.1;

export class RateLimit {
  readonly #clock: Clock;
  #speed = 0;
  /** Bytes that were done and have not leaked away yet, as of `#at`. */
  #level = 0;
  #at: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#at = clock.now();
  }

  /** Bytes a second; 0: no limit. */
  get speed(): number {
    return this.#speed;
  }

  set speed(bytesPerSecond: number) {
    this.#leak();
    this.#speed = bytesPerSecond;
  }

  /** `bytes` were done. */
  account(bytes: number): void {
    this.#leak();
    if (this.#speed > 0) this.#level += bytes;
  }

  /** Milliseconds until more may be done. */
  delayMs(): number {
    this.#leak();
    if (this.#speed === 0) return 0;
    return Math.max(0, ((this.#level - this.#speed * BURST) * 1000) / this.#speed);
  }

  #leak(): void {
    const now = this.#clock.now();
    const leaked = (this.#speed * (now - this.#at)) / 1000;
    this.#level = this.#speed === 0 ? 0 : Math.max(0, this.#level - leaked);
    this.#at = now;
  }
}
