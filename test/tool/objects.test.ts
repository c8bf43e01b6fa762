// Goal: properties of objects can be changed while they are in use, and what may not be is refused.
// Method: objects as the daemon makes them; what access lists and throttle groups then let through.
import { beforeEach, describe, expect, it } from 'vitest';
import type { ObjectProperty } from '../../src/monitor/objects.js';
import { ToolObjects } from '../../src/tool/objects.js';

describe('properties of objects', () => {
  let objects: ToolObjects;
  const property = (id: string, name: string): ObjectProperty =>
    objects.properties(id).find((each) => each.name === name)!;
  beforeEach(() => {
    objects = new ToolObjects({ iothreads: true });
  });

  it('an access list that is changed lets others in', async () => {
    await objects.add('authz-simple,id=one,identity=ann');
    const mayOne = objects.tryAuthorization('one')!;
    property('one', 'identity').set!('bob');
    expect([mayOne('ann'), mayOne('bob')]).toEqual([false, true]);

    await objects.add('authz-list,id=some,policy=deny');
    const maySome = objects.tryAuthorization('some')!;
    property('some', 'rules').set!([{ match: 'a*', policy: 'allow', format: 'glob' }]);
    expect([maySome('ann'), maySome('bob')]).toEqual([true, false]);
    expect(() => {
      property('some', 'rules').set!([{ match: 'b*', policy: 'maybe' }]);
    }).toThrow("does not accept value 'maybe'");
    expect([maySome('ann'), maySome('bob')]).toEqual([true, false]);
    property('some', 'policy').set!('allow');
    expect(maySome('bob')).toBe(true);
  });

  it('limits are changed all together or not at all', async () => {
    await objects.add('throttle-group,id=g,x-iops-total=10');
    const limits = property('g', 'limits');
    limits.set!({ 'bps-total': 100 });
    expect(limits.get!()).toMatchObject({ 'iops-total': 10, 'bps-total': 100 });
    expect(() => {
      limits.set!({ 'iops-total': 20, 'bps-total': -1 });
    }).toThrow('must be within');
    expect(limits.get!()).toMatchObject({ 'iops-total': 10, 'bps-total': 100 });
    expect(() => {
      property('g', 'x-iops-total').set!(3);
    }).toThrow('Property cannot be set after initialization');
  });

  it('numbers of a loop stay in their bounds', async () => {
    await objects.add('iothread,id=loop,poll-max-ns=5');
    expect(property('loop', 'poll-max-ns').get!()).toBe(5);
    expect(property('loop', 'thread-pool-max').get!()).toBe(64);
    for (const bad of [-1, 0, 2 ** 31]) {
      expect(() => {
        property('loop', 'thread-pool-max').set!(bad);
      }).toThrow(/must be in range|bad thread-pool-min/);
    }
    expect(property('loop', 'thread-pool-max').get!()).toBe(64);
    await expect(objects.add('iothread,id=bad,thread-pool-min=65')).rejects.toThrow(
      'bad thread-pool-min/thread-pool-max values',
    );
    expect(objects.list()).toEqual([['loop', 'iothread']]);
    await objects.add('main-loop,id=main');
    await expect(objects.add('main-loop,id=more')).rejects.toThrow(
      'only one main-loop instance allowed',
    );
  });

  it('a secret is neither told nor changed, and nothing is left of a removed object', async () => {
    await objects.add('secret,id=s,data=abc');
    expect(property('s', 'data').get).toBeUndefined();
    expect(objects.properties('s').some((each) => each.set !== undefined)).toBe(false);
    objects.remove('s');
    expect(objects.properties('s')).toEqual([]);
  });
});
