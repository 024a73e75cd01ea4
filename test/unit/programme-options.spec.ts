/** What `npm run bench`, `torture` and `simulate` are asked for, and what is said of a wrong line. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { parseCommand as bench } from '../../bench/command-line.js';
import { parseCommand as simulate } from '../simulation/command-line.js';
import { chosen, UsageError } from '../support/command-line.js';
import { parseCommand as torture } from '../torture/command-line.js';

const programmes: Record<string, (args: readonly string[]) => unknown> = {
  bench,
  torture,
  simulate,
};

function read(line: string): unknown {
  const [programme, ...args] = line.split(' ') as [string, ...string[]];
  return programmes[programme]?.(args);
}

describe('A line', () => {
  it.each([
    ['bench', { scale: 'full', rounds: 5, only: undefined, libraries: undefined }],
    ['bench --quick --only W1,W3', { scale: 'quick', rounds: 1, only: ['W1', 'W3'] }],
    ['bench --rounds 2 --json a --markdown b', { rounds: 2, json: 'a', markdown: 'b' }],
    ['torture --minutes 0.5 --seed 0', { minutes: 0.5, seed: 0, only: undefined }],
    ['torture --only a, --subjects ours', { minutes: 30, only: ['a'], subjects: ['ours'] }],
    ['torture --report a,b', { report: ['a', 'b'] }],
    ['simulate', { kind: 'run', from: 0, end: 100_000, minutes: Infinity }],
    ['simulate --from 7 --seeds 3 --workers 1', { from: 7, end: 10, workers: 1 }],
    ['simulate --minutes 1.5 --from 7', { from: 7, end: Infinity, minutes: 1.5 }],
    ['simulate --seed 4711', { kind: 'replay', seed: 4_711 }],
  ])('%s', (line, command) => {
    expect(read(line)).toMatchObject(command);
  });

  it.each([
    ['bench --rounds 0', '--rounds is "0"; it takes a whole number from 1 on.'],
    ['bench --rounds many', '--rounds is "many"; it takes a whole number from 1 on.'],
    ['bench W1', /^Unexpected argument 'W1'/],
    ['bench --only', /^Option '--only <value>' argument missing/],
    ['torture --minutes 0', '--minutes is "0"; it takes a number above 0.'],
    ['torture --minutes=', '--minutes is ""; it takes a number above 0.'],
    ['torture --seed 1.5', '--seed is "1.5"; it takes a whole number from 0 on.'],
    ['torture --seed=-1', '--seed is "-1"; it takes a whole number from 0 on.'],
    ['simulate --seeds 0', '--seeds is "0"; it takes a whole number from 1 on.'],
    ['simulate --seed=', '--seed is ""; it takes a whole number from 0 on.'],
    ['simulate --workers two', '--workers is "two"; it takes a whole number from 1 on.'],
    ['simulate --minutes Infinity', '--minutes is "Infinity"; it takes a number above 0.'],
  ])('that is wrong: %s', (line, message) => {
    const wrong = () => read(line);
    expect(wrong).toThrow(UsageError);
    expect(wrong).toThrow(message);
  });

  it('names what there is', () => {
    const all = [{ id: 'a' }, { id: 'b' }];
    const of = (names?: readonly string[]) => chosen('--only', names, all, ({ id }) => id);
    expect(of()).toEqual(all);
    expect(of(['b'])).toEqual([{ id: 'b' }]);
    expect(() => of(['a', 'c'])).toThrow(new UsageError('--only names "c"; there are a, b.'));
  });
});

describe.each(['bench/main.ts', 'test/torture/main.ts', 'test/simulation/main.ts'])(
  '%s',
  (main) => {
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const run = (...args: string[]) =>
      spawnSync(process.execPath, ['--import', './test/support/register-ts.mjs', main, ...args], {
        cwd: root,
        encoding: 'utf8',
      });

    it('tells how it is used, where that is asked', () => {
      for (const args of [['--help'], ['-h'], ['--nope', '--help']]) {
        const { status, stdout, stderr } = run(...args);
        expect([status, stderr]).toEqual([0, '']);
        expect(stdout).toMatch(/^Usage: npm run \w+ -- \[options\]\n(  --.*\n)+$/);
      }
    });

    it('names an option that there is not, and tells how it is used', () => {
      const { status, stdout, stderr } = run('--nope');
      expect([status, stdout]).toEqual([2, '']);
      expect(stderr).toMatch(/^Unknown option '--nope'\n\nUsage: npm run \w+ -- \[options\]\n  --/);
      expect(stderr).not.toMatch(/^ +at /m);
    });
  },
);
