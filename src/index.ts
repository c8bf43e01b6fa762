/**
 * vdisk: QEMU's block layer for Node.
 *
 * ```ts
 * import { createGraph } from 'vdisk';
 *
 * const graph = createGraph();
 * const disk = await graph.openBackend({ filename: 'disk.qcow2' });
 * const sector = new Uint8Array(512);
 * await disk.read(0, Iov.of(sector));
 * await disk.detach();
 * ```
 *
 * @packageDocumentation
 */
import type { GraphInit } from './block/graph.js';
import { BlockGraph } from './block/graph.js';
import { drivers } from './catalog/drivers.js';
import { nodeHost } from './host/node/index.js';
import type { FirmwareNames } from './host/node/v86.js';
import { assert } from './lib/assert.js';
import type { GuestMachine, GuestMachineInit } from './machine/create.js';
import type { BlockLayer } from './monitor/block-layer.js';

/** What a graph is made with; everything has a default. */
export type GraphOptions = Partial<GraphInit>;

/**
 * A block graph over this machine: its files, clocks and codecs, and every driver that
 * vdisk has. Graphs share nothing; close each when done.
 */
export function createGraph(options: GraphOptions = {}): BlockGraph {
  return new BlockGraph({ host: nodeHost(), drivers, ...options });
}

/** What a machine is made with. */
export interface MachineOptions extends Omit<
  GuestMachineInit,
  'package' | 'firmware' | 'videoFirmware'
> {
  /** Default: the system's SeaBIOS. */
  readonly firmware?: FirmwareNames;
}

/**
 * A pc that executes a guest on the processor of the npm package v86, which has to be installed,
 * with SeaBIOS as firmware. Disks are nodes of the graph; add devices for them, then let it run:
 *
 * ```ts
 * const { machine, processor } = await createMachine({ graph, ramBytes: 256 * 1024 * 1024 });
 * await machine.addDevice({ driver: 'ide-hd', bus: 'ide.0', drive: 'disk' }, 'keyval');
 * machine.begin();
 * ```
 *
 * Rejects with HostError when the package or firmware is missing, RangeError for RAM or a kernel
 * that cannot be.
 */
export async function createMachine(options: MachineOptions): Promise<GuestMachine> {
  const { firmware, ...init } = options;
  const [{ loadFirmware, loadV86 }, { createGuestMachine }] = await Promise.all([
    import('./host/node/v86.js'),
    import('./machine/create.js'),
  ]);
  const images = loadFirmware(firmware);
  return createGuestMachine({
    keepDefaultSlots: true,
    ...init,
    package: await loadV86(),
    ...images,
  });
}

export type { GuestMachine } from './machine/create.js';
export type { LinuxFiles } from './machine/linux-boot.js';
export { Machine } from './machine/machine.js';
export type { MachineInit } from './machine/machine.js';
export type { Processor } from './machine/processor.js';
export { deviceTypes } from './catalog/devices.js';
export type { Device, DeviceContext, DeviceType } from './device/bus/device.js';
export { IoSpace } from './device/bus/space.js';
export type { IoRegion } from './device/bus/space.js';
export type { GuestMemory } from './host/guest-memory.js';

/** What a block layer is made with. */
export interface BlockLayerOptions {
  /** Receives what an image or a driver warns of. Default: dropped. */
  readonly onWarning?: (message: string) => void;
}

/**
 * A block layer over this machine: a graph with jobs, exports and objects, and each command of QMP
 * on them as a typed call, each event as a typed callback. Close it when done.
 */
export async function createBlockLayer(options: BlockLayerOptions = {}): Promise<BlockLayer> {
  const [{ BlockLayer }, { ToolObjects }, { PEER_RELEASE, version }] = await Promise.all([
    import('./monitor/block-layer.js'),
    import('./tool/objects.js'),
    import('./tool/version.js'),
  ]);
  const host = nodeHost();
  const objects = new ToolObjects({ iothreads: true });
  const { onWarning } = options;
  return new BlockLayer({
    graph: (onEvent) =>
      createGraph({
        host,
        onEvent,
        throttleGroups: objects.throttleGroups,
        secret: (id) => objects.secret(id),
        tlsCredentials: (id) => objects.tlsCredentials(id, 'client'),
        ...(onWarning === undefined ? {} : { onWarning }),
      }),
    drivers,
    objects,
    clock: host.clock,
    sockets: async () => {
      const sockets = await host.loadSockets?.();
      assert(sockets !== undefined, 'this host has sockets');
      return sockets;
    },
    version: { qemu: PEER_RELEASE, package: `vdisk ${version}` },
    ...(onWarning === undefined ? {} : { warn: onWarning }),
  });
}

export { Backend } from './block/backend.js';
export { Child } from './block/child.js';
export { addBitmap } from './block/bitmaps.js';
export type { BitmapInit } from './block/bitmaps.js';
export { DirtyBitmap } from './block/dirty-bitmap.js';
export { createImage, prepareCreate } from './block/create.js';
export type { CreateRequest, PreparedCreate } from './block/create.js';
export type {
  CheckOptions,
  CheckResult,
  CompactContext,
  CompactResult,
  CreateContext,
  Driver,
  DriverInstance,
  ImageInfo,
  MeasureResult,
  NodeOptions,
  OpenContext,
  OpenFlags,
  SnapshotInfo,
  TruncateOptions,
} from './block/driver.js';
export { BlockError } from './block/errors.js';
export { BlockGraph } from './block/graph.js';
export type { GraphInit, OpenSpec } from './block/graph.js';
export { BlockNode } from './block/node.js';
export { chainStatus, nodeStatus } from './block/status.js';
export { Perm, Req } from './block/types.js';
export type {
  BlockLimits,
  BlockStatus,
  CacheMode,
  ChainStatus,
  DetectZeroes,
  Preallocation,
} from './block/types.js';
export { drivers } from './catalog/drivers.js';
export { NbdExport } from './export/nbd/export.js';
export type { NbdExportInit } from './export/nbd/export.js';
export { NbdServer } from './export/nbd/server.js';
export type { NbdServerInit } from './export/nbd/server.js';
export { IoAccounting } from './block/accounting.js';
export type { AccountedKind, IntervalFacts, LatencyHistogram } from './block/accounting.js';
export { appendNode } from './block/append.js';
export { setLimits } from './block/backend-limits.js';
export type { BackendUser, ErrorAction } from './block/backend.js';
export { graphInfo, nodeInfo } from './block/image-info.js';
export type { GraphInfo, NodeInfo } from './block/image-info.js';
export { ThrottleGroup, throttleConfig } from './block/throttle-group.js';
export type { ThrottleConfig, ThrottleLimits } from './block/throttle-group.js';
export type {
  BlockLayer,
  CommandArguments,
  CommandName,
  CommandResult,
  EventData,
  EventName,
} from './monitor/block-layer.js';
export { QmpError } from './monitor/qmp-error.js';
export { describeGraph } from './monitor/block-info.js';
export { dotPicture, svgPicture } from './monitor/graph-picture.js';
export type { GraphFacts } from './monitor/graph-picture.js';
export { commit } from './job/commit.js';
export type { CommitOptions } from './job/commit.js';
export { compact } from './job/compact.js';
export type { Compacted } from './job/compact.js';
export { DiskJob, DiskJobs } from './job/disk-jobs.js';
export type { DiskCommit, JobState } from './job/disk-jobs.js';
export type { BackupOptions } from './job/backup.js';
export type { StreamOptions } from './job/block-stream.js';
export type { MirrorOptions } from './job/mirror.js';
export { JobList } from './job/job-list.js';
export {
  checkpointReplication,
  checkReplication,
  startReplication,
  stopReplication,
} from './job/replication.js';
export { compare, CompareError } from './job/compare.js';
export type { CompareOptions, CompareResult } from './job/compare.js';
export { convert } from './job/convert.js';
export type { ConvertOptions, ConvertTarget } from './job/convert.js';
export { allocationMap } from './job/map.js';
export type { MapExtent, MapOptions } from './job/map.js';
export { Operation } from './job/operation.js';
export type { OperationOptions, Progress } from './job/operation.js';
export { takeOverDifferences } from './job/rebase.js';
export type { RebaseOptions } from './job/rebase.js';
export { HostError } from './host/file.js';
export type { HostFile, HostFiles } from './host/file.js';
export type { Host } from './host/host.js';
export { nodeHost } from './host/node/index.js';
export { Iov } from './lib/iov.js';
export { OptionError } from './options/schema.js';
