// Goal: who gets in is what QEMU's authz objects say. Method: tables of rules and names.
import { describe, expect, it } from 'vitest';
import type { AccessRule } from './access-list.js';
import { isAllowed, matchesGlob } from './access-list.js';

const rule = (match: string, policy: 'allow' | 'deny', format: 'exact' | 'glob'): AccessRule => ({
  match,
  policy,
  format,
});

describe('isAllowed', () => {
  it('takes the first rule that fits, else the policy', () => {
    const rules = [rule('fred', 'deny', 'exact'), rule('f*', 'allow', 'glob')];
    const list = { rules, policy: 'deny' as const };
    expect(['fred', 'frank', 'bob', ''].map((name) => isAllowed(list, name))).toEqual([
      false,
      true,
      false,
      false,
    ]);
    expect(isAllowed({ rules, policy: 'allow' }, 'bob')).toBe(true);
    expect(isAllowed({ rules: [rule('f*', 'allow', 'exact')], policy: 'deny' }, 'fred')).toBe(
      false,
    );
  });
});

describe('matchesGlob', () => {
  it.each([
    ['', '', true],
    ['*', '', true],
    ['*', 'CN=a,O=b/c', true],
    ['CN=*,O=Example', 'CN=disk.example.com,O=Example', true],
    ['CN=*,O=Example', 'CN=disk.example.com,O=Example,C=GB', false],
    ['*a*b', 'xaxxbxb', true],
    ['*a*b', 'xaxxbxbc', false],
    ['?', 'é', true],
    ['?', '', false],
    ['[a-c]x', 'bx', true],
    ['[!a-c]x', 'bx', false],
    ['[^a-c]x', 'dx', true],
    ['[]]', ']', true],
    ['[a', '[a', true],
    ['[a-]', '-', true],
    ['a\\*', 'a*', true],
    ['a\\*', 'ab', false],
    ['a\\', 'a\\', true],
  ])('%j fits %j: %j', (pattern, text, fits) => {
    expect(matchesGlob(pattern, text)).toBe(fits);
  });

  it('needs no exponential time', () => {
    expect(matchesGlob('*a'.repeat(30), `${'a'.repeat(3000)}b`)).toBe(false);
  });
});
