/**
 * Jobs that stand and fall together. A job of its own is a transaction of one.
 *
 * All wait until the last one's work is done; then all are prepared and committed. When one fails
 * or is cancelled, the others are cancelled.
 */
import type { Job } from './job.js';

export class JobTransaction {
  readonly #jobs = new Set<Job>();
  #aborting = false;

  add(job: Job): void {
    this.#jobs.add(job);
  }

  remove(job: Job): void {
    this.#jobs.delete(job);
  }

  /** A job's work went well. */
  async succeeded(job: Job): Promise<void> {
    job.becomeWaiting();
    if ([...this.#jobs].some((each) => each.status !== 'waiting')) return;
    for (const each of this.#jobs) each.becomePending();
    if ([...this.#jobs].every((each) => each.autoFinalize)) await this.finalize(job);
  }

  /** Lets the work of all take effect, all of which are pending. */
  async finalize(first: Job): Promise<void> {
    const order = [first, ...[...this.#jobs].filter((each) => each !== first)];
    for (const each of order) {
      if (await each.prepare()) continue;
      await this.abort(each);
      return;
    }
    for (const each of order) await each.settle();
  }

  /** A job failed, or is cancelled: so are all. */
  async abort(job: Job): Promise<void> {
    // Whoever aborts sees to all jobs.
    if (this.#aborting) return;
    this.#aborting = true;
    const others = [...this.#jobs].filter((each) => each !== job);
    for (const each of others) each.requestCancel(true);
    for (const each of others) await each.whenEnded();
    for (const each of [...others, job]) await each.settle();
  }
}
