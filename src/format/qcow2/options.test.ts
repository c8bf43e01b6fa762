// Goal: a reopen joins new options with old ones as QEMU does. Method: pairs of options.
import { describe, expect, it } from 'vitest';
import { joinSettings } from './options.js';

describe('joinSettings', () => {
  it.each([
    ['keeps what is not named', { 'lazy-refcounts': 'on' }, { 'cache-size': '1M' }],
    ['replaces', { 'cache-size': '1M' }, { 'cache-size': '2M' }],
  ])('%s', (_, old, given) => {
    expect(joinSettings(old, given)).toEqual({ ...old, ...given });
  });

  it('a new template of overlap checks drops the old ones, a single check does not', () => {
    const old = { 'overlap-check': { template: 'all', 'active-l1': 'off' } };
    expect(joinSettings(old, { 'overlap-check': 'none' })).toEqual({ 'overlap-check': 'none' });
    const template = { 'overlap-check': { template: 'none' } };
    expect(joinSettings(old, template)).toEqual(template);
    expect(joinSettings(old, { 'overlap-check': { 'active-l2': 'on' } })).toEqual({
      'overlap-check': { template: 'all', 'active-l1': 'off', 'active-l2': 'on' },
    });
  });

  it('a total size of the caches and its two parts never stay together by age', () => {
    const parts = { 'l2-cache-size': '1M', 'refcount-cache-size': '1M' };
    expect(joinSettings(parts, { 'cache-size': '4M' })).toEqual({ 'cache-size': '4M' });
    const old = { 'cache-size': '4M', 'l2-cache-size': '1M' };
    expect(joinSettings(old, { 'refcount-cache-size': '1M' })).toEqual(parts);
    const all = { ...parts, 'cache-size': '4M' };
    expect(joinSettings({}, all)).toEqual(all); // Refused later, as the user's own contradiction.
  });
});
