/**
 * Linux without a boot loader (Linux's x86 boot protocol, 2.04 or later): an option ROM that
 * firmware starts asks for the kernel by writing to a port, then jumps into it. The files are
 * placed at that moment, so that each reset finds them as new.
 */
import type { IoRegion } from '../device/bus/space.js';
import type { GuestMemory } from '../host/guest-memory.js';

/** The ROM's name in firmware's configuration. */
export const LINUX_ROM = 'genroms/linuxboot.bin';

const PORT = 0x520;
const SETUP_SECTORS = 0x1f1;
const MAGIC = 0x202;
const VERSION = 0x206;
const LOADER = 0x210;
const FLAGS = 0x211;
const INITRD = 0x218;
const INITRD_BYTES = 0x21c;
const HEAP_END = 0x224;
const COMMAND_LINE = 0x228;
const INITRD_MAX = 0x22c;
const COMMAND_LINE_MAX = 0x238;
const PREFERRED = 0x258;
const INIT_BYTES = 0x260;

const HDRS = 0x5372_6448;
const OLDEST = 0x0204;
const LOADED_HIGH = 0x01;
const USES_HEAP = 0x80;
const UNKNOWN_LOADER = 0xff;

/** The setup code's segment, its stack, where the command line and the kernel go. */
const SETUP_SEGMENT = 0x1000;
const SETUP_AT = SETUP_SEGMENT * 16;
const STACK = 0xfff0;
const HEAP = 0xfe00;
const COMMAND_LINE_AT = 0x2_0000;
const KERNEL_AT = 0x10_0000;
/** Firmware's tables are at the end of RAM. */
const FIRMWARE_BYTES = 1024 * 1024;
const PAGE = 4096;

const ROM_BYTES = 512;
const PNP_AT = 0x20;
const CODE_AT = 0x60;
const NAME_AT = 0x50;

export interface LinuxFiles {
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  readonly commandLine?: string;
}

export class LinuxBoot {
  readonly port = PORT;
  readonly rom = makeRom();
  readonly #pieces: readonly (readonly [number, Uint8Array])[];

  /** Throws RangeError when the kernel cannot be started this way, or RAM is too small. */
  constructor(files: LinuxFiles, ramBytes: number) {
    this.#pieces = layOut(files, ramBytes);
  }

  /** The port that the ROM writes to. */
  region(memory: GuestMemory): IoRegion {
    return {
      name: 'linuxboot',
      bytes: 1,
      read: () => 0xff,
      write: () => {
        for (const [address, data] of this.#pieces) memory.write(address, data);
      },
    };
  }
}

/** Where everything goes. */
function layOut(files: LinuxFiles, ramBytes: number): (readonly [number, Uint8Array])[] {
  const { kernel, initrd = new Uint8Array(0) } = files;
  const view = new DataView(kernel.buffer, kernel.byteOffset, kernel.byteLength);
  if (kernel.length < 0x400 || view.getUint32(MAGIC, true) !== HDRS) {
    throw new RangeError('The kernel is no bzImage for x86');
  }
  const version = view.getUint16(VERSION, true);
  if (version < OLDEST || (kernel[FLAGS]! & LOADED_HIGH) === 0) {
    throw new RangeError(`The kernel's boot protocol is ${version.toString(16)}, 204 is needed`);
  }
  const sectors = kernel[SETUP_SECTORS] === 0 ? 4 : kernel[SETUP_SECTORS]!;
  const setup = kernel.slice(0, (sectors + 1) * 512);
  const body = kernel.subarray(setup.length);
  const line = new TextEncoder().encode(`${files.commandLine ?? ''}\0`);
  const longest = version >= 0x206 ? view.getUint32(COMMAND_LINE_MAX, true) : 255;
  if (line.length - 1 > longest) {
    throw new RangeError(`The kernel's command line has more than ${longest} bytes`);
  }
  const most = Math.min(ramBytes - FIRMWARE_BYTES, view.getUint32(INITRD_MAX, true) + 1);
  const initrdAt = Math.floor((most - initrd.length) / PAGE) * PAGE;
  const unpacked = version >= 0x20a ? view.getUint32(PREFERRED, true) : KERNEL_AT;
  const room = version >= 0x20a ? view.getUint32(INIT_BYTES, true) : body.length;
  const end = Math.max(unpacked + room, KERNEL_AT + body.length);
  if (end > initrdAt) {
    const needed = Math.ceil((end + initrd.length + FIRMWARE_BYTES) / 2 ** 20);
    throw new RangeError(`The kernel with its initial RAM disk needs ${needed} MiB of RAM`);
  }
  const header = new DataView(setup.buffer);
  setup[LOADER] = UNKNOWN_LOADER;
  setup[FLAGS] = setup[FLAGS]! | USES_HEAP;
  header.setUint16(HEAP_END, HEAP, true);
  header.setUint32(COMMAND_LINE, COMMAND_LINE_AT, true);
  if (initrd.length > 0) {
    header.setUint32(INITRD, initrdAt, true);
    header.setUint32(INITRD_BYTES, initrd.length, true);
  }
  return [
    [SETUP_AT, setup],
    [COMMAND_LINE_AT, line],
    [KERNEL_AT, body],
    [initrdAt, initrd],
  ];
}

/** An option ROM with a bootstrap entry (Plug and Play BIOS Specification 1.0A, section 3). */
function makeRom(): Uint8Array {
  const rom = new Uint8Array(ROM_BYTES);
  const view = new DataView(rom.buffer);
  // Signature, length in units of 512 bytes, and an initialisation that has nothing to do.
  rom.set([0x55, 0xaa, ROM_BYTES / 512, 0xcb]);
  view.setUint16(0x1a, PNP_AT, true);
  rom.set(new TextEncoder().encode('$PnP'), PNP_AT);
  rom.set([1, 2], PNP_AT + 4);
  view.setUint16(PNP_AT + 0x10, NAME_AT, true);
  view.setUint16(PNP_AT + 0x1a, CODE_AT, true);
  rom.set(new TextEncoder().encode('Linux\0'), NAME_AT);
  const low = (value: number): number => value & 0xff;
  const high = (value: number): number => value >> 8;
  const code = [
    [0xfa, 0xfc], // cli; cld
    [0xba, low(PORT), high(PORT), 0xee], // mov dx, PORT; out dx, al
    [0xb8, low(SETUP_SEGMENT), high(SETUP_SEGMENT)], // mov ax, SETUP_SEGMENT
    [0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8], // mov ds, es, fs, gs
    [0x8e, 0xd0, 0xbc, low(STACK), high(STACK)], // mov ss, ax; mov sp, STACK
    [0xea, 0, 0, low(SETUP_SEGMENT + 0x20), high(SETUP_SEGMENT + 0x20)], // jmp far
  ].flat();
  rom.set(code, CODE_AT);
  rom[PNP_AT + 9] = checksum(rom.subarray(PNP_AT, PNP_AT + 32));
  rom[ROM_BYTES - 1] = checksum(rom);
  return rom;
}

/** What makes the sum of all bytes a multiple of 256. */
function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}
