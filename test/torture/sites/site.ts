/** The servers of a run, and the ways to them. Each topology has its own, with what can be done to it. */
import { Redis } from 'ioredis';
import { eventually } from '../../support/eventually.js';
import { keysInUse } from '../../support/lock-keys.js';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import type { Where } from '../where.js';

export interface Site extends AsyncDisposable {
  readonly topology: Where['kind'];
  /** Where the process at a place in the crew finds it. */
  whereOf(place: number): Where;
  /** Ends whatever a fault has left behind, so that all can finish. */
  heal(): Promise<void>;
  /** The keys that are still in use after so long, in ms. */
  remains(within: number): Promise<string[]>;
}

/** Lets everything through again. */
export function heal(proxy: TcpProxy): void {
  proxy.onRequest = () => 'pass';
  proxy.onReply = () => 'pass';
  proxy.deliverReplies();
  proxy.delay(0);
  proxy.accept();
  proxy.resume();
}

/** The keys that are still in use on any of the servers after so long. `now`: their clock. */
export async function remainsOf(
  urls: readonly string[],
  within: number,
  now = Date.now,
): Promise<string[]> {
  const clients = urls.map((url) => new Redis(url));
  let last: string[] = [];
  try {
    await eventually(
      async () => {
        last = (await Promise.all(clients.map((client) => keysInUse(client, now)))).flat();
        return last.length === 0;
      },
      { timeout: within, interval: 50 },
    );
    return [];
  } catch {
    return last;
  } finally {
    for (const client of clients) client.disconnect();
  }
}
