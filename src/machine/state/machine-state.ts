/**
 * What of a machine is kept or sent, and how it is put into another of the same kind.
 *
 * Sections: `machine` (what it is and which devices it has; JSON), `ram` (a run of bytes: its
 * offset in RAM, 64 bits, then the bytes; what no run covers is zero), `cmos` (128 bytes).
 *
 * A device has no section: only machines whose guest has not touched a register since the last
 * reset can be saved, whose devices are therefore as a reset makes them.
 *
 * Invariants
 *  MS1  A stream is loaded into a machine that was made with the same options, or refused.
 *  MS2  When loading throws, RAM is zero and devices are as after a reset.
 */
import type { Hot } from '../../host/host.js';
import { formatJson, parseJson } from '../../lib/json-text.js';
import type { Infer } from '../../options/schema.js';
import { parseValue, t } from '../../options/schema.js';
import type { Machine } from '../machine.js';
import type { MachineRam } from '../processor.js';
import type { Section, StateReader, StateWriter } from './stream.js';
import { badState } from './stream.js';

const FOUR_GIB = 2 ** 32;
/** RAM is looked at in pieces of so many bytes. */
const PIECE = 1 << 18;
const PAGE = 4096;

const facts = t.struct('MachineFacts', {
  type: t.str({ doc: 'kind of machine; none: it has no devices' }),
  ram: t.uint({}, { doc: 'bytes of RAM' }),
  uuid: t.str({ doc: 'UUID' }),
  running: t.bool({ doc: 'whether the guest goes on when it is loaded' }),
  devices: t.arrayOf(t.str({ doc: 'type and ID' }), { doc: 'in their order' }),
});

/** What a stream says of the machine that it comes from. */
export type MachineFacts = Infer<typeof facts>;

/** What of a machine is no device. */
export interface MachineIdentity {
  readonly uuid: string;
  readonly running: boolean;
}

/** The state cannot be taken; the text names the device. */
export function whyNotSavable(machine: Machine | undefined): string | undefined {
  if (machine === undefined) return undefined;
  if (machine.hasProcessor) return "State blocked by non-migratable device 'cpu'";
  if (!machine.isTouched) return undefined;
  const device = [...machine.devices].find((each) => each.drive !== undefined);
  const name = device === undefined ? 'chipset' : nameOf(device.type.name, device.id);
  return `State blocked by non-migratable device '${name}'`;
}

function nameOf(type: string, id: string | undefined): string {
  return id === undefined ? type : `${id}/${type}`;
}

function factsOf(machine: Machine | undefined, identity: MachineIdentity): MachineFacts {
  const devices = [...(machine?.devices ?? [])].map(({ type, id }) => nameOf(type.name, id));
  return { type: machine?.type ?? 'none', ram: machine?.ram.bytes ?? 0, ...identity, devices };
}

/** How much RAM was sent. */
export interface RamCount {
  zeroPages: number;
  pages: number;
}

/** Writes what a machine is, its RAM and its clock's memory. The guest stands still. */
export async function saveMachine(
  machine: Machine | undefined,
  identity: MachineIdentity,
  writer: StateWriter,
  hot: Hot,
  count: RamCount = { zeroPages: 0, pages: 0 },
): Promise<void> {
  const text = formatJson(factsOf(machine, identity));
  await writer.section('machine', 1, new TextEncoder().encode(text));
  if (machine === undefined) return;
  await saveRam(machine.ram, writer, hot, count);
  await writer.section('cmos', 1, machine.cmos.bytes);
}

/** The address of a byte of RAM. */
function addressOf({ lowBytes }: MachineRam, offset: number): number {
  return offset < lowBytes ? offset : FOUR_GIB + offset - lowBytes;
}

/** RAM in pieces that do not cross the hole below 4 GiB. */
function* pieces(ram: MachineRam): Generator<{ offset: number; bytes: number }> {
  for (let offset = 0; offset < ram.bytes;) {
    const end = offset < ram.lowBytes ? ram.lowBytes : ram.bytes;
    const bytes = Math.min(PIECE, end - offset);
    yield { offset, bytes };
    offset += bytes;
  }
}

async function saveRam(
  ram: MachineRam,
  writer: StateWriter,
  hot: Hot,
  count: RamCount,
): Promise<void> {
  const buffer = new Uint8Array(PIECE);
  for (const { offset, bytes } of pieces(ram)) {
    const address = addressOf(ram, offset);
    let piece = ram.tryView(address, bytes);
    if (piece === undefined) {
      piece = buffer.subarray(0, bytes);
      ram.read(address, piece);
    }
    if (hot.isZero(piece)) {
      count.zeroPages += Math.ceil(bytes / PAGE);
      continue;
    }
    for (let at = 0; at < bytes;) {
      const end = runEnd(piece, at, hot);
      const run = piece.subarray(at, end);
      if (hot.isZero(piece.subarray(at, Math.min(at + PAGE, bytes)))) {
        count.zeroPages += Math.ceil(run.length / PAGE);
      } else {
        count.pages += Math.ceil(run.length / PAGE);
        const content = new Uint8Array(8 + run.length);
        const view = new DataView(content.buffer);
        view.setUint32(0, Math.floor((offset + at) / FOUR_GIB));
        view.setUint32(4, (offset + at) % FOUR_GIB);
        content.set(run, 8);
        await writer.section('ram', 1, content);
      }
      at = end;
    }
  }
}

/** Where the run of zero pages, or of others, ends that begins at `from`. */
function runEnd(piece: Uint8Array, from: number, hot: Hot): number {
  const isZero = (at: number): boolean => hot.isZero(piece.subarray(at, at + PAGE));
  const kind = isZero(from);
  let at = from + PAGE;
  while (at < piece.length && isZero(at) === kind) at += PAGE;
  return Math.min(at, piece.length);
}

/** Makes all of RAM zero, without touching what is. */
export function clearRam(ram: MachineRam, hot: Hot): void {
  for (const { offset, bytes } of pieces(ram)) {
    const address = addressOf(ram, offset);
    const view = ram.tryView(address, bytes);
    if (view === undefined) ram.write(address, new Uint8Array(bytes));
    else if (!hot.isZero(view)) view.fill(0);
  }
}

/** Takes the sections of a stream for one machine. */
export class MachineLoader {
  readonly #machine: Machine | undefined;
  /** False: everything is checked, and nothing changed. */
  readonly #applies: boolean;
  #facts: MachineFacts | undefined;

  constructor(machine: Machine | undefined, applies: boolean) {
    this.#machine = machine;
    this.#applies = applies;
  }

  /** What the stream says of its machine. Throws EINVAL when it said nothing. */
  get facts(): MachineFacts {
    if (this.#facts === undefined) throw badState('it does not tell of which machine it is');
    return this.#facts;
  }

  /** Takes a section; whether it is one of a machine. Throws EINVAL. */
  take(section: Section): boolean {
    const { name, version, content } = section;
    if (name !== 'machine' && name !== 'ram' && name !== 'cmos') return false;
    if (version !== 1) throw badState(`version ${String(version)} of '${name}' is not known`);
    if (name === 'machine') this.#takeFacts(content);
    else if (this.#machine === undefined) throw badState(`there is no machine for '${name}'`);
    else if (name === 'ram') this.#takeRam(this.#machine.ram, content);
    else this.#takeCmos(this.#machine, content);
    return true;
  }

  #takeFacts(content: Uint8Array): void {
    if (this.#facts !== undefined) throw badState("section 'machine' comes twice");
    this.#facts = readFacts(content);
    const own = factsOf(this.#machine, { uuid: '', running: false });
    const { type, ram, devices } = this.#facts;
    if (type !== own.type) throw badState(`it is of machine '${type}', this is '${own.type}'`);
    if (ram !== own.ram) {
      throw badState(`it has ${String(ram)} bytes of RAM, this machine ${String(own.ram)}`);
    }
    const odd = devices.findIndex((each, i) => each !== own.devices[i]);
    if (odd < 0 && devices.length === own.devices.length) return;
    const there = odd < 0 ? undefined : devices[odd];
    const here = own.devices[odd < 0 ? devices.length : odd];
    throw badState(`it has device '${there ?? 'none'}', this machine '${here ?? 'none'}'`);
  }

  #takeRam(ram: MachineRam, content: Uint8Array): void {
    if (content.length <= 8 || this.#facts === undefined) throw badState("'ram' is misplaced");
    const view = new DataView(content.buffer, content.byteOffset);
    const offset = view.getUint32(0) * FOUR_GIB + view.getUint32(4);
    const bytes = content.length - 8;
    const limit = offset < ram.lowBytes ? ram.lowBytes : ram.bytes;
    if (offset + bytes > limit) throw badState(`RAM at ${String(offset)} is out of bounds`);
    if (this.#applies) ram.write(addressOf(ram, offset), content.subarray(8));
  }

  #takeCmos({ cmos }: Machine, content: Uint8Array): void {
    if (content.length !== cmos.bytes.length) throw badState("'cmos' has another length");
    if (this.#applies) cmos.bytes.set(content);
  }
}

function readFacts(content: Uint8Array): MachineFacts {
  try {
    const value = parseJson(new TextDecoder('utf-8', { fatal: true }).decode(content));
    return parseValue(facts, value, { from: 'qmp' });
  } catch {
    throw badState("section 'machine' cannot be read");
  }
}

/** Reads what follows the header: `more` takes what is no machine's. Throws EINVAL. */
export async function readAll(
  reader: StateReader,
  loader: MachineLoader,
  more: (section: Section) => boolean,
): Promise<MachineFacts> {
  for (let section = await reader.next(); section !== undefined; section = await reader.next()) {
    if (loader.take(section) || more(section)) continue;
    throw badState(`section '${section.name}' is not known`);
  }
  return loader.facts;
}
