/**
 * A drive: a backend as a device uses it. Requests go by the error policies of the backend
 * (`rerror`, `werror`).
 *
 * A request that fails under `stop` waits until the guest runs again and is then repeated; a
 * reset in the meantime gives it up (`abandon`), so that nothing old is ever repeated after the
 * guest has moved on.
 */
import type { Backend, BackendUser, IoStatus, ErrorAction } from '../../block/backend.js';
import { BlockError, errorCode } from '../../block/errors.js';
import { Perm } from '../../block/types.js';
import { errnoText } from '../../lib/errno.js';
import type { Iov } from '../../lib/iov.js';
import type { DeviceContext, DeviceInit } from './device.js';

/** A property `rerror` or `werror`; `auto` leaves what the drive says. */
export type OnError = 'auto' | ErrorAction;

/** How a device takes its drive. */
export interface DriveInit {
  readonly backend: Backend;
  readonly context: DeviceContext;
  readonly user: BackendUser;
  readonly isReadOnly: boolean;
  /** The guest may see the medium change its length. */
  readonly resizable: boolean;
  /** Others may write meanwhile. */
  readonly shareWrites: boolean;
  readonly rerror: OnError;
  readonly werror: OnError;
  readonly writeCache: 'auto' | 'on' | 'off';
  /** Queries tell whether the guest waits for it. */
  readonly tellsStatus: boolean;
  /** The backend's length changed. */
  readonly resized: () => void;
}

type Operation = 'read' | 'write';

/** Thrown into a request that a reset gave up. */
export class Abandoned extends Error {
  override readonly name = 'Abandoned';
}

/** How monitors name what stands in front of a backend. */
export type DeviceName = Pick<BackendUser, 'qdev' | 'qomPath'>;

/** The name of a device that has its drive itself, by which QEMU's queries tell it. */
export function deviceName({
  id,
  qomPath,
}: Pick<DeviceInit<unknown>, 'id' | 'qomPath'>): DeviceName {
  return { qdev: id ?? qomPath, qomPath };
}

/** The user of a disk that nobody takes out. */
export function fixedUser(name: DeviceName): BackendUser {
  const nothing = (): void => undefined;
  return {
    ...name,
    isRemovable: false,
    hasTray: false,
    isTrayOpen: false,
    isLocked: false,
    requestEject: nothing,
    mediumChanged: nothing,
    moveTray: nothing,
  };
}

export class Drive {
  readonly backend: Backend;
  readonly #context: DeviceContext;
  #generation = 0;

  private constructor(init: DriveInit) {
    this.backend = init.backend;
    this.#context = init.context;
  }

  /** Takes a backend for a device. Throws BlockError; then the backend is free as before. */
  static async claim(init: DriveInit): Promise<Drive> {
    const { backend } = init;
    if (backend.user !== undefined) {
      throw new BlockError('EBUSY', `Drive '${backend.name}' is already in use by another device`);
    }
    backend.user = init.user;
    try {
      const perm = Perm.consistentRead | (init.isReadOnly ? 0 : Perm.write);
      let shared: number = Perm.consistentRead | Perm.writeUnchanged;
      if (init.resizable) shared |= Perm.resize;
      if (init.shareWrites) shared |= Perm.write;
      await backend.setPerms({ perm, shared });
    } catch (e) {
      backend.user = undefined;
      throw e;
    }
    if (init.rerror !== 'auto') backend.onReadError = init.rerror;
    if (init.werror !== 'auto') backend.onWriteError = init.werror;
    backend.ioStatus = init.tellsStatus ? 'ok' : undefined;
    if (init.writeCache !== 'auto') backend.writeCache = init.writeCache === 'on';
    backend.onResize = init.resized;
    return new Drive(init);
  }

  /** The device is gone. */
  async release(): Promise<void> {
    this.abandon();
    this.backend.user = undefined;
    this.backend.onResize = undefined;
    this.backend.ioStatus = undefined;
    await this.#context.releaseBackend(this.backend);
  }

  /**
   * A medium that can be written came or went, in a drive that takes both kinds: takes the right
   * to write, or gives it back. Where others do not allow writing it stays read-only.
   */
  async followMedium(): Promise<void> {
    const { backend } = this;
    const { shared } = backend.perms;
    const writes = backend.isInserted && !backend.node.staysReadOnly ? Perm.write : 0;
    try {
      await backend.setPerms({ perm: Perm.consistentRead | writes, shared });
    } catch (e) {
      if (!(e instanceof BlockError)) throw e;
    }
  }

  /** Whether the device has the right to write. */
  get mayWrite(): boolean {
    return (this.backend.perms.perm & Perm.write) !== 0;
  }

  /** Whether there is a medium. */
  get isInserted(): boolean {
    return this.backend.isInserted;
  }

  /** Length of the medium in bytes, 0 without one. */
  get bytes(): number {
    return this.backend.isInserted ? this.backend.size : 0;
  }

  get isReadOnly(): boolean {
    return this.backend.isInserted && this.backend.node.staysReadOnly;
  }

  /** Requests that wait for the guest to run again are given up. */
  abandon(): void {
    this.#generation++;
  }

  read(offset: number, iov: Iov): Promise<void> {
    return this.#run('read', () => this.backend.read(offset, iov));
  }

  /** `flags`: Req.fua to have it durable when it is done. */
  write(offset: number, iov: Iov, flags = 0): Promise<void> {
    return this.#run('write', () => this.backend.write(offset, iov, flags));
  }

  writeZeroes(offset: number, bytes: number, flags: number): Promise<void> {
    return this.#run('write', () => this.backend.writeZeroes(offset, bytes, flags));
  }

  discard(offset: number, bytes: number): Promise<void> {
    return this.#run('write', () => this.backend.discard(offset, bytes));
  }

  flush(): Promise<void> {
    return this.#run('write', () => this.backend.flush());
  }

  #run(operation: Operation, attempt: () => Promise<void>): Promise<void> {
    const generation = this.#generation;
    return attempt().catch((e: unknown) => this.#failed(operation, attempt, generation, e));
  }

  async #failed(
    operation: Operation,
    attempt: () => Promise<void>,
    generation: number,
    error: unknown,
  ): Promise<void> {
    for (let failure = error; ;) {
      const action = this.#action(operation, errorCode(failure));
      this.#tell(operation, action, failure);
      if (action === 'ignore') return;
      if (action === 'report') throw failure;
      const { run } = this.#context;
      this.#setStatus(errorCode(failure) === 'ENOSPC' ? 'nospace' : 'failed');
      run.stopForError();
      await run.whenRunning();
      this.#setStatus('ok');
      if (generation !== this.#generation) throw new Abandoned('given up by a reset');
      try {
        await attempt();
        return;
      } catch (e) {
        failure = e;
      }
    }
  }

  /** The first failure is told until the guest goes on. */
  #setStatus(status: IoStatus): void {
    const { backend } = this;
    if (backend.ioStatus === undefined) return;
    if (status === 'ok' || backend.ioStatus === 'ok') backend.ioStatus = status;
  }

  /** What the policy says of an error. */
  #action(operation: Operation, code: string): 'report' | 'ignore' | 'stop' {
    const { onReadError, onWriteError } = this.backend;
    const policy = operation === 'read' ? onReadError : onWriteError;
    if (policy !== 'enospc') return policy;
    return code === 'ENOSPC' ? 'stop' : 'report';
  }

  #tell(operation: Operation, action: string, failure: unknown): void {
    const code = errorCode(failure);
    const { backend } = this;
    this.#context.emit('BLOCK_IO_ERROR', {
      'qom-path': backend.user?.qomPath ?? '',
      device: backend.name,
      ...(backend.isInserted ? { 'node-name': backend.node.name } : {}),
      operation,
      action,
      nospace: code === 'ENOSPC',
      reason: errnoText(code),
    });
  }
}
