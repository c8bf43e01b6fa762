/** What `-preconfig` refuses until `x-exit-preconfig` has made the machine. */
import type { MonitorContext } from './context.js';
import { QmpError } from './qmp-error.js';

/** Commands that QAPI's schema does not allow before there is a machine. */
const needMachine: ReadonlySet<string> = new Set([
  'block-job-change',
  'blockdev-change-medium',
  'blockdev-close-tray',
  'blockdev-insert-medium',
  'blockdev-open-tray',
  'blockdev-remove-medium',
  'chardev-add',
  'chardev-change',
  'chardev-remove',
  'cont',
  'device-list-properties',
  'device_add',
  'device_del',
  'eject',
  'human-monitor-command',
  'job-cancel',
  'job-complete',
  'job-dismiss',
  'job-finalize',
  'job-pause',
  'job-resume',
  'migrate',
  'migrate-continue',
  'migrate-incoming',
  'migrate-set-capabilities',
  'migrate-set-parameters',
  'migrate-start-postcopy',
  'migrate_cancel',
  'query-chardev-backends',
  'query-cpus-fast',
  'query-jobs',
  'query-kvm',
  'query-machines',
  'query-migrate',
  'query-migrate-capabilities',
  'query-migrate-parameters',
  'query-xen-replication-status',
  'snapshot-delete',
  'snapshot-load',
  'snapshot-save',
  'stop',
  'system_powerdown',
  'system_reset',
  'transaction',
  'xen-colo-do-checkpoint',
  'xen-set-replication',
]);

/** Throws QmpError when `command` must wait for the machine. */
export function checkPreconfig({ machine }: MonitorContext, command: string): void {
  if (machine?.isBeingMade !== true || !needMachine.has(command)) return;
  const when = 'only after machine initialization has completed';
  throw new QmpError(`The command '${command}' is permitted ${when}`);
}
