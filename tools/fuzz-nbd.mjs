#!/usr/bin/env node
// npm run fuzz:nbd -- [MINUTES]: the fuzzers of both ends of the NBD wire with one seed after the
// other, until one fails (it prints the seed), the time is over, or the program is stopped.
import { spawnSync } from 'node:child_process';

const minutes = Number(process.argv[2] ?? Infinity);
const end = Date.now() + minutes * 60_000;
let runs = 0;
while (Date.now() < end) {
  const seed = String(Math.floor(Math.random() * 2 ** 32));
  const env = { ...process.env, VDISK_SEED: seed, VDISK_FUZZ_ROUNDS: '1000' };
  const { status } = spawnSync('npx', ['vitest', 'run', 'test/nbd/fuzz.test.ts'], {
    env,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (status !== 0) {
    console.log(`seed ${seed} fails; VDISK_SEED=${seed} repeats it`);
    process.exit(1);
  }
  runs++;
}
console.log(`${runs} runs of 1000 rounds, no failure`);
