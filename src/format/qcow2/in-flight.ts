/**
 * Guest I/O in flight, in epochs: a freed cluster may be used again only when no request that
 * could still reach it by its old mapping is under way (invariant W5 in driver.ts).
 */

class Epoch {
  count = 0;
  /** Called when the count falls to zero after the epoch ended. */
  onQuiet: (() => void) | undefined;
  /** Shared by all requests of the epoch, so that tracking one allocates no closure. */
  readonly leave = (): void => {
    if (--this.count === 0) this.onQuiet?.();
  };
}

export class InFlight {
  #now = new Epoch();
  /** Ended epochs that still have requests. */
  readonly #old = new Set<Epoch>();
  #waiting: (() => void)[] = [];

  /** Some request is in flight. */
  get isBusy(): boolean {
    return this.#now.count > 0;
  }

  /** Counts `request` until it settles; returns it as it is. */
  track<T>(request: Promise<T>): Promise<T> {
    const epoch = this.#now;
    epoch.count++;
    request.then(epoch.leave, epoch.leave);
    return request;
  }

  /** Counts a request by hand; the result is to be called once when it ends. */
  enter(): () => void {
    this.#now.count++;
    return this.#now.leave;
  }

  /** Resolves when every request that is in flight now has ended. */
  async barrier(): Promise<void> {
    if (this.#now.count > 0) {
      const ended = this.#now;
      this.#now = new Epoch();
      this.#old.add(ended);
      ended.onQuiet = () => {
        this.#old.delete(ended);
        this.#wake();
      };
    }
    if (this.#old.size === 0) return;
    const mine = [...this.#old];
    while (mine.some((epoch) => this.#old.has(epoch))) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }
}
