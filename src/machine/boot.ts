/** What firmware is told of booting: `-boot` and its likes, through CMOS and fw_cfg. */
import { assert } from '../lib/assert.js';
import type { FwCfg } from './fw-cfg.js';
import { textItem } from './fw-cfg.js';

export interface BootOptions {
  /** Letters a, c, d, n; default `cad`. */
  readonly order?: string;
  /** Until the first reset. */
  readonly once?: string;
  /** Firmware looks whether a floppy can be booted; default true. */
  readonly checkFloppy?: boolean;
  /** Firmware offers a menu; default false. */
  readonly menu?: boolean;
  /** How long it waits for the key that opens the menu: 0 to 65535 ms; default: firmware's own. */
  readonly menuWaitMs?: number;
  /** When it tries again after nothing could be booted: -1 (never) to 65535 ms. */
  readonly retryMs?: number;
  /** Where devices have a `bootindex`, firmware boots from no others; default false. */
  readonly strict?: boolean;
}

/** The number of the item that says whether there is a menu. */
const KEY_BOOT_MENU = 0x0e;

/** Publishes what stays the same over resets. */
export function publishBoot(fwCfg: FwCfg, boot: BootOptions): void {
  fwCfg.setItem(KEY_BOOT_MENU, new Uint8Array([boot.menu === true ? 1 : 0, 0]));
  const { menuWaitMs, retryMs } = boot;
  if (menuWaitMs !== undefined) {
    assert(menuWaitMs >= 0 && menuWaitMs <= 0xffff, 'a wait of 16 bits');
    fwCfg.setFile('etc/boot-menu-wait', new Uint8Array([menuWaitMs & 0xff, menuWaitMs >> 8]));
  }
  if (retryMs !== undefined) {
    const file = new Uint8Array(4);
    new DataView(file.buffer).setInt32(0, retryMs, true);
    fwCfg.setFile('etc/boot-fail-wait', file);
  }
}

/** Publishes the firmware paths of what is to be booted, first to last. */
export function publishBootOrder(fwCfg: FwCfg, paths: readonly string[], boot: BootOptions): void {
  const isStrict = boot.strict === true && paths.length > 0;
  fwCfg.setFile('bootorder', textItem([...paths, ...(isStrict ? ['HALT'] : [])].join('\n')));
}
