/** What commands work on: one graph, and what stands around it in a daemon. */
import type { BlockGraph } from '../block/graph.js';
import type { BlockNode } from '../block/node.js';
import type { JobList } from '../job/job-list.js';
import type { Decl } from '../options/schema.js';
import type { Chardevs } from './chardevs.js';
import type { Command } from './command.js';
import type { BlockExports } from './exports.js';
import type { MachineControl } from './machine.js';
import type { Objects } from './objects.js';

/** Numbers of the release that this monitor behaves like, for `query-version` and the greeting. */
export interface VersionInfo {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  /** Who made it: the package's own name and version. */
  readonly package: string;
}

export interface MonitorContext {
  readonly graph: BlockGraph;
  /** Nodes that `blockdev-add` opened: the monitor holds a handle on each. */
  readonly owned: Set<BlockNode>;
  readonly exports: BlockExports;
  readonly chardevs: Chardevs;
  readonly objects: Objects;
  readonly jobs: JobList;
  /** The machine that the monitor belongs to; undefined: a storage daemon has none. */
  readonly machine?: MachineControl | undefined;
  readonly version: VersionInfo;
  /** All commands by name. */
  readonly commands: ReadonlyMap<string, Command>;
  /** What `t.ref` stands for in their declarations. */
  readonly types: ReadonlyMap<string, Decl>;
  /** Tells all clients of an event. */
  emit(this: void, name: string, data: Readonly<Record<string, unknown>>): void;
  /** Prints a line for people on the program's standard output. */
  print(this: void, line: string): void;
  /** The program shall end; resolves when everything but the monitor is closed. */
  quit(this: void): Promise<void>;
}
