import type { ForcedBy } from '../errors.js';
import type { WakeMessage } from '../wake-up.js';

/**
 * What the scripts publish: `<token>`, `<token> <ms>`, `+<owner key>`, or `!<token> <of which key and by whom, as JSON>`;
 * anything else isn't ours, and is ignored: anybody may publish on a channel. `keyPrefix`: what stands before the keys in it.
 */
export function readWakeMessage(message: string, keyPrefix: string): WakeMessage | undefined {
  if (message.startsWith('+')) {
    return { kind: 'othersWait', owner: message.slice(1 + keyPrefix.length) };
  }
  if (message.startsWith('!')) return readForced(message.slice(1), keyPrefix);
  const [, token, within = '0'] = /^(\S+)(?: (\d+))?$/.exec(message) ?? [];
  return token === undefined ? undefined : { kind: 'woken', token, within: Number(within) };
}

function readForced(message: string, keyPrefix: string): WakeMessage | undefined {
  const space = message.indexOf(' ');
  if (space < 1) return undefined;
  try {
    const told = JSON.parse(message.slice(space + 1)) as Partial<
      Record<keyof ForcedBy | 'owner', unknown>
    >;
    const { owner, host, pid, application, reason } = told;
    if (typeof owner !== 'string' || typeof host !== 'string' || typeof pid !== 'number') {
      return undefined;
    }
    if (!isTextOrNone(application) || !isTextOrNone(reason)) return undefined;
    return {
      kind: 'forced',
      token: message.slice(0, space),
      owner: owner.slice(keyPrefix.length),
      by: { host, pid, application, reason },
    };
  } catch {
    // Not JSON, or null.
    return undefined;
  }
}

function isTextOrNone(value: unknown): value is string | undefined {
  return value === undefined || typeof value === 'string';
}
