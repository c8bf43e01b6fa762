// Goal: a job that is paused while all that is left is in flight is seen paused, and ends when it
// goes on. Method: a real job whose only piece ends when the test says.
import { expect, it } from 'vitest';
import { JobList } from '../../src/job/job-list.js';
import { doPieces } from '../../src/job/pieces.js';
import type { JobWork } from '../../src/job/work.js';
import { fakeHost, settle } from '../support/index.js';

it('a pause comes before the end', async () => {
  let finish = (): void => undefined;
  const copied = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const pieces = [{ offset: 0, bytes: 512, copy: true }];
  const work: JobWork = {
    type: 'stream',
    run: (job) =>
      doPieces(job, {
        next: async () => pieces.shift(),
        copy: () => copied,
        ignored: () => 'done',
      }),
  };
  const { clock } = fakeHost();
  const job = await new JobList({ clock }).create({ id: 'j', work, block: { speed: 0 } });
  job.start();
  await settle();
  job.pauseByUser();
  finish();
  await clock.advance(1000);
  expect(job.status).toBe('paused');
  job.resumeByUser();
  await clock.advance(1000);
  expect(job.status).toBe('null');
});
