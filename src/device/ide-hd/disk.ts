/**
 * The commands of an ATA disk (ATA8-ACS, chapter 7), over a drive.
 *
 * Refused as the standard says, with ABRT: packet commands, CompactFlash commands, security,
 * host protected area beyond reading the native size, streaming, and overlapped commands.
 */
import { Req } from '../../block/types.js';
import type { Drive } from '../bus/drive.js';
import type { Geometry } from '../bus/geometry.js';
import type { IdeNames } from '../bus/ide/names.js';
import type { IdeModel, IdeUnit } from '../bus/ide/unit.js';
import { IdeError } from '../bus/ide/unit.js';
import { identifyDisk, MAX_MULTIPLE } from './identify.js';
import { Smart } from './smart.js';
import { DiskTransfers } from './transfer.js';

export interface DiskInit {
  readonly unit: IdeUnit;
  readonly drive: Drive;
  readonly names: IdeNames;
  readonly geometry: Geometry;
  readonly physicalExponent: number;
  readonly rotationRate: number;
  /** Depth of the port's command queue, 0 for none. */
  readonly queueDepth: number;
}

type Mode = { readonly kind: 'mwdma' | 'udma' | 'none'; readonly number: number };

/** CHECK POWER MODE's answer: active or idle. */
const POWER_ACTIVE = 0xff;

export class AtaDisk implements IdeModel {
  readonly isPacket = false;
  readonly signature = { mid: 0, high: 0 };
  readonly #init: DiskInit;
  readonly #unit: IdeUnit;
  readonly #smart = new Smart();
  readonly #transfers: DiskTransfers;
  readonly #commands: ReadonlyMap<number, () => boolean>;
  #multiple = MAX_MULTIPLE;
  #mode: Mode = { kind: 'udma', number: 5 };

  constructor(init: DiskInit) {
    this.#init = init;
    this.#unit = init.unit;
    this.#transfers = new DiskTransfers(init.unit, init.drive, init.geometry);
    this.#commands = this.#table();
  }

  get drive(): Drive {
    return this.#init.drive;
  }

  reset(): void {
    this.#init.drive.abandon();
    this.#multiple = MAX_MULTIPLE;
    this.#transfers.geometry = this.#init.geometry;
  }

  command(code: number): boolean {
    return this.#commands.get(code)?.() ?? false;
  }

  #table(): ReadonlyMap<number, () => boolean> {
    const tr = this.#transfers;
    const multiple = (run: (block: number) => boolean) => (): boolean =>
      this.#multiple > 0 && run(this.#multiple);
    const map = new Map<number, () => boolean>([
      [0x06, (): boolean => this.#unit.regs.feature === 1 && tr.trim()],
      [0x20, (): boolean => tr.readPio(false, 1)],
      [0x21, (): boolean => tr.readPio(false, 1)],
      [0x24, (): boolean => tr.readPio(true, 1)],
      [0x25, (): boolean => tr.readDma(true)],
      [0x27, (): boolean => this.#nativeMax(true)],
      [0x29, multiple((n) => tr.readPio(true, n))],
      [0x30, (): boolean => tr.writePio(false, 1)],
      [0x31, (): boolean => tr.writePio(false, 1)],
      [0x34, (): boolean => tr.writePio(true, 1)],
      [0x35, (): boolean => tr.writeDma(true, 0)],
      [0x39, multiple((n) => tr.writePio(true, n))],
      [0x3d, (): boolean => tr.writeDma(true, Req.fua)],
      [0x40, (): boolean => tr.verify(false)],
      [0x41, (): boolean => tr.verify(false)],
      [0x42, (): boolean => tr.verify(true)],
      [0x90, (): boolean => this.#diagnostic()],
      [0x91, (): boolean => this.#initializeParameters()],
      [0xb0, (): boolean => this.#smartCommand()],
      [0xc4, multiple((n) => tr.readPio(false, n))],
      [0xc5, multiple((n) => tr.writePio(false, n))],
      [0xc6, (): boolean => this.#setMultiple()],
      [0xc8, (): boolean => tr.readDma(false)],
      [0xc9, (): boolean => tr.readDma(false)],
      [0xca, (): boolean => tr.writeDma(false, 0)],
      [0xcb, (): boolean => tr.writeDma(false, 0)],
      [0xce, multiple((n) => tr.writePio(true, n, Req.fua))],
      [0xe7, (): boolean => this.#flush()],
      [0xea, (): boolean => this.#flush()],
      [0xec, (): boolean => this.#answer(this.#identify())],
      [0xef, (): boolean => this.#setFeatures()],
      [0xf8, (): boolean => this.#nativeMax(false)],
    ]);
    // RECALIBRATE in all its codes, SEEK: the heads are where they should be.
    for (let code = 0x10; code <= 0x1f; code++) map.set(code, () => this.#nothing());
    map.set(0x70, () => this.#nothing());
    // Power: STANDBY and IDLE, at once or later, SLEEP; the disk is always awake.
    for (const code of [0x94, 0x95, 0x96, 0x97, 0x99, 0xe0, 0xe1, 0xe2, 0xe3, 0xe6]) {
      map.set(code, () => this.#nothing());
    }
    for (const code of [0x98, 0xe5]) {
      map.set(code, () => {
        this.#unit.regs.count = POWER_ACTIVE;
        return this.#nothing();
      });
    }
    return map;
  }

  #nothing(): boolean {
    this.#unit.done();
    return true;
  }

  /** One block of data for the guest. */
  #answer(data: Uint8Array): boolean {
    const unit = this.#unit;
    unit.pioIn(data, () => {
      unit.dataTaken();
    });
    return true;
  }

  #identify(): Uint8Array {
    const { names, geometry, physicalExponent, rotationRate, queueDepth, drive } = this.#init;
    return identifyDisk({
      names,
      geometry,
      current: this.#transfers.geometry,
      sectors: this.#transfers.sectors,
      multiple: this.#multiple,
      writeCache: drive.backend.writeCache,
      smart: this.#smart.enabled,
      trim: !drive.isReadOnly,
      mode: this.#mode,
      physicalExponent,
      rotationRate,
      queueDepth,
    });
  }

  #diagnostic(): boolean {
    this.#unit.setSignature();
    this.#unit.done();
    this.#unit.error = 1;
    return true;
  }

  /** INITIALIZE DEVICE PARAMETERS: heads and sectors of addresses that are no LBA. */
  #initializeParameters(): boolean {
    const { regs } = this.#unit;
    const heads = (regs.device & 15) + 1;
    const sectors = regs.count & 0xff;
    if (sectors === 0) return false;
    const cylinders = Math.min(65535, Math.floor(this.#transfers.sectors / (heads * sectors)));
    this.#transfers.geometry = { cylinders, heads, sectors };
    return this.#nothing();
  }

  #setMultiple(): boolean {
    const count = this.#unit.regs.count & 0xff;
    if (count > MAX_MULTIPLE || (count & (count - 1)) !== 0) return false;
    this.#multiple = count;
    return this.#nothing();
  }

  #nativeMax(wide: boolean): boolean {
    const { sectors } = this.#transfers;
    if (sectors === 0) return false;
    const last = wide ? sectors - 1 : Math.min(sectors - 1, 0x0fff_ffff);
    if (!wide) this.#unit.regs.device |= 0x40;
    this.#transfers.setAddress(last, wide);
    return this.#nothing();
  }

  #flush(): boolean {
    const unit = this.#unit;
    unit.wait(
      this.#init.drive.flush(),
      () => {
        unit.done();
      },
      () => {
        unit.fail(IdeError.abort);
      },
    );
    return true;
  }

  #setFeatures(): boolean {
    const { regs } = this.#unit;
    const { backend } = this.#init.drive;
    switch (regs.feature) {
      case 0x02: // write cache on
        backend.writeCache = true;
        return this.#nothing();
      case 0x82: // write cache off: what it holds is written first
        backend.writeCache = false;
        return this.#flush();
      case 0x03:
        return this.#setMode((regs.count & 0xff) >> 3, regs.count & 7);
      case 0x05: // power management, acoustics, look-ahead, defaults: nothing to change
      case 0x42:
      case 0x55:
      case 0x66:
      case 0x69:
      case 0x67:
      case 0x85:
      case 0x96:
      case 0x9a:
      case 0xaa:
      case 0xc2:
      case 0xcc:
        return this.#nothing();
      default:
        return false;
    }
  }

  /** SET TRANSFER MODE: PIO, multiword DMA, Ultra DMA. */
  #setMode(kind: number, number: number): boolean {
    if (kind === 0 || kind === 1) this.#mode = { kind: 'none', number: 0 };
    else if (kind === 4 && number <= 2) this.#mode = { kind: 'mwdma', number };
    else if (kind === 8 && number <= 5) this.#mode = { kind: 'udma', number };
    else return false;
    return this.#nothing();
  }

  #smartCommand(): boolean {
    const { regs } = this.#unit;
    const smart = this.#smart;
    if (regs.mid !== 0x4f || regs.high !== 0xc2) return false;
    if (!smart.enabled && regs.feature !== 0xd8) return false;
    switch (regs.feature) {
      case 0xd0:
        return this.#answer(smart.data());
      case 0xd1:
        return this.#answer(smart.thresholds());
      case 0xd2:
        if (regs.count !== 0 && regs.count !== 0xf1) return false;
        smart.autosave = regs.count !== 0;
        return this.#nothing();
      case 0xd3:
        return this.#nothing();
      case 0xd4:
        return smart.runTest(regs.low) && this.#nothing();
      case 0xd5: {
        const log = smart.log(regs.low);
        return log !== undefined && this.#answer(log);
      }
      case 0xd8:
      case 0xd9:
        smart.enabled = regs.feature === 0xd8;
        return this.#nothing();
      case 0xda: // the registers stay as they are: no threshold was exceeded
        return this.#nothing();
      default:
        return false;
    }
  }
}
