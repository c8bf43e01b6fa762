// Goal: the helpers that other tests rely on do what they say. Method: use them on small cases.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { missingCommands, Random, requires, run, runOk, seededRandom, tempDir } from './index.js';

describe('run', () => {
  it('gives status, both outputs and passes the input on', async () => {
    const script = 'process.stdin.pipe(process.stdout); console.error("e"); process.exitCode = 3';
    const result = await run(process.execPath, ['-e', script], { input: 'text' });
    expect(result).toMatchObject({ status: 3, stdout: 'text', stderr: 'e\n' });
    expect([...result.bytes]).toEqual([0x74, 0x65, 0x78, 0x74]);
  });

  it('rejects for a program that does not end in time, and runOk for a failure', async () => {
    const wait = ['-e', 'setTimeout(() => {}, 30000)'];
    await expect(run(process.execPath, wait, { timeout: 200 })).rejects.toThrow('no end within');
    await expect(runOk(process.execPath, ['-e', 'throw 1'])).rejects.toThrow('exit status 1');
    await expect(run('/no/such/program')).rejects.toThrow('ENOENT');
  });
});

describe('tempDir', () => {
  let last = '';
  it('makes a folder', () => {
    last = tempDir();
    writeFileSync(join(last, 'file'), 'x');
    expect(existsSync(join(last, 'file'))).toBe(true);
  });
  it('removed it after the test', () => {
    expect(existsSync(last)).toBe(false);
  });
});

describe('Random', () => {
  it('repeats for a seed and differs between seeds', () => {
    expect([...new Random(7).bytes(9)]).toEqual([...new Random(7).bytes(9)]);
    expect([...new Random(7).bytes(9)]).not.toEqual([...new Random(8).bytes(9)]);
  });
  it('stays within bounds', () => {
    const random = seededRandom();
    const seen = new Set(Array.from({ length: 500 }, () => random.int(-1, 2)));
    expect([...seen].sort((a, b) => a - b)).toEqual([-1, 0, 1, 2]);
  });
});

describe('requires', () => {
  it('knows what is missing', () => {
    expect(missingCommands('node', 'no-such-command')).toEqual(['no-such-command']);
  });
});

requires('node')('with a command that is there', () => {
  it('runs', () => {
    expect(1).toBe(1);
  });
});
