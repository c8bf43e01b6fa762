/**
 * Port: the npm package `v86`, a PC's processor and chipset, as machines of ours use it. What
 * stands here is not in the declarations that the package ships: one version was looked at (see
 * docs/decisions/0007-v86.md), and machines check that what they need is there.
 */

/** How it is set up; buffers are taken over. */
export interface V86Options {
  readonly wasm_fn: (imports: object) => Promise<object>;
  readonly memory_size: number;
  readonly bios: { readonly buffer: ArrayBuffer };
  /** With the APIC and I/O APIC. */
  readonly acpi: boolean;
  readonly autostart: boolean;
  readonly disable_keyboard: boolean;
  readonly disable_mouse: boolean;
  readonly disable_speaker: boolean;
  readonly log_level: number;
  readonly uart1: boolean;
  readonly uart2: boolean;
  readonly uart3: boolean;
}

export interface V86Io {
  port_read8(port: number): number;
  port_read16(port: number): number;
  port_read32(port: number): number;
  port_write8(port: number, value: number): void;
  port_write16(port: number, value: number): void;
  port_write32(port: number, value: number): void;
  /** Address and size are multiples of 128 KiB; addresses arrive signed. */
  mmap_register(
    address: number,
    bytes: number,
    read8: (address: number) => number,
    write8: (address: number, value: number) => void,
    read32: (address: number) => number,
    write32: (address: number, value: number) => void,
  ): void;
}

export interface V86Uart {
  /** Bytes that the guest has not taken. */
  readonly input: readonly number[];
}

export interface V86Devices {
  readonly pci: { readonly device_spaces: readonly (Int32Array | undefined)[] };
  readonly rtc: { cmos_write(index: number, value: number): void };
  /** Its own power management, which ours stands in for. */
  readonly acpi: { timer: (now: number) => number };
  readonly uart0: V86Uart;
  readonly uart1?: V86Uart;
  readonly uart2?: V86Uart;
  readonly uart3?: V86Uart;
}

export interface V86Cpu {
  readonly io: V86Io;
  readonly devices: V86Devices;
  /** Runs for about a millisecond; how many milliseconds to wait before the next time. */
  main_loop: () => number;
  reboot_internal: () => void;
  mmap_write16: (address: number, value: number) => void;
  /** A live view: its buffer goes when memory grows. */
  read_blob(address: number, bytes: number): Uint8Array;
  write_blob(data: Uint8Array, address: number): void;
  write32(address: number, value: number): void;
  device_raise_irq(input: number): void;
  device_lower_irq(input: number): void;
  readonly flags: Int32Array;
  readonly in_hlt: Uint8Array;
  readonly memory_size: Uint32Array;
}

/** Where its display shows what it has; methods may be replaced, for it calls them by name. */
export interface V86Screen {
  get_text_screen(): readonly string[];
  /** What the display adds to `flags` of a character that blinks. */
  FLAG_BLINKING?: number;
  /** Colours are 0xRRGGBB. */
  put_char: (
    row: number,
    column: number,
    char: number,
    flags: number,
    background: number,
    foreground: number,
  ) => void;
  set_mode: (isGraphical: boolean) => void;
  set_size_text: (columns: number, rows: number) => void;
  set_size_graphical: (width: number, height: number) => void;
  update_cursor: (row: number, column: number) => void;
  update_cursor_scanline: (first: number, last: number, isVisible: boolean) => void;
}

export interface V86Emulator {
  readonly v86: { readonly cpu: V86Cpu };
  readonly bus: { send(name: string, data: unknown): void };
  readonly screen_adapter: V86Screen;
  add_listener(name: string, listener: (data: unknown) => void): void;
  run(): Promise<void>;
  stop(): Promise<void>;
  destroy(): Promise<void>;
  save_state(): Promise<ArrayBuffer>;
  restore_state(state: ArrayBuffer): Promise<void>;
}

/** The package, loaded. */
export interface V86Package {
  readonly version: string;
  readonly V86: new (options: V86Options) => V86Emulator;
  /** Makes an instance of the emulator's WebAssembly; resolves to what it exports. */
  instantiate(imports: object): Promise<object>;
}
