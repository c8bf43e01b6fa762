// Goal: vdisk-io as a program: options, prompt, streams, exit status, signals.
// Method: the built tool in a folder of its own, called by its own name and by another.
import { symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { TerminalLines } from '../../src/tool/io/lines.js';
import type { RunResult } from '../support/index.js';
import { binPath, requires, run, tempDir } from '../support/index.js';

let folder: string;

beforeEach(() => {
  folder = tempDir();
  writeFileSync(join(folder, 'a.raw'), '');
  truncateSync(join(folder, 'a.raw'), 1 << 20);
});

function io(args: readonly string[], input = ''): Promise<RunResult> {
  return run(binPath('vdisk-io'), args, { cwd: folder, input });
}

/** Standard error and exit status of a run that prints nothing else. */
async function complaint(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await io(args);
  expect(stdout).toBe('');
  expect(status).toBe(1);
  return stderr;
}

describe('commands from -c', () => {
  it('are carried out in order, and one that fails makes the status 1', async () => {
    const fine = await io(['-f', 'raw', '-c', 'length', '-c', 'alloc 0', 'a.raw']);
    expect(fine.stdout).toBe('1 MiB\n512/512 bytes allocated at offset 0 bytes\n');
    expect(fine.status).toBe(0);
    const bad = await io(['-f', 'raw', '-c', 'nonsense', '-c', 'length', 'a.raw']);
    expect(bad.stdout).toBe('1 MiB\n');
    expect(bad.stderr).toBe('command "nonsense" not found\n');
    expect(bad.status).toBe(1);
  });

  it('end with quit', async () => {
    const { stdout, status } = await io(['-f', 'raw', '-c', 'quit', '-c', 'length', 'a.raw']);
    expect([stdout, status]).toEqual(['', 0]);
  });

  it('leave no aio request behind', async () => {
    const { stdout } = await io(['-f', 'raw', '-c', 'aio_write 0 1k', 'a.raw']);
    expect(stdout).toMatch(/^wrote 1024\/1024 bytes at offset 0\n1 KiB, 1 ops/);
    const { status } = await io(['-f', 'raw', '-c', 'read -P 0xcd 0 1k', 'a.raw']);
    expect(status).toBe(0);
  });

  it('need an image', async () => {
    expect(await complaint('-c', 'length')).toBe("no file open, try 'help open'\n");
    expect((await io(['-c', 'help read'])).status).toBe(0);
  });
});

describe('commands from standard input', () => {
  it('have a prompt before each, no echo, and none is missed at the end', async () => {
    const { stdout, status } = await io(['-f', 'raw', 'a.raw'], 'length\n\nlength');
    expect(stdout).toBe('vdisk-io> 1 MiB\nvdisk-io> vdisk-io> 1 MiB\nvdisk-io> ');
    expect(status).toBe(0);
  });

  it('open and close images', async () => {
    const input =
      'length\nopen -o driver=raw a.raw\nopen -o driver=raw a.raw\nlength\nclose\nclose\n' +
      'open a b\nopen -o driver=raw,file.filename=a.raw\nlength\nquit\nlength\n';
    const { stdout, stderr, status } = await io([], input);
    expect(stdout.replaceAll('vdisk-io> ', '')).toMatch(/^1 MiB\nopen \[.*\n1 MiB\n$/);
    expect(stderr).toBe(
      "no file open, try 'help open'\nvdisk-io: file open already, try 'help close'\n" +
        "no file open, try 'help open'\n",
    );
    expect(status).toBe(1);
  });

  it('keep the order of both streams when they are merged', async () => {
    const script = `echo 'length
nonsense
length' | '${binPath('vdisk-io')}' -f raw a.raw 2>&1`;
    const { stdout } = await run('/bin/sh', ['-c', script], { cwd: folder });
    expect(stdout).toBe(
      'vdisk-io> 1 MiB\nvdisk-io> command "nonsense" not found\nvdisk-io> 1 MiB\nvdisk-io> ',
    );
  });
});

describe('options', () => {
  it('choose driver, cache, engine and discard, or say what they do not know', async () => {
    expect(await complaint('-f', 'foo', 'a.raw')).toBe(
      "vdisk-io: can't open device a.raw: Unknown driver 'foo'\n",
    );
    expect(await complaint('-t', 'foo', 'a.raw')).toBe('vdisk-io: Invalid cache option: foo\n');
    expect(await complaint('-i', 'foo', 'a.raw')).toBe('vdisk-io: Invalid aio option: foo\n');
    expect(await complaint('-d', 'foo', 'a.raw')).toBe('vdisk-io: Invalid discard option: foo\n');
    expect(await complaint('-k', '-f', 'raw', 'a.raw')).toBe(
      "vdisk-io: can't open device a.raw: aio=native was specified, but it requires " +
        'cache.direct=on, which was not specified.\n',
    );
    const modes = ['none', 'off', 'directsync', 'writeback', 'unsafe', 'writethrough'];
    const input = modes.map((mode) => `open -t ${mode} -o driver=raw a.raw\nwrite -q 3 5\nclose\n`);
    const { status, stderr } = await io([], input.join(''));
    expect([status, stderr]).toEqual([0, '']);
    const words = ['-n', '-m', '-d', 'off', '-i', 'threads', '-T', 'x', '-f', 'raw'];
    expect((await io([...words, '-c', 'write 3 5', 'a.raw'])).status).toBe(0);
  });

  it('open for reading only with -r', async () => {
    expect(await complaint('-r', '-f', 'raw', '-c', 'write 0 1', 'a.raw')).toBe(
      'vdisk-io: Block node is read-only\n',
    );
    expect(await complaint('-rC', '-f', 'raw', 'a.raw')).toBe(
      "vdisk-io: can't open device a.raw: Can't use copy-on-read on read-only device\n",
    );
  });

  it('share an image that is being written with -U and -r', async () => {
    expect(await complaint('-U', '-f', 'raw', 'a.raw')).toBe(
      "vdisk-io: can't open device a.raw: force-share=on can only be used with read-only images\n",
    );
    expect((await io(['-rU', '-f', 'raw', '-c', 'length', 'a.raw'])).stdout).toBe('1 MiB\n');
  });

  it('describe the image as a whole with --image-opts', async () => {
    const ok = await io(['--image-o', '-c', 'length', 'driver=raw,file.filename=a.raw']);
    expect(ok.stdout).toBe('1 MiB\n');
    expect(await complaint('--image-opts', '-f', 'raw', 'driver=raw')).toBe(
      'vdisk-io: --image-opts and -f are mutually exclusive\n',
    );
    expect(await complaint('--image-opts', 'driver=raw')).toBe(
      'vdisk-io: can\'t open: A block device must be specified for "file"\n',
    );
    expect(await complaint('--image-opts', 'a.raw')).toBe(
      "vdisk-io: warning: short-form boolean option 'a.raw' deprecated\n" +
        "Please use a.raw=on instead\nvdisk-io: can't open: Must specify either driver or file\n",
    );
  });

  it('let open take a description, too, with --image-opts', async () => {
    const options = 'driver=raw,file.filename=a.raw';
    const ok = await io(['--image-opts', '-c', `open ${options}`, '-c', 'length']);
    expect(ok.stdout).toBe('1 MiB\n');
    const both = await io(['--image-opts', '-c', `open -o read-only=on ${options}`]);
    expect(both.stdout).toBe("--image-opts and 'open -o' are mutually exclusive\n");
    expect(both.status).toBe(1);
  });

  it('are told in the usage text when they are wrong', async () => {
    for (const [args, text] of [
      [['-Z'], "vdisk-io: invalid option -- 'Z'\n"],
      [['--foo'], "vdisk-io: unrecognized option '--foo'\n"],
      [['-f'], "vdisk-io: option requires an argument -- 'f'\n"],
      [['--cache'], "vdisk-io: option '--cache' requires an argument\n"],
      [['a.raw', 'b.raw'], ''],
    ] as const) {
      const { stdout, stderr, status } = await io(args);
      expect(stderr).toBe(text);
      expect(stdout).toMatch(/^Usage: vdisk-io /);
      expect(status).toBe(1);
    }
  });

  it('show help and version', async () => {
    const help = await io(['--help']);
    expect(help.status).toBe(0);
    for (const word of ['--image-opts', '-c, --cmd', '-U, --force-share', '--object']) {
      expect(help.stdout).toContain(word);
    }
    expect((await io(['-V'])).stdout).toMatch(/^vdisk-io version \d/);
  });
});

describe('errors', () => {
  it('begin with the name by which the program was called', async () => {
    symlinkSync(binPath('vdisk-io'), join(folder, 'qemu-io'));
    const { stderr } = await run(join(folder, 'qemu-io'), ['-c', 'length', 'none'], {
      cwd: folder,
    });
    expect(stderr).toBe(
      "qemu-io: can't open device none: Could not open 'none': No such file or directory\n",
    );
  });

  it('of opening are told with the name of the image', async () => {
    expect(await complaint('foo:bar')).toBe(
      "vdisk-io: can't open device foo:bar: Unknown protocol 'foo'\n",
    );
    expect(await complaint('-f', 'raw', 'json:{}')).toBe(
      'vdisk-io: can\'t open device json:{}: A block device must be specified for "file"\n',
    );
    expect(await complaint('--object', 'foo', 'a.raw')).toBe(
      "vdisk-io: Parameter 'qom-type' does not accept value 'foo'\n",
    );
  });
});

describe('signals', () => {
  it.each([
    ['sigraise 15', 143],
    ['sigraise 9', 137],
    ['abort', 134],
    ['sigraise 13', 0],
  ])('%s ends with status %s, and what was printed is not lost', async (line, status) => {
    const result = await io(['-f', 'raw', '-c', 'length', '-c', line, 'a.raw']);
    expect(result.status).toBe(status);
    if (line !== 'abort') expect(result.stdout).toBe('1 MiB\n');
  });
});

describe('at a terminal', () => {
  interface Terminal {
    readonly lines: TerminalLines;
    readonly input: PassThrough;
    interrupted: boolean;
  }
  const terminal = (): Terminal => {
    const input = new PassThrough();
    const output = new PassThrough();
    output.resume();
    const names = ['length', 'info'];
    const made: Terminal = {
      input,
      interrupted: false,
      lines: new TerminalLines({
        input,
        output,
        prompt: 'x> ',
        names,
        onInterrupt: () => {
          made.interrupted = true;
        },
      }),
    };
    onTestFinished(() => {
      made.lines.close();
    });
    return made;
  };

  it('lines can be edited, taken from the history and completed', async () => {
    const { lines, input } = terminal();
    input.write('lengtX\x7fh\n');
    expect(await lines.next()).toBe('length');
    input.write('\x1b[A\n');
    expect(await lines.next()).toBe('length');
    // Completion is asked for in a later turn of the event loop.
    input.write('inf\t');
    setTimeout(() => input.write('\n'), 20);
    expect((await lines.next())?.trim()).toBe('info');
  });

  it('Ctrl-D ends the input, Ctrl-C the program', async () => {
    const first = terminal();
    const ended = first.lines.next();
    first.input.write('\x04');
    expect(await ended).toBeUndefined();
    expect(first.interrupted).toBe(false);
    expect(await first.lines.next()).toBeUndefined();
    const second = terminal();
    const stopped = second.lines.next();
    second.input.write('\x03');
    expect(await stopped).toBeUndefined();
    expect(second.interrupted).toBe(true);
  });
});

requires('script')('a real terminal', () => {
  it('gets a prompt, and what was typed before it came is not lost', async () => {
    const line = `${binPath('vdisk-io')} -f raw a.raw`;
    const { stdout, status } = await run('script', ['-qec', line, '/dev/null'], {
      cwd: folder,
      input: 'length\nquit\n',
    });
    expect(stdout).toContain('vdisk-io> ');
    expect(stdout).toContain('1 MiB\r\n');
    expect(status).toBe(0);
  });
});
