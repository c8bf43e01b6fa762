/** Commands that drive replication (job/replication.ts) where no COLO migration does. */
import { messageOf } from '../../block/errors.js';
import {
  checkpointReplication,
  checkReplication,
  startReplication,
  stopReplication,
} from '../../job/replication.js';
import { t } from '../../options/schema.js';
import { defineCommand, definePlainCommand } from '../command.js';
import { QmpError } from '../qmp-error.js';

const setReplication = defineCommand({
  name: 'xen-set-replication',
  doc:
    'Begins or ends the replication of all disks that have a replication node. With failover a ' +
    'secondary machine keeps what its guest sees, and brings it into the secondary disk.',
  args: t.struct('q_obj_xen-set-replication-arg', {
    enable: t.bool({ doc: 'begin; off: end' }),
    primary: t.bool({ doc: 'whether this is the primary machine; only for beginning' }),
    failover: t.optional(t.bool({ doc: 'only for ending; default off' })),
  }),
  since: '2.9',
  run: async ({ graph, jobs }, { enable, primary, failover }) => {
    if (!enable) return stopReplication(graph, jobs, failover ?? false);
    if (failover !== undefined) {
      throw new QmpError("Parameter 'failover' is only for stopping replication");
    }
    return startReplication(graph, jobs, primary ? 'primary' : 'secondary');
  },
});

const queryStatus = definePlainCommand({
  name: 'query-xen-replication-status',
  doc: 'Tells whether something has gone wrong that no guest was told of.',
  returns: t.struct('ReplicationStatus', {
    error: t.bool({ doc: 'whether it has' }),
    desc: t.optional(t.str({ doc: 'what' })),
  }),
  since: '2.9',
  run: ({ graph, jobs }) => {
    try {
      checkReplication(graph, jobs);
    } catch (e) {
      return { error: true, desc: messageOf(e) };
    }
    return { error: false };
  },
});

const doCheckpoint = definePlainCommand({
  name: 'xen-colo-do-checkpoint',
  doc: 'The states of both guests are equal: what was kept apart on secondary machines is dropped.',
  since: '2.9',
  run: ({ graph, jobs }) => checkpointReplication(graph, jobs),
});

export const replicationCommands = [setReplication, queryStatus, doCheckpoint] as const;
