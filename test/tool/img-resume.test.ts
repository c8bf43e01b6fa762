// Goal: `convert --resume` goes on after kill -9 and Ctrl-C, with the right result, and refuses in
// one line what it cannot know; profiles choose format and size, or say what is missing.
// Method: the program is killed at random moments (seeds printed) until it is through.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, run, runOk, seededRandom, tempDir } from '../support/index.js';

const img = binPath('vdisk-img');
const MIB = 1024 * 1024;

/**
 * Runs, and sends a signal `ms` after something stands in the journal; the exit status, null when
 * the signal ended it.
 */
async function stopped(
  folder: string,
  args: readonly string[],
  signal: NodeJS.Signals,
  ms: number,
): Promise<number | null> {
  const child = spawn(img, args, { cwd: folder, stdio: 'ignore' });
  const journal = join(folder, `${args[args.indexOf('a.raw') + 1]}.resume`);
  let timer: NodeJS.Timeout | undefined;
  const look = setInterval(() => {
    const written = statSync(journal, { throwIfNoEntry: false })?.size ?? 0;
    if (written > 0) timer ??= setTimeout(() => child.kill(signal), ms);
  }, 10);
  const status = await new Promise<number | null>((resolve) => {
    child.on('close', resolve);
  });
  clearInterval(look);
  clearTimeout(timer);
  return status;
}

describe('convert --resume', () => {
  it.each<NodeJS.Signals>(['SIGKILL', 'SIGINT'])(
    'goes on after %s',
    { timeout: 180_000 },
    async (signal) => {
      const folder = tempDir();
      const random = seededRandom();
      const bytes = random.bytes(64 * MIB);
      bytes.fill(0, 20 * MIB, 27 * MIB);
      writeFileSync(join(folder, 'a.raw'), bytes);
      const args = ['convert', '--resume', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'out.qcow2'];
      let resumed = 0;
      for (let round = 0; ; round++) {
        const journal = existsSync(join(folder, 'out.qcow2.resume'));
        if (journal) resumed++;
        // Slow enough that the signal comes in the middle; the last runs are let through.
        const slow = round < 5 ? ['-r', '40M'] : [];
        const ms = round < 5 ? random.int(0, 500) : 100_000;
        const status = await stopped(folder, [...args, ...slow], signal, ms);
        if (status === 0) break;
        expect(signal === 'SIGINT' ? [130, null] : [null]).toContain(status);
      }
      expect(resumed).toBeGreaterThan(0);
      expect(existsSync(join(folder, 'out.qcow2.resume'))).toBe(false);
      await runOk(img, ['check', '-q', 'out.qcow2'], { cwd: folder });
      const compare = ['compare', '-f', 'raw', '-F', 'qcow2', 'a.raw', 'out.qcow2'];
      await runOk(img, compare, { cwd: folder });
    },
  );

  it('refuses in one line what is not what it was', { timeout: 60_000 }, async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), seededRandom().bytes(48 * MIB));
    const args = ['convert', '--resume', '-f', 'raw', '-O', 'raw', 'a.raw', 'out.raw'];
    await stopped(folder, [...args, '-r', '20M'], 'SIGKILL', 0);
    expect(existsSync(join(folder, 'out.raw.resume'))).toBe(true);
    const refused = async (...words: string[]): Promise<string> => {
      const { status, stdout, stderr } = await run(img, words, { cwd: folder });
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
      return stderr;
    };
    const hint = "Remove 'out.raw.resume' to begin anew\n";
    expect(await refused(...args, '-S', '8k')).toBe(
      `vdisk-img: Cannot resume the conversion: it was begun with other options\n${hint}`,
    );
    utimesSync(join(folder, 'a.raw'), 1, 1);
    expect(await refused(...args)).toBe(
      `vdisk-img: Cannot resume the conversion: 'a.raw' has changed since\n${hint}`,
    );
    expect(await refused(...args, '-t', 'unsafe')).toBe(
      'vdisk-img: A conversion with the cache mode unsafe cannot be resumed\n',
    );
    expect(await refused('convert', '--resume', '-n', 'a.raw', 'out.raw')).toBe(
      'vdisk-img: A conversion into an image that exists cannot be resumed\n',
    );
    expect(await refused('convert', '--resume', '/dev/zero', 'b.raw')).toContain('vdisk-img: ');
  });
});

describe('convert --profile', () => {
  it('makes what AWS takes: a raw disk of whole GiB', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), seededRandom().bytes(3 * MIB));
    await runOk(img, ['convert', '--profile', 'aws', 'a.raw', 'b.raw'], { cwd: folder });
    expect(statSync(join(folder, 'b.raw')).size).toBe(1024 * MIB);
    expect(statSync(join(folder, 'b.raw')).blocks * 512).toBeLessThan(4 * MIB);
    await runOk(img, ['compare', '-q', 'a.raw', 'b.raw'], { cwd: folder });
  });

  it('makes what VirtualBox takes: a VDI that grows, of whole MiB', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), seededRandom().bytes(2 * MIB + 512));
    await runOk(img, ['convert', '--profile', 'virtualbox', 'a.raw', 'b.vdi'], { cwd: folder });
    const { stdout } = await runOk(img, ['info', '--output=json', 'b.vdi'], { cwd: folder });
    expect(JSON.parse(stdout)).toMatchObject({ format: 'vdi', 'virtual-size': 3 * MIB });
    await runOk(img, ['compare', '-q', 'a.raw', 'b.vdi'], { cwd: folder });
  });

  it('makes what Azure takes: a fixed VHD whose footer says whole MiB', async () => {
    const folder = tempDir();
    const data = seededRandom().bytes(3 * MIB + 512);
    writeFileSync(join(folder, 'a.raw'), data);
    await runOk(img, ['convert', '--profile', 'azure', 'a.raw', 'b.vhd'], { cwd: folder });
    const vhd = readFileSync(join(folder, 'b.vhd'));
    expect(vhd.length).toBe(4 * MIB + 512);
    expect(Buffer.compare(vhd.subarray(0, data.length), data)).toBe(0);
    expect(vhd.subarray(data.length, 4 * MIB).every((b) => b === 0)).toBe(true);
    const footer = vhd.subarray(4 * MIB);
    expect(footer.toString('latin1', 0, 8)).toBe('conectix');
    expect(footer.readUInt32BE(60)).toBe(2);
    expect(footer.readBigUInt64BE(48)).toBe(BigInt(4 * MIB));
    const compare = ['compare', '-q', '-f', 'raw', '-F', 'vpc', 'a.raw', 'b.vhd'];
    await runOk(img, compare, { cwd: folder });
  });

  it('makes what Hyper-V takes: a VHDX that grows, of whole MiB', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), seededRandom().bytes(2 * MIB + 512));
    await runOk(img, ['convert', '--profile', 'hyperv', 'a.raw', 'b.vhdx'], { cwd: folder });
    const { stdout } = await runOk(img, ['info', '--output=json', 'b.vhdx'], { cwd: folder });
    expect(JSON.parse(stdout)).toMatchObject({ format: 'vhdx', 'virtual-size': 3 * MIB });
    await runOk(img, ['compare', '-q', 'a.raw', 'b.vhdx'], { cwd: folder });
  });

  it('makes what ESXi and OVF take: a stream for an LSI Logic adapter, of whole MiB', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), seededRandom().bytes(2 * MIB + 512));
    await runOk(img, ['convert', '--profile', 'esxi', 'a.raw', 'b.vmdk'], { cwd: folder });
    const { stdout } = await runOk(img, ['info', '--output=json', 'b.vmdk'], { cwd: folder });
    expect(JSON.parse(stdout)).toMatchObject({
      format: 'vmdk',
      'virtual-size': 3 * MIB,
      'format-specific': { data: { 'create-type': 'streamOptimized' } },
    });
    const text = readFileSync(join(folder, 'b.vmdk'), 'latin1').slice(512, 2048);
    expect(text).toContain('ddb.adapterType = "lsilogic"\n');
    expect(text).toContain('ddb.virtualHWVersion = "6"\n');
    await runOk(img, ['compare', '-q', 'a.raw', 'b.vmdk'], { cwd: folder });
  });

  it('names the format that is missing, and what does not fit', async () => {
    const folder = tempDir();
    writeFileSync(join(folder, 'a.raw'), new Uint8Array(MIB));
    const says = async (...words: string[]): Promise<string> => {
      const args = ['convert', ...words, 'a.raw', 'b'];
      const { status, stderr } = await run(img, args, { cwd: folder });
      expect(status).toBe(1);
      expect(existsSync(join(folder, 'b'))).toBe(false);
      return stderr;
    };
    const { stdout } = await runOk(img, ['convert', '--profile', 'help']);
    for (const name of ['azure', 'hyperv', 'esxi', 'virtualbox', 'aws']) {
      expect(stdout).toContain(`  ${name} `);
      if (!new RegExp(`  ${name} .*not yet`).test(stdout)) continue;
      expect(await says('--profile', name)).toMatch(
        new RegExp(
          `^vdisk-img: Profile '${name}' needs the format '.*' \\(.*\\), which vdisk .*\\n$`,
        ),
      );
    }
    expect(await says('--profile', 'aws', '-O', 'qcow2')).toBe(
      "vdisk-img: Profile 'aws' makes 'raw' images, not 'qcow2'\n",
    );
    expect(await says('--profile', 'x')).toContain("Unknown profile 'x'; there are: azure, ");
  });
});
