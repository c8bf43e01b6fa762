// Goal: each command of vdisk-io does to an image what it says, and answers each wrong use.
// Method: runIoCommand over a device in memory; its bytes are looked at beside the commands.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import type { Backend } from '../../src/index.js';
import { Perm } from '../../src/index.js';
import type { IoOutput } from '../../src/tool/io/run.js';
import { runIoCommand } from '../../src/tool/io/run.js';
import { readBytes, testGraph } from '../support/graphs.js';
import { tempDir } from '../support/index.js';

class Text implements IoOutput {
  text = '';
  out(text: string | Uint8Array): void {
    this.text += typeof text === 'string' ? text : new TextDecoder().decode(text);
  }
  err(text: string): void {
    this.text += `!${text}`;
  }
  flush(): void {
    // Nothing is held back.
  }
}

const TIMES = /\d+ ops; [\d:. sec]+ \([\d.]+ [KMGTPEi]*B?(ytes|bytes)?\/sec and [\d.]+ ops\/sec\)/g;

let disk: Backend;

/** Opens a device in memory, all of it `value`. */
async function device(bytes: number, value = 0, readOnly = false): Promise<Backend> {
  const graph = testGraph();
  const backend = await graph.openBackend({
    options: { driver: 'memory', size: bytes },
    flags: { writable: true },
  });
  if (value !== 0) await runIoCommand(backend, `write -q -P ${value} 0 ${bytes}`, new Text());
  if (readOnly) await backend.setPerms({ perm: Perm.consistentRead, shared: Perm.all });
  return backend;
}

/** What a command prints, timings as T, errors marked by a leading `!`; and its success. */
async function io(line: string, backend = disk): Promise<string> {
  const output = new Text();
  const fine = await runIoCommand(backend, line, output, 'x-io');
  return `${output.text.replaceAll(TIMES, 'T')}${fine ? 'ok' : 'failed'}`;
}

async function expectBytes(offset: number, bytes: number, value: number): Promise<void> {
  const got = await readBytes(disk, offset, bytes);
  expect(
    got.every((byte) => byte === value),
    `bytes ${offset}+${bytes} are ${value}`,
  ).toBe(true);
}

beforeEach(async () => {
  disk = await device(1 << 20);
});

describe('write and read', () => {
  it('fills with 0xcd unless told otherwise', async () => {
    expect(await io('write 512 1k')).toBe('wrote 1024/1024 bytes at offset 512\n1 KiB, T\nok');
    await expectBytes(512, 1024, 0xcd);
    await expectBytes(0, 512, 0);
    await expectBytes(1536, 512, 0);
  });

  it('fills with the pattern of -P in any base', async () => {
    await io('write -P 0x41 0 10');
    await io('write -P 012 10 10');
    await io('write -P 255 20 10');
    await expectBytes(0, 10, 0x41);
    await expectBytes(10, 10, 10);
    await expectBytes(20, 10, 255);
  });

  it('verifies with -P, -s and -l, and says where', async () => {
    await io('write -P 7 100 50');
    expect(await io('read -q -P 7 100 50')).toBe('ok');
    expect(await io('read -q -P 7 99 51')).toBe(
      'Pattern verification failed at offset 99, 51 bytes\nfailed',
    );
    expect(await io('read -q -P 7 -s 1 99 51')).toBe('ok');
    expect(await io('read -q -P 7 -s 1 -l 50 99 53')).toBe('ok');
    expect(await io('read -q -P 7 -s 2 -l 50 99 53')).toBe(
      'Pattern verification failed at offset 101, 50 bytes\nfailed',
    );
  });

  it('dumps with -v, but not when quiet', async () => {
    await io('write -P 0x61 3 4');
    expect(await io('read -v 0 8')).toBe(
      '00000000:  00 00 00 61 61 61 61 00  ...aaaa.\nread 8/8 bytes at offset 0\n8 bytes, T\nok',
    );
    expect(await io('read -qv 0 8')).toBe('ok');
  });

  it('writes values between commas with -C', async () => {
    expect(await io('write -C 0 64k')).toMatch(/^65536,1,0:00:00\.\d\d,[\d.]+,[\d.]+\nok$/);
  });

  it('repeats the content of a file with -s', async () => {
    const path = join(tempDir(), 'pattern');
    writeFileSync(path, 'abc');
    await io(`write -q -s ${path} 5 7`);
    expect(Buffer.from(await readBytes(disk, 4, 9)).toString()).toBe('\0abcabca\0');
  });

  it('says what is wrong with the file of -s', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'empty'), '');
    mkdirSync(join(folder, 'folder'));
    expect(await io(`write -s ${folder}/none 0 1`)).toBe(
      `!${folder}/none: No such file or directory\nfailed`,
    );
    expect(await io(`write -s ${folder}/empty 0 1`)).toBe(
      `!${folder}/empty: file is empty\nfailed`,
    );
    expect(await io(`write -s ${folder}/folder 0 1`)).toBe(
      `!${folder}/folder: Is a directory\nfailed`,
    );
  });

  it('zeroes with -z, also with -u, -n and -f', async () => {
    for (const options of ['-z', '-zu', '-zn', '-zf']) {
      await io('write -q -P 9 0 4k');
      expect(await io(`write -q ${options} 1k 1k`)).toBe('ok');
      await expectBytes(0, 1024, 9);
      await expectBytes(1024, 1024, 0);
      await expectBytes(2048, 2048, 9);
    }
  });

  it('refuses combinations that make no sense', async () => {
    const answers: [string, string][] = [
      ['-bz', '-b and -z cannot be specified at the same time'],
      ['-bf', '-f and -b or -c cannot be specified at the same time'],
      ['-cf', '-f and -b or -c cannot be specified at the same time'],
      ['-n', '-n requires -z to be specified'],
      ['-u', '-u requires -z to be specified'],
      ['-zP 3', 'Only one of -z, -P, and -s can be specified at the same time'],
      ['-z -s f', 'Only one of -z, -P, and -s can be specified at the same time'],
      ['-P 3 -s f', 'Only one of -z, -P, and -s can be specified at the same time'],
      ['-zr', 'cannot combine zero write with registered I/O buffer'],
    ];
    for (const [options, text] of answers) {
      expect(await io(`write ${options} 0 512`)).toBe(`${text}\nfailed`);
    }
    expect(await io('write -c 1 512')).toBe("1 is not a sector-aligned value for 'offset'\nfailed");
    expect(await io('write -b 0 5')).toBe("5 is not a sector-aligned value for 'count'\nfailed");
    expect(await io('read -br 0 512')).toBe(
      'I/O buffer registration is not supported when reading from vmstate\nfailed',
    );
    await expectBytes(0, 4096, 0);
  });

  it('has neither vm state nor compression on a device', async () => {
    expect(await io('write -b 0 512')).toBe('write failed: Operation not supported\nfailed');
    expect(await io('read -b 0 512')).toBe('read failed: Operation not supported\nfailed');
    expect(await io('write -c 0 512')).toBe('write failed: Operation not supported\nfailed');
  });

  it('fails beyond the end', async () => {
    expect(await io('read 1M 1')).toBe('read failed: Input/output error\nfailed');
    expect(await io('write 1048575 2')).toBe('write failed: Input/output error\nfailed');
    expect(await io('readv 1048575 1 1')).toBe('readv failed: Input/output error\nfailed');
    expect(await io('writev 1048575 1 1')).toBe('writev failed: Input/output error\nfailed');
    expect(await io('discard 1M 1')).toBe('discard failed: Input/output error\nfailed');
    expect(await io('read 1M 0')).toMatch(/ok$/);
  });
});

describe('readv and writev', () => {
  it('carry several buffers in one request', async () => {
    expect(await io('writev -P 5 10 1 2 3')).toBe('wrote 6/6 bytes at offset 10\n6 bytes, T\nok');
    await expectBytes(10, 6, 5);
    await expectBytes(16, 1, 0);
    expect(await io('readv -P 5 10 3 3')).toBe('read 6/6 bytes at offset 10\n6 bytes, T\nok');
    expect(await io('readv -qP 5 9 3 4')).toBe(
      'Pattern verification failed at offset 9, 7 bytes\nfailed',
    );
  });

  it('refuse lengths that are too long, alone or together', async () => {
    expect(await io('readv 0 2G')).toBe("Argument '2G' exceeds maximum size 2147483136\nfailed");
    expect(await io('writev 0 1G 1G')).toBe(
      'The total number of bytes exceed the maximum size 2147483136\nfailed',
    );
  });
});

describe('aio', () => {
  it('runs beside later commands and reports when it is done', async () => {
    const output = new Text();
    expect(await runIoCommand(disk, 'aio_write -P 3 0 1k 1k', output)).toBe(true);
    expect(output.text).toBe('');
    expect(await runIoCommand(disk, 'aio_flush', output)).toBe(true);
    expect(output.text.replaceAll(TIMES, 'T')).toBe(
      'wrote 2048/2048 bytes at offset 0\n2 KiB, T\n',
    );
    await expectBytes(0, 2048, 3);
  });

  it('tells errors and differences without failing the command', async () => {
    const output = new Text();
    for (const line of ['aio_read 1M 1', 'aio_flush', 'aio_write 1M 1', 'aio_flush']) {
      expect(await runIoCommand(disk, line, output)).toBe(true);
    }
    expect(await runIoCommand(disk, 'aio_read -qP 4 0 5', output)).toBe(true);
    await runIoCommand(disk, 'aio_flush', output);
    expect(output.text).toBe(
      'readv failed: Input/output error\naio_write failed: Input/output error\n' +
        'Pattern verification failed at offset 0, 5 bytes\n',
    );
  });

  it('dumps and zeroes', async () => {
    await io('write -q -P 0x41 0 4k');
    const output = new Text();
    await runIoCommand(disk, 'aio_write -zuq 1 4095', output);
    await runIoCommand(disk, 'aio_flush', output);
    await runIoCommand(disk, 'aio_read -v 0 2', output);
    await runIoCommand(disk, 'aio_flush', output);
    expect(output.text).toMatch(/^00000000: {2}41 00 {2}A\.\nread 2\/2 bytes at offset 0\n/);
    await expectBytes(1, 4095, 0);
  });

  it('flushes what another session began', async () => {
    const first = new Text();
    const second = new Text();
    await runIoCommand(disk, 'aio_write -P 3 0 512', first);
    await runIoCommand(disk, 'aio_flush', second);
    expect(first.text).toMatch(/^wrote 512/);
    expect(second.text).toBe('');
  });

  it('refuses combinations that make no sense', async () => {
    expect(await io('aio_write -u 0 1')).toBe('-u requires -z to be specified\nfailed');
    expect(await io('aio_write -z 0 1 1')).toBe(
      '-z supports only a single length parameter\nfailed',
    );
    expect(await io('aio_write -zr 0 1')).toBe(
      'cannot combine zero write with registered I/O buffer\nfailed',
    );
    expect(await io('aio_write -i 0 1')).toBe('injecting invalid write request\nok');
    expect(await io('aio_read -i 0 1')).toBe('injecting invalid read request\nok');
    await expectBytes(0, 512, 0);
  });
});

describe('numbers', () => {
  it('are refused with the word that is wrong', async () => {
    const wrong = 'Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- ';
    expect(await io('read x 1')).toBe(`${wrong}x\nfailed`);
    expect(await io('write 0 1z')).toBe(`${wrong}1z\nfailed`);
    expect(await io('discard "0" 1')).toBe(`${wrong}"0"\nfailed`);
    const large = 'Parsing error: argument too large -- ';
    expect(await io('read -- -1 5')).toBe(`${large}-1\nfailed`);
    expect(await io('read 8E 5')).toBe(`${large}8E\nfailed`);
    expect(await io('alloc 20E')).toBe(`${large}20E\nfailed`);
    expect(await io('read 7E 5')).toBe('read failed: Input/output error\nfailed');
  });

  it('must not make a request too long', async () => {
    const limit = 'length cannot exceed 2147483136';
    expect(await io('read 0 2G')).toBe(`${limit}, given 2G\nfailed`);
    expect(await io('discard 0 3G')).toBe(`${limit}, given 3G\nfailed`);
    expect(await io('write 0 3G')).toBe(`${limit} without -n, given 3G\nfailed`);
    expect(await io('write -zn 0 3G')).toBe('write failed: Input/output error\nfailed');
  });

  it('must be bytes where a pattern is meant', async () => {
    for (const word of ['256', '-1', 'x', '1k', '+']) {
      expect(await io(`read -P ${word} 0 1`)).toBe(`${word} is not a valid pattern byte\nfailed`);
    }
  });

  it('must keep the range of -s and -l inside what is read', async () => {
    const text = 'pattern verification range exceeds end of read data\nfailed';
    expect(await io('read -P 1 -s 11 0 10')).toBe(text);
    expect(await io('read -P 1 -l 11 0 10')).toBe(text);
    expect(await io('read -P 1 -s 5 -l 6 0 10')).toBe(text);
    expect(await io('read -l 5 0 10')).toMatch(/^read \[-abCqrv\].*\nfailed$/);
  });
});

describe('length, alloc, map, truncate, discard, flush', () => {
  it('tells the length, and sets it', async () => {
    expect(await io('length')).toBe('1 MiB\nok');
    expect(await io('truncate 1536')).toBe('ok');
    expect(await io('length')).toBe('1.500 KiB\nok');
    expect(await io('truncate -m off 4k')).toBe('ok');
    expect(disk.size).toBe(4096);
  });

  it('refuses lengths and modes that are none', async () => {
    expect(await io('truncate -m foo 1')).toBe("!x-io: Invalid preallocation mode 'foo'\nfailed");
    expect(await io('truncate -m off x')).toBe(
      'Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- -m\nfailed',
    );
    expect(await io('truncate -m')).toMatch(
      /^!truncate: option requires an argument -- 'm'\ntruncate \[.*\nfailed$/,
    );
    expect(disk.size).toBe(1 << 20);
  });

  it('says how many bytes are allocated, never more than there are', async () => {
    expect(await io('alloc 0')).toBe('512/512 bytes allocated at offset 0 bytes\nok');
    expect(await io('alloc 1000000 1M')).toBe(
      '48576/48576 bytes allocated at offset 976.562 KiB\nok',
    );
    expect(await io('alloc 2M 5')).toBe('0/0 bytes allocated at offset 2 MiB\nok');
  });

  it('lists the allocation', async () => {
    expect(await io('map')).toBe(
      '1 MiB (0x100000) bytes     allocated at offset 0 bytes (0x0)\nok',
    );
  });

  it('discards', async () => {
    await io('write -q -P 1 0 64k');
    expect(await io('discard 4k 8k')).toBe('discard 8192/8192 bytes at offset 4096\n8 KiB, T\nok');
    await expectBytes(0, 4096, 1);
    await expectBytes(12_288, 4096, 1);
    expect(await io('discard -q 0 1')).toBe('ok');
    expect(await io('discard -C 0 1')).toMatch(/^1,1,0:00:00/);
  });

  it('flushes silently', async () => {
    expect(await io('flush')).toBe('ok');
  });
});

describe('permissions', () => {
  it('are asked for by the commands that need them', async () => {
    const backend = await device(4096, 1, true);
    expect(backend.perms.perm & Perm.write).toBe(0);
    expect(await io('read -qP 1 0 4k', backend)).toBe('ok');
    expect(backend.perms.perm & Perm.write).toBe(0);
    expect(await io('write -q 0 1', backend)).toBe('ok');
    expect(backend.perms.perm & Perm.write).not.toBe(0);
  });

  it('cannot be had on a node that is open for reading', async () => {
    const graph = testGraph();
    const backend = await graph.openBackend({ options: { driver: 'memory', size: 4096 } });
    for (const line of ['write 0 1', 'writev 0 1', 'aio_write 0 1', 'discard 0 1', 'truncate 1']) {
      expect(await io(line, backend)).toBe('!x-io: Block node is read-only\nfailed');
    }
  });
});

describe('the language', () => {
  it('splits at spaces, whatever their number, and knows no quotes', async () => {
    expect(await io('   read   -q  0 1  ')).toBe('ok');
    expect(await io('')).toBe('ok');
    expect(await io('read\t0\t1')).toBe('!command "read\t0\t1" not found\nfailed');
  });

  it('takes options anywhere, joined or apart', async () => {
    expect(await io('read 0 -q 512 -P0')).toBe('ok');
    expect(await io('read -qP 0 0 512')).toBe('ok');
    expect(await io('read -q -- 0 512')).toBe('ok');
  });

  it('refuses options that are none', async () => {
    expect(await io('r -x 0 1')).toMatch(/^!r: invalid option -- 'x'\nread \[-abCqrv\].*\nfailed$/);
    expect(await io('read --v 0 1')).toMatch(/^!read: invalid option -- '-'\n/);
    expect(await io('read -v 0 -P')).toMatch(/^!read: option requires an argument -- 'P'\n/);
  });

  it('counts arguments', async () => {
    const answers: [string, string][] = [
      ['read', '0 to read, expected at least 2'],
      ['alloc', '0 to alloc, expected between 1 and 2'],
      ['a 1 2 3', '3 to a, expected between 1 and 2'],
      ['length x', '1 to length, expected 0'],
      ['break a', '1 to break, expected 2'],
      ['truncate', '0 to truncate, expected between 1 and 3'],
      ['zone_append 0 1', '2 to zone_append, expected between 3 and 4'],
    ];
    for (const [line, text] of answers) {
      expect(await io(line)).toBe(`!bad argument count ${text} arguments\nfailed`);
    }
    expect(await io('write 1 2 3')).toMatch(/^write \[-bcCfnqruz\].*\nfailed$/);
  });

  it('has short names', async () => {
    for (const line of ['w -q 0 1', 'r -q 0 1', 'l', 'a 0', 'f', 'd -q 0 1', 't 1M', '?']) {
      expect(await io(line)).toMatch(/ok$/);
    }
  });

  it('has help for each command', async () => {
    const all = await io('help');
    const names = all.split('\n').map((line) => line.split(' ')[0] ?? '');
    const commands = names.slice(0, names.indexOf(''));
    expect(commands).toContain('zone_report');
    for (const name of commands) {
      expect(await io(`help ${name}`)).toMatch(new RegExp(`^${name} .*-- .*\\n(\\n.*)*ok$`));
    }
    expect(await io('help nothing')).toBe('command nothing not found\nfailed');
  });

  it('opens and closes nothing when the image is the caller’s', async () => {
    for (const name of ['open x', 'close', 'quit']) {
      expect(await io(name)).toBe(`!command "${name.split(' ')[0] ?? ''}" not found\nfailed`);
    }
  });

  it('says so when there is no medium', async () => {
    await disk.detach();
    expect(await io('length')).toBe("!no file open, try 'help open'\nfailed");
    expect(await io('sleep 0')).toBe('ok');
  });
});

describe('what there is not', () => {
  it('is refused by name: zones', async () => {
    for (const what of ['open', 'close', 'finish', 'reset', 'report']) {
      expect(await io(`zone_${what} 0 1`)).toBe(
        `zone ${what} failed: Operation not supported\nfailed`,
      );
    }
    expect(await io('zap 0 1 2')).toBe('zone append failed: Operation not supported\nfailed');
    expect(await io('zrp x 2')).toMatch(/^Parsing error/);
  });

  it('is refused by name: breakpoints without blkdebug', async () => {
    expect(await io('break write_aio a')).toBe(
      'Could not set breakpoint: Operation not supported\nfailed',
    );
    expect(await io('remove_break a')).toBe(
      'Could not remove breakpoint a: Operation not supported\nfailed',
    );
    expect(await io('resume a')).toBe('Could not resume request: Operation not supported\nfailed');
    expect(await io('wait_break a')).toBe(
      'Could not wait for breakpoint: Operation not supported\nfailed',
    );
  });
});

describe('sleep and sigraise', () => {
  it('refuse what is no number', async () => {
    expect(await io('sleep x')).toBe('x is not a valid number\nfailed');
    expect(await io('sleep -1')).toBe('-1 is not a valid number\nfailed');
    expect(await io('sigraise x')).toMatch(/^Parsing error/);
    expect(await io('sigraise 99')).toBe(
      "signal argument '99' is too large to be a valid signal\nfailed",
    );
    expect(await io('sigraise 0')).toBe('ok');
    expect(await io('sigraise 65')).toBe('ok');
  });
});
