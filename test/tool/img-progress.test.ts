// Goal: progress reads as qemu-img's, and the bar as a person expects. Method: pictures of given
// progress, compared as text.
import { describe, expect, it } from 'vitest';
import { barLine, progressWish, showProgress } from '../../src/tool/progress.js';
import { Program } from '../../src/tool/program.js';

const MIB = 1024 * 1024;

function recorder(): { text: string; program: Program } {
  const seen = { text: '' };
  const add = (text: string): void => {
    seen.text += text;
  };
  const output = { out: add, err: add, flush: () => undefined };
  return Object.assign(seen, { program: new Program('vdisk-img', output) });
}

const at = (done: number) => ({ done, total: 200, bytesPerSecond: 0, secondsLeft: undefined });

describe('percent text', () => {
  it('is printed from step to step, and at the end', () => {
    const seen = recorder();
    const show = showProgress(seen.program, 'text', { quiet: false });
    for (const done of [1, 2, 50, 51, 200]) show.update(at(done));
    show.end(true);
    expect(seen.text).toBe(
      '    (0.00/100%)\r    (1.00/100%)\r    (25.00/100%)\r    (100.00/100%)\r' +
        '    (100.00/100%)\r\n',
    );
  });

  it('only its line ends when the work was not done', () => {
    const seen = recorder();
    const show = showProgress(seen.program, 'text', { quiet: false });
    show.update(at(50));
    show.end(false);
    expect(seen.text).toBe('    (0.00/100%)\r    (25.00/100%)\r\n');
  });

  it('is silent with -q, and without -p but for SIGUSR1', async () => {
    const seen = recorder();
    const show = showProgress(seen.program, 'text', { quiet: true });
    show.update(at(50));
    expect(seen.text).toBe('');
    process.kill(process.pid, 'SIGUSR1');
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(seen.text).toBe('    (25.00/100%)\n');
    show.end(true);
  });
});

describe('lines of JSON', () => {
  it('tell a first step, and how it ended', () => {
    const seen = recorder();
    const show = showProgress(seen.program, 'json', { quiet: false });
    show.update({ done: 50, total: 200, bytesPerSecond: 25.4, secondsLeft: 6.004 });
    show.update(at(60));
    show.end(true);
    const lines = seen.text.trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      {
        ...{ status: 'running', done: 50, total: 200, percent: 25 },
        ...{ 'bytes-per-second': 25, 'seconds-left': 6 },
      },
      { status: 'completed', done: 200, total: 200, percent: 100 },
    ]);
  });

  it('tell that the work was not done', () => {
    const seen = recorder();
    const show = showProgress(seen.program, 'json', { quiet: false });
    show.update(at(50));
    show.end(false);
    expect(seen.text.trimEnd().split('\n').at(-1)).toBe(
      '{"status":"failed","done":50,"total":200,"percent":25}',
    );
  });

  it('are the only other form', () => {
    expect([progressWish(''), progressWish('json')]).toEqual(['text', 'json']);
    expect(() => progressWish('xml')).toThrow("--progress expects 'json' not 'xml'");
  });
});

describe('the bar', () => {
  it('shows part, amount, rate and time left', () => {
    const half = { done: 512 * MIB, total: 1024 * MIB, bytesPerSecond: 256 * MIB, secondsLeft: 2 };
    expect(barLine(half)).toBe(
      ' 50.0% [===========>            ]  512 MiB of 1 GiB  256 MiB/s  0:02 left',
    );
    expect(barLine({ done: 0, total: 0, bytesPerSecond: 0, secondsLeft: undefined })).toBe(
      '  0.0% [                        ]  0 B of 0 B',
    );
    const long = { done: 1, total: 2 ** 40, bytesPerSecond: 1, secondsLeft: 4000.2 };
    expect(barLine(long)).toContain('1:06:41 left');
    const all = { done: 5, total: 5, bytesPerSecond: 5, secondsLeft: 0 };
    expect(barLine(all)).toBe('100.0% [========================]  5 B of 5 B  5 B/s');
    const steps = { done: 1, total: 4, bytesPerSecond: 0, secondsLeft: undefined };
    expect(barLine(steps, true)).toBe(' 25.0% [=====>                  ]');
  });
});
