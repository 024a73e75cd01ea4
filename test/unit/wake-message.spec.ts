import { describe, expect, it } from '@jest/globals';
import { readWakeMessage } from '../../lib/core/redis/wake-message.js';

const by = { host: 'h', pid: 1, application: 'shop', reason: 'stuck' };
const told = { ...by, owner: 'shop:lock:{k}' };

describe('A wake message', () => {
  it.each([
    ['t', { kind: 'woken', token: 't', within: 0 }],
    ['t 250', { kind: 'woken', token: 't', within: 250 }],
    ['+shop:lock:{k}', { kind: 'othersWait', owner: 'lock:{k}' }],
    [`!t ${JSON.stringify(told)}`, { kind: 'forced', token: 't', owner: 'lock:{k}', by }],
    [
      `!t ${JSON.stringify({ ...told, application: undefined, reason: undefined })}`,
      {
        ...{ kind: 'forced', token: 't', owner: 'lock:{k}' },
        by: { ...by, application: undefined, reason: undefined },
      },
    ],
  ])('is read: %s', (message, expected) => {
    expect(readWakeMessage(message, 'shop:')).toEqual(expected);
  });

  const forced = (what: object) => `!t ${JSON.stringify({ ...told, ...what })}`;

  it.each([
    '',
    ' ',
    't soon',
    't -1',
    't 1 2',
    'a text of many words',
    '!',
    '!t',
    '! {}',
    '!t {"owner":',
    '!t null',
    '!t "text"',
    '!t {}',
    forced({ owner: ['lock:{k}'] }),
    forced({ host: null }),
    forced({ pid: '1' }),
    // Whose text an error tells: it would be thrown at the holder's process.
    forced({ application: null }),
    forced({ reason: { toJSON: 1 } }),
  ])('that is not ours is ignored: %j', (message) => {
    expect(readWakeMessage(message, 'shop:')).toBeUndefined();
  });
});
