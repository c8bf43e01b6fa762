/** Mutual exclusion between asynchronous sections of one event loop; first come, first served. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();
  #held = 0;

  get isLocked(): boolean {
    return this.#held > 0;
  }

  /** Runs `fn` when all earlier sections have ended, whether they failed or not. */
  run<T>(fn: () => Promise<T>): Promise<T> {
    this.#held++;
    const result = this.#tail.then(fn).finally(() => {
      this.#held--;
    });
    this.#tail = result.catch(() => undefined);
    return result;
  }
}
