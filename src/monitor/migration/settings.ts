/** Capabilities and parameters of migration: what may be set, and what it is. */
import type { Infer } from '../../options/schema.js';
import { QmpError } from '../qmp-error.js';
import type { CapabilityName, migrationParameters } from '../types/migration.js';
import { capabilityNames } from '../types/migration.js';

/** What is not listed cannot be switched on. */
const supported: ReadonlySet<CapabilityName> = new Set<CapabilityName>([
  'events',
  'dirty-bitmaps',
  'late-block-activate',
  'pause-before-switchover',
  'return-path',
  'validate-uuid',
]);

export type Parameters = Infer<typeof migrationParameters>;

export class MigrationSettings {
  readonly #on = new Set<CapabilityName>();
  #parameters: Parameters = { 'max-bandwidth': 0 };

  has(name: CapabilityName): boolean {
    return this.#on.has(name);
  }

  /** All capabilities, in QMP's order. */
  capabilities(): { capability: CapabilityName; state: boolean }[] {
    return capabilityNames.map((capability) => ({ capability, state: this.has(capability) }));
  }

  /** Switches capabilities: all, or none when it throws QmpError. */
  switch(list: readonly { readonly capability: CapabilityName; readonly state: boolean }[]): void {
    for (const { capability, state } of list) {
      if (state && !supported.has(capability)) {
        throw new QmpError(`Capability '${capability}' is not supported`);
      }
    }
    for (const { capability, state } of list) {
      if (state) this.#on.add(capability);
      else this.#on.delete(capability);
    }
  }

  get parameters(): Parameters {
    return this.#parameters;
  }

  /** Sets the parameters that are given. Throws QmpError; then nothing has changed. */
  set(given: Parameters): void {
    const mapping = given['block-bitmap-mapping'];
    if (mapping !== undefined) checkMapping(mapping);
    this.#parameters = { ...this.#parameters, ...given };
  }
}

type Mapping = NonNullable<Parameters['block-bitmap-mapping']>;

/** Longest alias of a node or bitmap, in bytes. */
const MAX_ALIAS = 255;
const MAX_NODE_NAME = 31;
const MAX_BITMAP_NAME = 1023;

function invalid(text: string): QmpError {
  return new QmpError(`Invalid mapping given for block-bitmap-mapping: ${text}`);
}

function checkLength(what: string, name: string, most: number): void {
  if (new TextEncoder().encode(name).length <= most) return;
  throw invalid(`The ${what} '${name}' is longer than ${String(most)} bytes`);
}

/** Every name and every alias is there once. Throws QmpError. */
function checkMapping(mapping: Mapping): void {
  const names = new Set<string>();
  const aliases = new Set<string>();
  for (const { 'node-name': name, alias, bitmaps } of mapping) {
    checkLength('node alias', alias, MAX_ALIAS);
    if (!/^[A-Za-z][A-Za-z0-9\-._]*$/.test(alias)) {
      throw invalid(`The node alias '${alias}' is not well-formed`);
    }
    checkLength('node name', name, MAX_NODE_NAME);
    if (names.has(name)) throw invalid(`The node name '${name}' is mapped twice`);
    if (aliases.has(alias)) throw invalid(`The node alias '${alias}' is used twice`);
    names.add(name);
    aliases.add(alias);
    checkBitmaps(name, alias, bitmaps);
  }
}

function checkBitmaps(node: string, nodeAlias: string, bitmaps: Mapping[number]['bitmaps']): void {
  const names = new Set<string>();
  const aliases = new Set<string>();
  for (const { name, alias } of bitmaps) {
    checkLength('bitmap alias', alias, MAX_ALIAS);
    checkLength('bitmap name', name, MAX_BITMAP_NAME);
    if (names.has(name)) throw invalid(`The bitmap '${node}'/'${name}' is mapped twice`);
    if (aliases.has(alias)) {
      throw invalid(`The bitmap alias '${nodeAlias}'/'${alias}' is used twice`);
    }
    names.add(name);
    aliases.add(alias);
  }
}
