/**
 * The initiator's end of a SCSI bus: one command at a time goes through its phases (SPI-3). Targets
 * never disconnect, so nothing reselects.
 *
 * Invariants
 *  N1  A command's data stand in a buffer of its own. What the disk still does after a reset or an
 *      abort ends there: it reaches no guest memory and no later command.
 *  N2  Messages and commands have named longest lengths; longer ones lose what is beyond.
 *  N3  After every BREATHER commands the next goes on in a later turn of the host's loop, so that
 *      a script that never ends leaves the host its turns.
 */
import type { Clock } from '../../host/host.js';
import type { GuestMemory } from '../../host/guest-memory.js';
import { Iov } from '../../lib/iov.js';
import { senseData, senses } from '../../wire/mmc.js';
import type { Sense } from '../../wire/mmc.js';
import type { ScsiBus, ScsiOutcome, ScsiTask } from '../bus/scsi/bus.js';
import { ScsiStatus } from '../bus/scsi/bus.js';
import { failed, noData, replyWith, tryTarget } from '../bus/scsi/target.js';

export const Phase = {
  dataOut: 0,
  dataIn: 1,
  command: 2,
  status: 3,
  messageOut: 6,
  messageIn: 7,
} as const;

const MAX_CDB = 16;
const MAX_MESSAGE = 64;
/** Longest transfer of a command; longer ones are refused. */
const MAX_DATA = 32 * 1024 * 1024;
const BREATHER = 64;
const REQUEST_SENSE = 0x03;
const Message = {
  complete: 0,
  extended: 1,
  abort: 6,
  reject: 7,
  resetTarget: 12,
  abortTag: 13,
  clearQueue: 14,
  firstTag: 0x20,
  lastTag: 0x22,
  identify: 0x80,
} as const;

/** A command on the bus. */
interface Connection {
  readonly target: number;
  lun: number;
  phase: number;
  /** The phase to which the target comes back from a message of the initiator. */
  next: number;
  /** What follows a message of the target; undefined: the bus is free. */
  after: number | undefined;
  cdb: Uint8Array;
  data: Uint8Array;
  at: number;
  status: number;
  message: number[];
  /** The disk works: the next phase is not known yet. */
  isBusy: boolean;
}

export interface InitiatorInit {
  readonly bus: ScsiBus;
  readonly memory: GuestMemory;
  readonly clock: Clock;
  /** The disk is done and the target asks for the next phase. */
  readonly ready: () => void;
  /** The target gave the command up and left the bus. */
  readonly lost: () => void;
}

/** What a transfer did. */
export interface Moved {
  readonly bytes: number;
  /** First byte that went over the bus; undefined: none did. */
  readonly first: number | undefined;
}

export class Initiator {
  readonly #init: InitiatorInit;
  #connection: Connection | undefined;
  #attention = false;
  #sinceBreath = 0;
  /** There is no automatic sense on this bus: what a unit told, by target and unit. */
  readonly #senses = new Map<string, Sense>();

  constructor(init: InitiatorInit) {
    this.#init = init;
  }

  /** Forgets everything; what is under way is not heard of again (N1). */
  reset(): void {
    this.#connection = undefined;
    this.#attention = false;
    this.#senses.clear();
  }

  get isConnected(): boolean {
    return this.#connection !== undefined;
  }

  get isBusy(): boolean {
    return this.#connection?.isBusy === true;
  }

  /** The phase that the target asks for; undefined: the bus is free. */
  get phase(): number | undefined {
    return this.#connection?.phase;
  }

  /** Room for the data of the command. */
  get dataBytes(): number {
    return this.#connection?.data.length ?? 0;
  }

  get attention(): boolean {
    return this.#attention;
  }

  /** Selects a target on a free bus. False: there is none. */
  select(target: number, attention: boolean): boolean {
    if (this.#init.bus.luns(0, target).length === 0) return false;
    this.#attention = attention;
    this.#connection = {
      target,
      lun: 0,
      phase: attention ? Phase.messageOut : Phase.command,
      next: Phase.command,
      after: undefined,
      cdb: new Uint8Array(0),
      data: new Uint8Array(0),
      at: 0,
      status: 0,
      message: [],
      isBusy: false,
    };
    return true;
  }

  /** The initiator has a message, or none any more. */
  setAttention(on: boolean): void {
    this.#attention = on;
    const connection = this.#connection;
    if (on && connection !== undefined && !connection.isBusy) this.#askMessage(connection);
  }

  #askMessage(connection: Connection): void {
    if (connection.phase === Phase.messageOut) return;
    connection.next = connection.phase;
    connection.phase = Phase.messageOut;
  }

  disconnect(): void {
    this.#connection = undefined;
    this.#attention = false;
  }

  /**
   * Moves up to `count` bytes between memory and the bus in the phase that the target asks for;
   * only while connected and not busy. A phase that moves data comes to its end where they do.
   */
  transfer(address: number, count: number): Moved {
    const connection = this.#connection;
    if (connection === undefined) return { bytes: 0, first: undefined };
    switch (connection.phase) {
      case Phase.messageOut: {
        const bytes = this.#take(address, Math.min(count, MAX_MESSAGE));
        this.#messageOut(connection, bytes);
        return { bytes: count, first: bytes[0] };
      }
      case Phase.command: {
        const bytes = this.#take(address, Math.min(count, MAX_CDB));
        this.#begin(connection, bytes);
        return { bytes: count, first: bytes[0] };
      }
      case Phase.status:
        connection.phase = Phase.messageIn;
        connection.message = [Message.complete];
        connection.after = undefined;
        return this.#give(address, Uint8Array.of(connection.status).subarray(0, count));
      case Phase.messageIn: {
        const bytes = Uint8Array.from(connection.message.splice(0, count));
        if (connection.message.length === 0) this.#messageTaken(connection);
        return this.#give(address, bytes);
      }
      default:
        return this.#data(connection, address, count);
    }
  }

  #take(address: number, bytes: number): Uint8Array {
    const out = new Uint8Array(bytes);
    this.#init.memory.read(address, out);
    return out;
  }

  #give(address: number, data: Uint8Array): Moved {
    this.#init.memory.write(address, data);
    return { bytes: data.length, first: data.at(0) };
  }

  #data(connection: Connection, address: number, count: number): Moved {
    const bytes = Math.min(count, connection.data.length - connection.at);
    const part = connection.data.subarray(connection.at, connection.at + bytes);
    if (connection.phase === Phase.dataIn) this.#init.memory.write(address, part);
    else this.#init.memory.read(address, part);
    connection.at += bytes;
    if (connection.at >= connection.data.length) {
      if (connection.phase === Phase.dataOut) this.#carryOut(connection);
      else connection.phase = Phase.status;
    }
    return { bytes, first: part.at(0) };
  }

  // --- messages

  #messageOut(connection: Connection, bytes: Uint8Array): void {
    connection.phase = connection.next;
    this.#attention = false;
    for (let at = 0; at < bytes.length;) {
      const code = bytes[at]!;
      at++;
      if (code >= Message.identify) connection.lun = code & 0x3f;
      else if (code === Message.extended) {
        // Widths and rates: the target wants none of them.
        connection.phase = Phase.messageIn;
        connection.message = [Message.reject];
        connection.after = connection.next;
        at += 1 + (bytes[at] ?? 0);
      } else if (code >= Message.firstTag && code <= Message.lastTag) at++;
      else if (code === Message.resetTarget) {
        const { bus } = this.#init;
        const { target } = connection;
        for (const lun of bus.luns(0, target)) bus.tryUnit(0, target, lun)?.reset();
        this.disconnect();
        return;
      } else if (
        code === Message.abort ||
        code === Message.abortTag ||
        code === Message.clearQueue
      ) {
        this.disconnect();
        return;
      }
    }
  }

  /** The end of a command is followed by a free bus, a refusal by what was before it. */
  #messageTaken(connection: Connection): void {
    if (connection.after === undefined) this.disconnect();
    else connection.phase = connection.after;
  }

  // --- commands

  #begin(connection: Connection, bytes: Uint8Array): void {
    const cdb = new Uint8Array(MAX_CDB);
    cdb.set(bytes);
    connection.cdb = cdb;
    const unit = tryTarget(this.#init.bus, 0, connection.target, connection.lun);
    const moves = unit?.moves(cdb);
    if (moves === undefined || moves.bytes > MAX_DATA) {
      this.#end(connection, failed(senses.invalidField));
      return;
    }
    connection.data = new Uint8Array(moves.bytes);
    if (moves.direction === 'out' && moves.bytes > 0) connection.phase = Phase.dataOut;
    else this.#carryOut(connection);
  }

  #carryOut(connection: Connection): void {
    const isOut = connection.phase === Phase.dataOut;
    const buffer = Iov.of(connection.data);
    const task: ScsiTask = {
      cdb: connection.cdb,
      out: isOut ? buffer : noData,
      in: isOut ? noData : buffer,
    };
    connection.isBusy = true;
    this.#execute(connection, task).then(
      (outcome) => {
        this.#later(connection, () => {
          connection.isBusy = false;
          this.#end(connection, outcome);
          if (this.#attention) this.#askMessage(connection);
          this.#init.ready();
        });
      },
      () => {
        this.#later(connection, () => {
          this.disconnect();
          this.#init.lost();
        });
      },
    );
  }

  /** Goes on with a command that is still the bus's (N1), now and then in a later turn (N3). */
  #later(connection: Connection, goOn: () => void): void {
    const check = (): void => {
      if (this.#connection === connection) goOn();
    };
    if (++this.#sinceBreath < BREATHER) check();
    else {
      this.#sinceBreath = 0;
      this.#init.clock.after(0, check);
    }
  }

  #execute(connection: Connection, task: ScsiTask): Promise<ScsiOutcome> {
    const key = keyOf(connection);
    const held = this.#senses.get(key);
    this.#senses.delete(key);
    if (task.cdb[0] === REQUEST_SENSE && held !== undefined) {
      return Promise.resolve(replyWith(task, senseData(held), task.cdb[4]!));
    }
    const unit = tryTarget(this.#init.bus, 0, connection.target, connection.lun);
    return unit?.execute(task) ?? Promise.resolve(failed(senses.invalidField));
  }

  /** The command has its status; what it gives goes to the initiator first. */
  #end(connection: Connection, { status, sense, bytes }: ScsiOutcome): void {
    const isIn = connection.phase !== Phase.dataOut && status === ScsiStatus.good;
    connection.status = status;
    if (sense !== undefined) this.#senses.set(keyOf(connection), sense);
    connection.data = isIn ? connection.data.subarray(0, bytes) : new Uint8Array(0);
    connection.at = 0;
    connection.phase = connection.data.length > 0 ? Phase.dataIn : Phase.status;
  }
}

function keyOf({ target, lun }: Connection): string {
  return `${target}:${lun}`;
}
