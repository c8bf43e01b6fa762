/**
 * Filter `throttle`: no more requests, or bytes, a second than its throttle group allows.
 *
 * Reads and writes wait their turn (block/throttle-group.ts); zero writes, discards and
 * compressed writes count as writes. Flushes do not wait.
 */
import { onFile } from '../block/blockdev-types.js';
import type { Driver, OpenContext, ReopenStep } from '../block/driver.js';
import { BlockError } from '../block/errors.js';
import { passThrough } from '../block/pass-through.js';
import type { Direction, ThrottleGroup, ThrottleMember } from '../block/throttle-group.js';
import { Role } from '../block/types.js';
import { t } from '../options/schema.js';

function groupOf(context: OpenContext, name: unknown): ThrottleGroup {
  if (typeof name !== 'string' || name === '') {
    throw new BlockError('EINVAL', 'Please specify a throttle group');
  }
  const group = context.graph.throttleGroups.get(name);
  if (group === undefined) {
    throw new BlockError('EINVAL', `Throttle group '${name}' does not exist`);
  }
  return group;
}

/** A membership that can move to another group. */
class Limiter {
  member: ThrottleMember;
  #drained = 0;

  constructor(group: ThrottleGroup) {
    this.member = group.join();
  }

  run<T>(direction: Direction, bytes: number, request: () => Promise<T>): Promise<T> {
    const wait = this.member.admit(direction, bytes);
    return wait === undefined ? request() : wait.then(request);
  }

  moveTo(group: ThrottleGroup): void {
    if (group === this.member.group) return;
    this.member.leave();
    this.member = group.join();
    for (let i = 0; i < this.#drained; i++) this.member.exempt();
  }

  drainBegin(): void {
    this.#drained++;
    this.member.exempt();
  }

  drainEnd(): void {
    this.#drained--;
    this.member.restrict();
  }
}

export const throttleDriver: Driver = {
  name: 'throttle',
  kind: 'filter',
  needsFile: true,
  optionNames: ['throttle-group'],
  blockdev: t.struct('BlockdevOptionsThrottle', {
    'throttle-group': t.str({ doc: 'ID of the group that sets the limits' }),
    ...onFile,
  }),
  reopenOptions: ['throttle-group'],
  async open(context) {
    const file = await context.openChild('file', { role: Role.filtered | Role.primary });
    const limiter = new Limiter(groupOf(context, context.options['throttle-group']));
    const pass = passThrough(file);
    let name = context.options['throttle-group'];
    return {
      ...pass,
      read: (offset, iov, flags) =>
        limiter.run('read', iov.bytes, () => file.read(offset, iov, flags)),
      write: (offset, iov, flags) =>
        limiter.run('write', iov.bytes, () => file.write(offset, iov, flags)),
      writeZeroes: (offset, bytes, flags) =>
        limiter.run('write', bytes, () => file.writeZeroes(offset, bytes, flags)),
      discard: (offset, bytes) => limiter.run('write', bytes, () => file.discard(offset, bytes)),
      writeCompressed: async (offset, iov) =>
        limiter.run('write', iov.bytes, async () => pass.writeCompressed?.(offset, iov)),
      drainBegin: async () => {
        limiter.drainBegin();
      },
      drainEnd: () => {
        limiter.drainEnd();
      },
      strongOptions: () => ({ 'throttle-group': name }),
      reopenPrepare: async ({ options }): Promise<ReopenStep> => {
        const wanted = options['throttle-group'] ?? name;
        const group = groupOf(context, wanted);
        return {
          commit: () => {
            limiter.moveTo(group);
            name = wanted;
          },
          abort: () => undefined,
        };
      },
      close: async () => {
        limiter.member.leave();
      },
    };
  },
};
