/** When nothing was written for a while, the header says that the image needs no check (Q3). */
import type { Clock } from '../../host/host.js';
import type { QedImage } from './image.js';

/** As in QEMU. */
const IDLE_MS = 5000;

export class IdleFinish {
  readonly #image: QedImage;
  readonly #clock: Clock;
  /** Changes of the image that are under way. */
  #running = 0;
  #isHeld = false;
  #cancel: (() => void) | undefined;
  #finishing: Promise<void> | undefined;

  constructor(image: QedImage, clock: Clock) {
    this.#image = image;
    this.#clock = clock;
  }

  /** Runs what changes the image: it waits for a header that is being written. */
  async around(change: () => Promise<void>): Promise<void> {
    while (this.#finishing !== undefined) await this.#finishing;
    this.#running++;
    this.#stop();
    try {
      await change();
    } finally {
      this.#running--;
      this.#arm();
    }
  }

  /** Nothing starts before {@link release}; what had started is done. */
  async hold(): Promise<void> {
    this.#isHeld = true;
    this.#stop();
    await this.#finishing;
  }

  release(): void {
    this.#isHeld = false;
    this.#arm();
  }

  #stop(): void {
    this.#cancel?.();
    this.#cancel = undefined;
  }

  #arm(): void {
    if (this.#running > 0 || this.#isHeld || !this.#image.isPrepared) return;
    this.#stop();
    this.#cancel = this.#clock.after(IDLE_MS, () => {
      this.#cancel = undefined;
      // Where it fails the flag stays, which is always right.
      this.#finishing = this.#image
        .rest()
        .catch(() => undefined)
        .finally(() => {
          this.#finishing = undefined;
        });
    });
  }
}
