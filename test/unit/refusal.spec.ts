import { describe, expect, it } from '@jest/globals';
import { hasNotRun, isDemoted } from '../../lib/core/redis/refusal.js';

const said = (message: string) => Object.assign(new Error(message), { name: 'ReplyError' });

describe('An error reply of Redis', () => {
  const script = 'ERR Error running script (call to f_0123): @user_script:12: ';
  it.each([
    ["READONLY You can't write against a read only replica.", true],
    [`${script}@user_script: 12: -READONLY You can't write against a read only replica.`, true],
    ['LOADING Redis is loading the dataset in memory', true],
    ["MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true],
    ['BUSY Redis is busy running a script.', false],
    [
      'OOM command not allowed when used memory > maxmemory. script: 0123, on @user_script:5.',
      false,
    ],
    ['MISCONF Redis is configured to save RDB snapshots', false],
    [`${script}-MISCONF Errors writing to the AOF file: No space left on device`, false],
    ['NOREPLICAS Not enough good replicas to write.', false],
    ['CLUSTERDOWN The cluster is down', false],
    ['TRYAGAIN Multiple keys request during rehashing of slot', false],
    ['NOAUTH Authentication required.', false],
  ])('%s: nothing was run', (message, demoted) => {
    expect(hasNotRun(said(message))).toBe(true);
    expect(isDemoted(said(message))).toBe(demoted);
  });

  it.each([
    'WRONGTYPE Operation against a key holding the wrong kind of value',
    'NOPERM this user has no permissions to run the command',
    `${script}attempt to index a nil value`,
    'ERR the word READONLY in the middle',
  ])('%s: it may have run in part, by who may still be master', (message) => {
    expect(hasNotRun(said(message))).toBe(false);
    expect(isDemoted(said(message))).toBe(false);
  });

  it('is none where nothing was said', () => {
    for (const error of [undefined, null, new Error('Command timed out'), {}]) {
      expect(hasNotRun(error)).toBe(false);
      expect(isDemoted(error)).toBe(false);
    }
  });
});
