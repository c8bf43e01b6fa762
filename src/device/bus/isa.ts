/** The ISA bus: a name under which devices at fixed ports stand. */
import type { Bus } from './device.js';

export class IsaBus implements Bus {
  readonly kind = 'ISA';
  readonly refusesHotplug = true;
  readonly name: string;
  readonly isFull = false;

  constructor(name: string) {
    this.name = name;
  }
}
