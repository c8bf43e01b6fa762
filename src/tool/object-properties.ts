/** Properties of objects as `qom-list`, `qom-get` and `qom-set` show them. */
import { BlockError } from '../block/errors.js';
import { objectKinds } from '../block/object-options.js';
import type { ThrottleConfig, ThrottleGroup } from '../block/throttle-group.js';
import { throttleConfig, throttleLimits } from '../block/throttle-group.js';
import type { ObjectProperty } from '../monitor/objects.js';
import type { Decl } from '../options/schema.js';
import { fieldsOf, parseValue, t } from '../options/schema.js';

/** The type's name in the tree of objects. */
function qomType({ shape }: Decl): string {
  switch (shape.kind) {
    case 'str':
      return 'string';
    case 'array':
      return qomType(shape.of);
    case 'enum':
      return shape.name ?? 'string';
    case 'struct':
      return shape.name;
    default:
      return shape.kind;
  }
}

/** A value for one property, checked. Throws OptionError that names the property. */
function checked(name: string, field: Decl, value: unknown): Record<string, unknown> {
  return parseValue(t.struct('property', { [name]: field }), { [name]: value }, { from: 'qmp' });
}

/**
 * Properties of an object that was made of `values`, which `decl` describes. A secret text is not
 * told. With `check` they can be changed: it gets all values as they would be and throws where
 * they may not be so; then `values` holds the new one.
 */
export function propertiesOf(
  decl: Decl,
  values: Record<string, unknown>,
  check?: (changed: Readonly<Record<string, unknown>>) => void,
): ObjectProperty[] {
  return Object.entries(fieldsOf(decl)).map(([name, field]) => ({
    name,
    type: qomType(field),
    ...(field.meta.secret === true
      ? {}
      : { get: () => values[name] ?? field.meta.default ?? (field.shape.kind === 'str' ? '' : 0) }),
    ...(check === undefined
      ? {}
      : {
          set: (value: unknown) => {
            const changed = { ...values, ...checked(name, field, value) };
            check(changed);
            values[name] = changed[name];
          },
        }),
  }));
}

const INT_MAX = 2 ** 31 - 1;

/** Checks the numbers of an `iothread` or `main-loop`. Throws BlockError. */
export function checkLoop(values: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(values)) {
    if (typeof value === 'number' && value < 0) {
      const text = `${name} value must be in range [0, 9223372036854775807]`;
      throw new BlockError('EINVAL', text);
    }
  }
  const { 'thread-pool-min': min = 0, 'thread-pool-max': max = 64 } = values;
  if (Number(min) > Number(max) || Number(max) === 0 || Number(max) > INT_MAX) {
    throw new BlockError('EINVAL', 'bad thread-pool-min/thread-pool-max values');
  }
}

/** All limits of a configuration, as QMP's ThrottleLimits. */
function limitsOf({ buckets, opSize }: ThrottleConfig): Record<string, number> {
  const limits: Record<string, number> = { 'iops-size': opSize };
  for (const [name, { average, max, maxLength }] of Object.entries(buckets)) {
    limits[name] = average;
    limits[`${name}-max`] = max;
    limits[`${name}-max-length`] = maxLength;
  }
  return limits;
}

/** Properties of a throttle group: all limits at once, which can be changed, and each. */
export function throttleGroupProperties(group: ThrottleGroup): ObjectProperty[] {
  const set = (value: unknown): void => {
    const given = checked('limits', throttleLimits, value)['limits'];
    group.config = throttleConfig({ ...limitsOf(group.config), ...(given as object) });
  };
  const each = Object.entries(fieldsOf(objectKinds['throttle-group']))
    .filter(([name]) => name !== 'limits')
    .map(([name, field]) => ({
      name,
      type: qomType(field),
      get: () => limitsOf(group.config)[name.slice('x-'.length)],
      set: () => {
        throw new BlockError('EPERM', 'Property cannot be set after initialization');
      },
    }));
  const limits = { name: 'limits', type: qomType(throttleLimits), set };
  return [{ ...limits, get: () => limitsOf(group.config) }, ...each];
}
