import type { ForcedBy } from '../errors.js';
import type { WakeMessage } from '../wake-up.js';

/**
 * What the scripts publish: `<token>`, `<token> <ms>`, `+<owner key>`, or `!<token> <of which key and by whom, as JSON>`;
 * anything else isn't ours. `keyPrefix`: what stands before the keys in it.
 */
export function readWakeMessage(message: string, keyPrefix: string): WakeMessage | undefined {
  if (message.startsWith('+')) {
    return { kind: 'othersWait', owner: message.slice(1 + keyPrefix.length) };
  }
  if (message.startsWith('!')) return readForced(message.slice(1), keyPrefix);
  const [token, within = '0'] = message.split(' ');
  return token ? { kind: 'woken', token, within: Number(within) } : undefined;
}

function readForced(message: string, keyPrefix: string): WakeMessage | undefined {
  const space = message.indexOf(' ');
  if (space < 1) return undefined;
  try {
    const told = JSON.parse(message.slice(space + 1)) as ForcedBy & { owner: string };
    const { host, pid, application, reason } = told;
    return {
      kind: 'forced',
      token: message.slice(0, space),
      owner: told.owner.slice(keyPrefix.length),
      by: { host, pid, application, reason },
    };
  } catch {
    return undefined;
  }
}
