/** What the adapter needs of the package v86, checked by name before a guest runs. */
import type { V86Emulator } from '../../host/v86.js';

/** The version that was looked at. */
export const V86_VERSION = '0.5.462';

const hooks: readonly (readonly [string, string])[] = [
  ['cpu', 'main_loop'],
  ['cpu', 'reboot_internal'],
  ['cpu', 'mmap_write16'],
  ['cpu', 'read_blob'],
  ['cpu', 'write_blob'],
  ['cpu', 'write32'],
  ['cpu', 'device_raise_irq'],
  ['cpu', 'device_lower_irq'],
  ['io', 'port_read8'],
  ['io', 'port_read16'],
  ['io', 'port_read32'],
  ['io', 'port_write8'],
  ['io', 'port_write16'],
  ['io', 'port_write32'],
  ['io', 'mmap_register'],
  ['rtc', 'cmos_write'],
  ['acpi', 'timer'],
  ['screen', 'put_char'],
  ['screen', 'set_mode'],
  ['screen', 'set_size_text'],
  ['screen', 'set_size_graphical'],
  ['screen', 'update_cursor'],
  ['screen', 'update_cursor_scanline'],
];

/** Throws Error when something is not there that this adapter replaces or calls. */
export function checkHooks(emulator: V86Emulator, version: string): void {
  const { cpu } = emulator.v86;
  const owners: Readonly<Record<string, object>> = {
    cpu,
    io: cpu.io,
    rtc: cpu.devices.rtc,
    acpi: cpu.devices.acpi,
    screen: emulator.screen_adapter,
  };
  for (const [owner, name] of hooks) {
    const value: unknown = Reflect.get(owners[owner] ?? {}, name);
    if (typeof value === 'function') continue;
    throw new Error(
      `The package v86 ${version} has no ${owner}.${name}: use version ${V86_VERSION}`,
    );
  }
}
