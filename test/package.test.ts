// Goal: package.json, package-lock.json, bin/ and src/tool/bin agree, so that a clean checkout and
// an installed package work. Method: read them.
import { accessSync, constants, existsSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { binPath, rootPath, run, runOk, tempDir } from './support/index.js';

interface LockEntry {
  version?: string;
  resolved?: string;
  integrity?: string;
  hasInstallScript?: boolean;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

const manifest = JSON.parse(readFileSync(rootPath('package.json'), 'utf8')) as {
  bin: Record<string, string>;
};
const lock = JSON.parse(readFileSync(rootPath('package-lock.json'), 'utf8')) as {
  packages: Record<string, LockEntry>;
};

/** As Node resolves: in the package's own node_modules, then in each one above. */
function isLocked(from: string, name: string): boolean {
  for (
    let base = from;
    ;
    base = base.slice(0, Math.max(0, base.lastIndexOf('node_modules/') - 1))
  ) {
    if (`${base === '' ? '' : `${base}/`}node_modules/${name}` in lock.packages) return true;
    if (base === '') return false;
  }
}

describe('package-lock.json', () => {
  it('names the default registry only, with checksums', () => {
    for (const [path, entry] of Object.entries(lock.packages)) {
      if (path === '') continue;
      expect.soft(entry.resolved, path).toMatch(/^https:\/\/registry\.npmjs\.org\//);
      expect.soft(entry.integrity, path).toMatch(/^sha512-/);
    }
  });

  it('has every dependency of every package, those for other platforms too', () => {
    const missing = Object.entries(lock.packages).flatMap(([path, entry]) =>
      Object.keys({ ...entry.dependencies, ...entry.optionalDependencies })
        .filter((name) => !isLocked(path, name))
        .map((name) => `${path} needs ${name}`),
    );
    expect(missing).toEqual([]);
  });

  it('has no package that must run a script to be usable', () => {
    const scripted = Object.entries(lock.packages).filter(([, entry]) => entry.hasInstallScript);
    // esbuild's only replaces its launcher by the program itself.
    expect(scripted.map(([path]) => path)).toEqual(['node_modules/esbuild']);
  });
});

describe('the tools', () => {
  const entries = existsSync(rootPath('src/tool/bin'))
    ? readdirSync(rootPath('src/tool/bin')).filter((name) => /^[a-z-]+\.ts$/.test(name))
    : [];
  const names = Object.keys(manifest.bin).sort();

  it('are those with an entry in src/tool/bin', () => {
    expect(entries.map((name) => name.slice(0, -3)).sort()).toEqual(names);
  });

  it('each have an executable bin file that starts the bundle of that name', () => {
    for (const name of names) {
      expect(manifest.bin[name]).toBe(`bin/${name}`);
      accessSync(binPath(name), constants.X_OK);
      const text = readFileSync(binPath(name), 'utf8');
      expect(text.split('\n').slice(2)).toEqual([`require('./load.cjs')('${name}');`, '']);
      expect(text).toBe(readFileSync(binPath(names[0]!), 'utf8').replaceAll(names[0]!, name));
    }
  });

  it('start by a path with spaces, by a link, through PATH and as a script of node', async () => {
    const link = join(tempDir(), 'a link');
    symlinkSync(binPath('vdisk-img'), link);
    const { stdout } = await runOk(process.execPath, [binPath('vdisk-img'), '--version']);
    expect(stdout).toMatch(/^vdisk-img version /);
    const linked = (await runOk(link, ['--version'])).stdout; // It goes by the link's name.
    expect(linked).toBe(stdout.replace('vdisk-img', 'a link'));
    const PATH = `${rootPath('bin')}:${process.env['PATH']}`;
    expect((await runOk('vdisk-img', ['--version'], { env: { PATH } })).stdout).toBe(stdout);
  });

  it('keep NODE_EXTRA_CA_CERTS from their own start and hand it on', async () => {
    const env = { NODE_EXTRA_CA_CERTS: '/nonexistent/ca.pem' };
    // Node warns of a file that it cannot load.
    expect((await run(process.execPath, ['-e', '0'], { env })).stderr).toContain('ca.pem');
    expect((await runOk(binPath('vdisk-img'), ['--version'], { env })).stderr).toBe('');
    const show = `require(${JSON.stringify(binPath('load.cjs'))});
      console.log([process.env.NODE_EXTRA_CA_CERTS, process.env.VDISK_EXTRA_CA_CERTS]);`;
    const seen = async (variables: Record<string, string>): Promise<string> =>
      (await runOk(process.execPath, ['-e', show], { env: variables })).stdout.trim();
    const hidden = { VDISK_EXTRA_CA_CERTS: 'a.pem', NODE_EXTRA_CA_CERTS: '' };
    expect(await seen(hidden)).toBe("[ 'a.pem', undefined ]");
    expect(await seen({ ...hidden, VDISK_EXTRA_CA_CERTS: '' })).toBe('[ undefined, undefined ]');
  });

  it('say in one line that they are not built', async () => {
    const result = await run(process.execPath, [binPath('load.cjs'), 'no-such-tool']);
    expect(result.status).toBe(1);
    expect(result.stdout).toBe('');
    expect(result.stderr).toMatch(/^no-such-tool: not built \(.*\): run "npm run build"\n$/);
  });
});
