/** Whoever executes a guest's instructions, as a machine sees it. */
import type { GuestMemory } from '../host/guest-memory.js';
import type { Machine } from './machine.js';

/** Guest RAM with its extent. */
export interface MachineRam extends GuestMemory {
  /** All of it. */
  readonly bytes: number;
  /** Length of the part below 4 GiB. */
  readonly lowBytes: number;
}

/**
 * A processor with what belongs to it: memory, interrupt controllers, timers. It is connected to
 * one machine, runs when the machine says so, and asks the machine for what a reset means.
 */
export interface Processor {
  readonly ram: MachineRam;
  /** From now on it serves this machine; once, before it runs. */
  connect(machine: Machine): void;
  /** Goes on. */
  run(): void;
  /** Stands still, at the latest when the present slice of a millisecond is over. */
  stop(): void;
  /** As after power-on, with firmware at its first instruction. */
  reset(): void;
  /** A message-signalled interrupt: a write of `data` at `address`. */
  sendMessage(address: number, data: number): void;
  /** Ends; resolves when no instruction will be executed any more. */
  close(): Promise<void>;
}
