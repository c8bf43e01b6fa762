/**
 * Replication of disks between two machines: what begins it, makes a checkpoint and ends it, for
 * each end that the graph has (filter/replication.ts). Who calls this decides when the guests'
 * states are equal: the monitor's `xen-*` commands, or a program of its own.
 *
 * A secondary end runs a backup of the secondary disk to the hidden disk, which keeps what the
 * primary overwrites; a failover ends it and commits the active and the hidden disk into the
 * secondary disk, which becomes the disk of the guest. Clients see neither job.
 *
 * Invariants
 *  R3  While an end runs, active and hidden disk over the secondary disk show what the secondary
 *      disk was at the last checkpoint, with what the own guest has written since.
 *      In a power cut that is lost: the machine begins anew from the primary's state.
 *  R4  A checkpoint empties the disks while nobody writes to the secondary disk or through the end.
 *  R5  When a failover begins, what the hidden disk holds is durable; so nothing that the guest has
 *      flushed is lost from then on, wherever the commit is interrupted.
 */
import { BlockError } from '../block/errors.js';
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import { attachChild } from '../block/open.js';
import type { OpBlocker } from '../block/op-blockers.js';
import { isBelow } from '../block/insert-filter.js';
import { reopenNode } from '../block/reopen.js';
import { Role } from '../block/types.js';
import { blockCopies } from '../filter/copy-before-write/driver.js';
import type { ReplicationEnd, ReplicationMode } from '../filter/replication.js';
import { replicationEnds } from '../filter/replication.js';
import { createBackup } from './backup.js';
import { startActiveCommit } from './commit-active.js';
import { makeReadOnly } from './commit-job.js';
import type { Job } from './job.js';
import { JobList } from './job-list.js';

/** What a secondary end consists of. */
interface Disks {
  readonly active: BlockNode;
  readonly hidden: BlockNode;
  readonly secondary: BlockNode;
  readonly top: BlockNode;
  /** Images that were opened read-only, as backing files are. */
  readonly readOnly: readonly BlockNode[];
}

const blocker: OpBlocker = { reason: 'Block device is in use by internal backup job' };

class Replication {
  readonly #end: ReplicationEnd;
  readonly #jobs: JobList;
  #disks: Disks | undefined;
  #backup: Job | undefined;
  /** A call is carried out: what ends a job need not wait for it. */
  #inCall = false;

  constructor(end: ReplicationEnd, outer: JobList) {
    this.#end = end;
    this.#jobs = new JobList({
      clock: outer.clock,
      exclusive: (work) => (this.#inCall ? work() : outer.exclusive(work)),
    });
    outer.inner.add(this.#jobs);
    end.onClose = async (): Promise<void> => {
      outer.inner.delete(this.#jobs);
      await this.#jobs.close();
    };
  }

  async #call(work: () => Promise<void>): Promise<void> {
    this.#inCall = true;
    try {
      await work();
    } finally {
      this.#inCall = false;
    }
  }

  start(mode: ReplicationMode): Promise<void> {
    return this.#call(async () => {
      const end = this.#end;
      if (this.#isOver) return;
      if (end.stage !== 'none') throw invalid('Block replication is running or done');
      if (end.mode !== mode) {
        const numbers = `needs ${numberOf(end.mode)}, but got ${numberOf(mode)}`;
        throw invalid(`The parameter mode's value is invalid, ${numbers}`);
      }
      if (mode === 'secondary') await this.#startSecondary();
      end.stage = 'running';
      end.error = undefined;
    });
  }

  /** After a failover, or an end, the other calls have nothing to do. */
  get #isOver(): boolean {
    const { stage } = this.#end;
    return stage === 'failover' || stage === 'failover-failed' || stage === 'done';
  }

  async #startSecondary(): Promise<void> {
    const disks = await prepareDisks(this.#end);
    const { secondary: source, hidden: target, top } = disks;
    try {
      const options = { id: 'backup', source, target, sync: 'none' } as const;
      const job = await createBackup(this.#jobs, options);
      this.#disks = disks;
      this.#backup = job;
      top.opBlockers.add(blocker);
      job.start();
      void job.concluded.then(() => this.#backupEnded(job));
      await this.#empty();
    } catch (e) {
      await this.#endBackup();
      await restore(disks);
      throw e;
    }
  }

  /** Nobody but a failure ends it. */
  #backupEnded(job: Job): void {
    if (this.#backup !== job) return;
    this.#backup = undefined;
    this.#end.error ??= job.error ?? new BlockError('EIO');
  }

  checkpoint(): Promise<void> {
    return this.#call(async () => {
      if (this.#isOver) return;
      if (this.#end.stage !== 'running') throw invalid('Block replication is not running');
      if (this.#end.mode === 'secondary') await this.#empty();
    });
  }

  /** R4 */
  async #empty(): Promise<void> {
    if (this.#disks === undefined) return;
    const { active, hidden, secondary } = this.#disks;
    const copy = [...secondary.parents].map(({ parent }) => parent.asNode);
    const filter = copy.find((node) => node !== undefined && blockCopies.has(node.instance));
    if (this.#backup === undefined || filter === undefined) {
      throw new BlockError('EIO', 'Backup job was cancelled unexpectedly');
    }
    const { graph } = active;
    const held = [filter, active];
    for (const node of held) await graph.drainBegin(node);
    try {
      await active.instance.makeEmpty?.();
      await hidden.instance.makeEmpty?.();
      blockCopies.get(filter.instance)?.restart();
    } finally {
      for (const node of held) graph.drainEnd(node);
    }
  }

  async stop(failover: boolean): Promise<void> {
    await this.#call(async () => {
      const end = this.#end;
      if (this.#isOver) return;
      if (end.stage !== 'running') throw invalid('Block replication is not running');
      if (end.mode === 'primary') {
        end.stage = 'done';
        end.error = undefined;
        return;
      }
      const disks = this.#disks;
      if (disks === undefined) return;
      if (!failover) await this.#empty();
      await this.#endBackup();
      if (failover) await this.#startCommit(disks);
      else {
        end.stage = 'done';
        await restore(disks);
      }
    });
  }

  async #endBackup(): Promise<void> {
    const job = this.#backup;
    this.#backup = undefined;
    await job?.cancel(true);
    await job?.concluded;
  }

  async #startCommit(disks: Disks): Promise<void> {
    const end = this.#end;
    const { active: top, secondary: base } = disks;
    end.stage = 'failover';
    try {
      await disks.hidden.flush();
      end.secondary = await attachChild(base.graph, end.node, base, 'secondary disk', Role.data);
      const options = { id: 'replication-commit', top, base, completes: true } as const;
      const job = await startActiveCommit(base.graph, this.#jobs, options);
      void job.concluded.then(() => this.#committed(job.error, disks));
    } catch (e) {
      await this.#committed(e, disks);
      throw e;
    }
  }

  async #committed(error: unknown, { top, secondary }: Disks): Promise<void> {
    const end = this.#end;
    top.opBlockers.delete(blocker);
    const { graph } = end.node;
    if (error === undefined) {
      end.stage = 'done';
      const edge = end.secondary;
      end.secondary = undefined;
      if (edge !== undefined) await graph.detachEdge(edge);
      return;
    }
    end.stage = 'failover-failed';
    end.error ??= error;
    if (secondary.staysReadOnly) await makeWritable(secondary).catch(() => undefined);
    await graph.refreshPerms(end.node).catch(() => undefined);
  }

  checkError(): void {
    const { stage, error } = this.#end;
    if (this.#isOver && stage !== 'failover-failed') return;
    if (stage === 'none') throw invalid('Block replication is not running');
    if (error !== undefined) throw new BlockError('EIO', 'I/O error occurred', { cause: error });
  }
}

function invalid(message: string): BlockError {
  return new BlockError('EINVAL', message);
}

/** As QEMU's message has the modes. */
function numberOf(mode: ReplicationMode): string {
  return mode === 'primary' ? '0' : '1';
}

/** Finds the disks of an end, and makes those writable that will be written. Throws BlockError. */
async function prepareDisks({ node, topId = '' }: ReplicationEnd): Promise<Disks> {
  const active = node.file?.node;
  const hidden = active?.backing?.node;
  if (active === undefined || hidden === undefined) {
    throw invalid("Active disk doesn't have backing file");
  }
  const secondary = hidden.backing?.node;
  if (secondary === undefined) throw invalid("Hidden disk doesn't have backing file");
  if ([...secondary.parents].every(({ parent }) => parent.asNode !== undefined)) {
    throw invalid("The secondary disk doesn't have block backend");
  }
  if (active.size !== hidden.size || hidden.size !== secondary.size) {
    throw invalid("Active disk, hidden disk, secondary disk's length are not the same");
  }
  if ([active, hidden].some(({ instance }) => instance.makeEmpty === undefined)) {
    throw invalid("Active disk or hidden disk doesn't support make_empty");
  }
  const { graph } = node;
  const top = graph.backends.get(topId)?.node ?? graph.tryNode(topId);
  if (top === undefined || !isBelow(node, top)) throw invalid('No top_bs or it is invalid');
  const readOnly = [hidden, secondary].filter((each) => each.staysReadOnly);
  const disks = { active, hidden, secondary, top, readOnly };
  try {
    for (const each of readOnly) await makeWritable(each);
  } catch (e) {
    await restore(disks);
    throw e;
  }
  return disks;
}

function makeWritable(node: BlockNode): Promise<void> {
  return reopenNode(node, { options: { 'read-only': false } });
}

async function restore({ top, readOnly }: Disks): Promise<void> {
  top.opBlockers.delete(blocker);
  for (const each of readOnly) await makeReadOnly(each);
}

const controls = new WeakMap<ReplicationEnd, Replication>();

/** The ends that the graph has, in the order in which they were opened. */
function endsOf(graph: BlockGraph, jobs: JobList): Replication[] {
  const found: Replication[] = [];
  for (const { instance } of graph.nodes.values()) {
    const end = replicationEnds.get(instance);
    if (end === undefined) continue;
    const control = controls.get(end) ?? new Replication(end, jobs);
    controls.set(end, control);
    found.push(control);
  }
  return found;
}

/**
 * All ends begin. The machines' disks hold the same then; the secondary machine begins first.
 * Throws BlockError with QEMU's texts; ends that had begun before go on.
 */
export async function startReplication(
  graph: BlockGraph,
  jobs: JobList,
  mode: ReplicationMode,
): Promise<void> {
  for (const end of endsOf(graph, jobs)) await end.start(mode);
}

/** The guests' states are equal now: what secondary ends have kept apart is dropped. Throws. */
export async function checkpointReplication(graph: BlockGraph, jobs: JobList): Promise<void> {
  for (const end of endsOf(graph, jobs)) await end.checkpoint();
}

/**
 * All ends stop. Secondary ones go back to the secondary disk as the primary wrote it, or, with
 * `failover`, bring what their guest saw into it: that goes on when this resolves. Throws.
 */
export async function stopReplication(
  graph: BlockGraph,
  jobs: JobList,
  failover: boolean,
): Promise<void> {
  for (const end of endsOf(graph, jobs)) await end.stop(failover);
}

/** Throws BlockError for what has gone wrong and no guest was told of. */
export function checkReplication(graph: BlockGraph, jobs: JobList): void {
  for (const end of endsOf(graph, jobs)) end.checkError();
}
