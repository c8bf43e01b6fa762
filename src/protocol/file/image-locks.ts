/**
 * Image locks: how processes that use one file tell each other what they do with it.
 *
 * Open-file-description locks on single bytes, shared ones only, at QEMU's places:
 *
 * - byte 100 + i is held by whoever has permission i on the file;
 * - byte 200 + i is held by whoever does not let others have permission i.
 *
 * (i: 0 consistent read, 1 write, 2 write unchanged, 3 resize.) Taking one's own bytes
 * never conflicts with another process that follows these rules; afterwards one asks
 * whether an exclusive lock would be granted on the counterparts: on 200 + i for each
 * permission that one has, and on 100 + i for each that one does not share. Both sides
 * take before they ask, so of two that start at the same moment at least one sees the other.
 *
 * Invariant L1: between changes, exactly the bytes of `perm` and of `~shared` are held.
 */
import { BlockError } from '../../block/errors.js';
import { permNames } from '../../block/child.js';
import { Perm } from '../../block/types.js';
import type { HostFile } from '../../host/file.js';

const HAS_BASE = 100;
const UNSHARED_BASE = 200;
const PERM_BITS = [0, 1, 2, 3] as const;

/** Or-ed permissions that a process has, and those that it lets others have. */
export interface LockState {
  readonly perm: number;
  readonly shared: number;
}

/** Nothing needed, everything shared: no byte is held. */
export const unlocked: LockState = { perm: 0, shared: Perm.all };

/** Whether this host has open-file-description locks for `file`. */
export async function hasLocks(file: HostFile): Promise<boolean> {
  try {
    await file.testLock({ offset: 0, bytes: 1, type: 'exclusive' });
    return true;
  } catch {
    return false;
  }
}

function bytesOf(state: LockState): Set<number> {
  const out = new Set<number>();
  for (const i of PERM_BITS) {
    if ((state.perm & (1 << i)) !== 0) out.add(HAS_BASE + i);
    if ((state.shared & (1 << i)) === 0) out.add(UNSHARED_BASE + i);
  }
  return out;
}

/** The locks of one open file description. */
export class ImageLocks {
  readonly #file: HostFile;
  readonly #held = new Set<number>();

  constructor(file: HostFile) {
    this.#file = file;
  }

  /** Takes what `state` needs beyond what is held. Throws when someone holds a byte exclusively. */
  async take(state: LockState): Promise<void> {
    for (const offset of bytesOf(state)) {
      if (this.#held.has(offset)) continue;
      if (!(await this.#file.tryLock({ offset, bytes: 1, type: 'shared' }))) {
        throw new BlockError('EAGAIN', `Failed to lock byte ${offset}`);
      }
      this.#held.add(offset);
    }
  }

  /** Gives back what `state` does not need. A byte that cannot be given back goes with close. */
  async giveBack(state: LockState): Promise<void> {
    const keep = bytesOf(state);
    for (const offset of [...this.#held]) {
      if (keep.has(offset)) continue;
      await this.#file.tryLock({ offset, bytes: 1, type: 'unlock' }).catch(() => false);
      this.#held.delete(offset);
    }
  }

  /** Throws when another process has what `state` does not share, or does not share its needs. */
  async check(state: LockState): Promise<void> {
    for (const i of PERM_BITS) {
      if ((state.perm & (1 << i)) === 0) continue;
      if (!(await this.#isFree(UNSHARED_BASE + i))) throw conflict('', 1 << i, this.#file.path);
    }
    for (const i of PERM_BITS) {
      if ((state.shared & (1 << i)) !== 0) continue;
      if (!(await this.#isFree(HAS_BASE + i))) throw conflict('shared ', 1 << i, this.#file.path);
    }
  }

  #isFree(offset: number): Promise<boolean> {
    return this.#file.testLock({ offset, bytes: 1, type: 'exclusive' });
  }
}

function conflict(kind: string, perm: number, path: string): BlockError {
  return new BlockError('EAGAIN', `Failed to get ${kind}"${permNames(perm)}" lock`, {
    hint: `Is another process using the image [${path}]?`,
  });
}
