import { readFileSync } from 'node:fs';
import js from '@eslint/js';
import tseslint from 'typescript-eslint';

const exceptions = JSON.parse(
  readFileSync(new URL('tools/tidy-exceptions.json', import.meta.url), 'utf8'),
);
const longFunctions = exceptions.filter((e) => e.rule === 'function-length').map((e) => e.file);

const functionLength = ['error', { max: 69, skipBlankLines: false, skipComments: false }];

export default tseslint.config(
  {
    ignores: [
      'dist/',
      'docs/api/',
      'node_modules/',
      'native/',
      'coverage/',
      '.cache/',
      '**/*.d.ts',
    ],
  },
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  {
    languageOptions: {
      parserOptions: { project: './tsconfig.json', tsconfigRootDir: import.meta.dirname },
    },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      // What the asynchronous data path lives on.
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/no-misused-promises': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': ['error', { disallowTypeAnnotations: false }],
      '@typescript-eslint/ban-ts-comment': [
        'error',
        { 'ts-expect-error': 'allow-with-description', minimumDescriptionLength: 10 },
      ],
      'no-restricted-syntax': [
        'error',
        {
          selector: 'TSAsExpression > TSAsExpression[typeAnnotation.type="TSUnknownKeyword"]',
          message: 'a cast through unknown hides a wrong type: narrow or parse it instead',
        },
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', ignoreRestSiblings: true },
      ],
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      eqeqeq: 'error',
      'no-var': 'error',
      'prefer-const': 'error',
      'max-lines-per-function': functionLength,
      // A driver method is async by contract even where it has nothing to wait for, and returns
      // its child's promise as it is: awaiting in each layer costs 400 ns a request.
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/return-await': 'off',
      // Index reads of typed arrays are `number | undefined` to the compiler; `!` costs nothing
      // at run time where a check in a hot loop does.
      '@typescript-eslint/no-non-null-assertion': 'off',
      // Codecs write `while (true)` loops that end by return.
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: true },
      ],
      // `void | Promise<void>` is the result of a callback that may wait.
      '@typescript-eslint/no-invalid-void-type': 'off',
      // Typed option declarations carry their type in a parameter that appears once, and infer
      // object types that may have no field.
      '@typescript-eslint/no-unnecessary-type-parameters': 'off',
      '@typescript-eslint/no-generated-empty-object-type': 'off',
      // `() => void call()` in callbacks is how a result is dropped on purpose.
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/no-meaningless-void-operator': 'off',
    },
  },
  {
    files: ['test/**', 'src/**/*.test.ts', 'bench/**'],
    rules: {
      'max-lines-per-function': 'off',
      '@typescript-eslint/no-unnecessary-condition': 'off',
    },
  },
  ...(longFunctions.length > 0
    ? [{ files: longFunctions, rules: { 'max-lines-per-function': 'off' } }]
    : []),
  {
    files: ['**/*.js', '**/*.mjs', '**/*.cjs', 'bin/*'],
    ...tseslint.configs.disableTypeChecked,
    languageOptions: {
      parserOptions: { project: false, program: null },
      globals: Object.fromEntries(
        ['process', 'console', 'Buffer', 'URL', 'setTimeout', 'clearTimeout', 'performance']
          .concat(['require', 'module', '__dirname', 'fetch', 'TextDecoder', 'TextEncoder'])
          .concat(['AbortController', 'setInterval', 'clearInterval'])
          .map((name) => [name, 'readonly']),
      ),
    },
  },
  {
    files: ['**/*.cjs', 'bin/*'],
    languageOptions: { sourceType: 'commonjs' },
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
);
