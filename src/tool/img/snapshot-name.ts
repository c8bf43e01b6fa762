/** How `-l` names an internal snapshot: by id or name, or by `snapshot.id=…,snapshot.name=…`. */
import type { Backend } from '../../block/backend.js';
import { BlockError, messageOf, errorCode } from '../../block/errors.js';
import { skipFilters } from '../../block/status.js';
import { OptionError } from '../../options/option-error.js';
import { splitOpts } from '../../options/qemu-opts.js';
import type { Program } from '../program.js';
import { Failure } from '../program.js';

/** Which snapshot is meant. */
export interface SnapshotName {
  readonly id: string | undefined;
  readonly name: string | undefined;
  /** Given as one word, which is an id or else a name. */
  readonly either: string | undefined;
}

/** Reads `-l`'s argument; wrong options are told before the failure. */
export function parseSnapshotName(program: Program, text: string): SnapshotName {
  if (!text.startsWith('snapshot.')) return { id: undefined, name: undefined, either: text };
  let id: string | undefined;
  let name: string | undefined;
  for (const { name: key, value } of splitOpts(text)) {
    if (key === 'snapshot.id') id = value;
    else if (key === 'snapshot.name') name = value;
    else {
      program.report(new OptionError(`Invalid parameter '${key}'`, key));
      const quote = program.hintsAsNbd ? '`' : "'";
      throw new Failure(`Failed in parsing snapshot param ${quote}${text}'`);
    }
  }
  return { id, name, either: undefined };
}

/** Makes a read-only image show one of its snapshots. */
export async function loadSnapshot(source: Backend, snapshot: SnapshotName): Promise<void> {
  const node = skipFilters(source.node);
  const { snapshots } = node.instance;
  try {
    if (snapshots === undefined) {
      throw new BlockError(
        'ENOTSUP',
        `Block format '${node.driver.name}' used by device '' ` +
          'does not support temporarily loading internal snapshots',
      );
    }
    const { either } = snapshot;
    if (either === undefined) {
      await snapshots.loadTemporary(snapshot.id, snapshot.name);
    } else {
      const found = await snapshots.list();
      const byId = found.some((each) => each.id === either);
      await snapshots.loadTemporary(byId ? either : undefined, byId ? undefined : either);
    }
  } catch (e) {
    throw new BlockError(errorCode(e), `Failed to load snapshot: ${messageOf(e)}`, { cause: e });
  }
  await node.refreshLength();
}
