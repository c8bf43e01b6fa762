// Goal: every driver of the catalogue does what the graph expects of any node.
// Method: the suites of suites.ts on each, bare and under a filter that passes everything on.
// A suite that a driver cannot pass is listed with the reason in subject.ts; one that is listed
// and would pass is a failure, so that the list stays true.
import { describe, expect, it } from 'vitest';
import { testSeed } from '../support/index.js';
import type { Make } from './suites.js';
import { suites } from './suites.js';
import type { Subject, SuiteName } from './subject.js';
import { makeDisk, plainSetting, subjects, unknownNames } from './subject.js';

function maker(subject: Subject, wrapped: boolean): Make {
  return (setting) => makeDisk(subject, { ...plainSetting, wrapped, ...setting });
}

describe.each(subjects)('driver $driver.name', (subject) => {
  for (const name of Object.keys(suites) as SuiteName[]) {
    const reason = subject.skips[name];
    if (reason !== undefined) {
      it(`${name} is rightly left out: ${reason}`, async () => {
        const failed: string[] = [];
        for (const [title, check] of Object.entries(suites[name])) {
          await check(maker(subject, false), () => 1).catch(() => failed.push(title));
        }
        expect(failed.length).toBeGreaterThan(0);
      });
      continue;
    }
    describe(name, () => {
      for (const [title, check] of Object.entries(suites[name])) {
        it(title, () => check(maker(subject, false), testSeed));
        it(`${title} (under a filter)`, () => check(maker(subject, true), testSeed));
      }
    });
  }
});

it('the lists of special cases name drivers that exist', () => {
  expect(unknownNames()).toEqual([]);
});
