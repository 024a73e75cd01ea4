import { swcOptions } from './test/support/swc-options.mjs';

/**
 * Jest in ESM mode: needs NODE_OPTIONS=--experimental-vm-modules, which `npm test` sets.
 *
 * @type {import('jest').Config}
 */
export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/test', '<rootDir>/sample-app'],
  testMatch: ['<rootDir>/test/**/*.spec.ts', '<rootDir>/sample-app/test/**/*.e2e-spec.ts'],
  modulePathIgnorePatterns: ['<rootDir>/dist/', '<rootDir>/sample-app/dist/', '<rootDir>/.cache/'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', swcOptions] },
  resolver: '<rootDir>/test/support/jest-resolver.cjs',
  setupFilesAfterEnv: ['<rootDir>/test/support/second-try.mjs'],
  moduleNameMapper: { '^nestjs-redis-lock$': '<rootDir>/lib/index.ts' },
  injectGlobals: false,
  // Each spec runs its own redis-server and often several processes: more workers only measure the scheduler.
  maxWorkers: 2,
  testTimeout: 30_000,
  passWithNoTests: false,
  reporters: process.env.GITHUB_ACTIONS
    ? [['github-actions', { silent: false }], 'summary']
    : ['default'],
};
