// What -boot says reaches firmware: items and files of fw_cfg, read through its two ports.
import { expect, it } from 'vitest';
import { publishBoot, publishBootOrder } from './boot.js';
import type { BootOptions } from './boot.js';
import { Cmos } from './cmos.js';
import { FwCfg } from './fw-cfg.js';

const DIRECTORY = 0x19;
const BOOT_MENU = 0x0e;

function read({ region }: FwCfg, key: number, bytes: number): number[] {
  region.write(0, 2, key);
  return Array.from({ length: bytes }, () => region.read(1, 1));
}

/** Names and contents of all files. */
function files(fwCfg: FwCfg): Record<string, number[]> {
  const count = read(fwCfg, DIRECTORY, 4)[3]!;
  const entries = read(fwCfg, DIRECTORY, 4 + 64 * count).slice(4);
  const found: Record<string, number[]> = {};
  for (let at = 0; at < entries.length; at += 64) {
    const name = String.fromCharCode(...entries.slice(at + 8, at + 64)).replace(/\0.*$/s, '');
    found[name] = read(fwCfg, entries[at + 5]!, entries[at + 3]!);
  }
  return found;
}

function published(boot: BootOptions, paths: readonly string[] = []): FwCfg {
  const fwCfg = new FwCfg(1 << 20);
  publishBoot(fwCfg, boot);
  publishBootOrder(fwCfg, paths, boot);
  return fwCfg;
}

it('says whether there is a menu, and for how long', () => {
  expect(read(published({}), BOOT_MENU, 2)).toEqual([0, 0]);
  const fwCfg = published({ menu: true, menuWaitMs: 0x1234, retryMs: -1 });
  expect(read(fwCfg, BOOT_MENU, 2)).toEqual([1, 0]);
  expect(files(fwCfg)).toEqual({
    'etc/boot-menu-wait': [0x34, 0x12],
    'etc/boot-fail-wait': [255, 255, 255, 255],
    bootorder: [0],
  });
});

it('strict: firmware halts after the last device, if there is one', () => {
  const text = (boot: BootOptions, paths: readonly string[]): string =>
    String.fromCharCode(...files(published(boot, paths))['bootorder']!);
  expect(text({}, ['/a', '/b'])).toBe('/a\n/b\0');
  expect(text({ strict: true }, ['/a', '/b'])).toBe('/a\n/b\nHALT\0');
  expect(text({ strict: true }, [])).toBe('\0');
});

it('the letters a and b both stand for the floppy drives, as in QEMU', () => {
  const cmos = new Cmos(() => new Date(0));
  cmos.setBoot('bc', true);
  expect([cmos.bytes[0x3d], cmos.bytes[0x38]]).toEqual([0x21, 0]);
});
