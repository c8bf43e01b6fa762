/** What a disk is made of: extents one after the other; flat ones, and ones that hold zeroes. */
import type { Child } from '../../block/child.js';
import { BlockError } from '../../block/errors.js';
import type { BlockNode } from '../../block/node.js';
import type { DriverStatus } from '../../block/types.js';
import type { Iov } from '../../lib/iov.js';
import { checkParent } from './parent.js';

/** Offsets of its methods count from the start of the extent; all in bytes. */
export interface Extent {
  /** Where the extent begins on the disk. */
  readonly start: number;
  readonly bytes: number;
  /** QMP's VmdkExtentInfo. */
  readonly info: {
    readonly compressed?: boolean;
    readonly 'virtual-size': number;
    readonly filename: string;
    readonly 'cluster-size'?: number;
    readonly format: string;
  };
  read(offset: number, iov: Iov): Promise<void>;
  write(offset: number, iov: Iov): Promise<void>;
  /** Of streams: as `write`, but the last grain may be short. */
  writePacked?(offset: number, iov: Iov, mayBeShort: boolean): Promise<void>;
  writeZeroes(offset: number, bytes: number, flags: number): Promise<void>;
  discard(offset: number, bytes: number): Promise<void>;
  status(offset: number, bytes: number): Promise<DriverStatus>;
  /** Where a range stands in a file, when that is known at once. */
  tryPlace(offset: number, bytes: number): { file: Child; host: number } | undefined;
  store(): Promise<void>;
  settledGrowth(): Promise<void>;
  close(): Promise<void>;
}

/** A run of a file, as it is. */
export class FlatExtent implements Extent {
  readonly start: number;
  readonly bytes: number;
  readonly info: Extent['info'];
  readonly #file: Child;
  readonly #offset: number;

  constructor(start: number, bytes: number, file: Child, offset: number, info: Extent['info']) {
    this.start = start;
    this.bytes = bytes;
    this.info = info;
    this.#file = file;
    this.#offset = offset;
  }

  read(offset: number, iov: Iov): Promise<void> {
    return this.#file.read(this.#offset + offset, iov);
  }

  write(offset: number, iov: Iov): Promise<void> {
    return this.#file.write(this.#offset + offset, iov);
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#file.writeZeroes(this.#offset + offset, bytes, flags);
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#file.discard(this.#offset + offset, bytes);
  }

  async status(offset: number, bytes: number): Promise<DriverStatus> {
    return {
      bytes,
      data: true,
      zero: false,
      allocated: true,
      offset: this.#offset + offset,
      file: this.#file.node,
      recurse: true,
    };
  }

  tryPlace(offset: number): { file: Child; host: number } {
    return { file: this.#file, host: this.#offset + offset };
  }

  store(): Promise<void> {
    return Promise.resolve();
  }

  settledGrowth(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** Reads as zeroes and can hold nothing else. */
export class ZeroExtent implements Extent {
  readonly start: number;
  readonly bytes: number;
  readonly info: Extent['info'];

  constructor(start: number, bytes: number) {
    this.start = start;
    this.bytes = bytes;
    this.info = { 'virtual-size': bytes, filename: '', format: 'ZERO' };
  }

  async read(_offset: number, iov: Iov): Promise<void> {
    iov.fill(0);
  }

  write(): Promise<void> {
    return Promise.reject(new BlockError('ENOSPC', 'The extent holds zeroes and no file'));
  }

  async writeZeroes(): Promise<void> {
    // It does.
  }

  async discard(): Promise<void> {
    // There is nothing.
  }

  async status(_offset: number, bytes: number): Promise<DriverStatus> {
    return { bytes, data: false, zero: true, allocated: true };
  }

  tryPlace(): undefined {
    return undefined;
  }

  store(): Promise<void> {
    return Promise.resolve();
  }

  settledGrowth(): Promise<void> {
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** What the parent holds at `offset` of the disk. Throws EINVAL when the parent has changed. */
export async function readBelow(node: BlockNode, offset: number, iov: Iov): Promise<void> {
  checkParent(node);
  const event = node.file?.debugEvent('read_backing_aio');
  if (event !== undefined) await event;
  await node.backing?.read(offset, iov);
}
