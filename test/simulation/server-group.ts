/**
 * The servers of a simulation: one, or the independent nodes of a quorum. What a majority of them has of a lock, is so.
 */
import { majorityOf } from '../../lib/core/backend/inquiry.js';
import type { LockName } from '../../lib/core/lock-name.js';
import type { Servers } from './history.js';
import type { SimulatedServer } from './simulated-server.js';

export class ServerGroup implements Servers {
  readonly majority: number;

  constructor(readonly servers: readonly SimulatedServer[]) {
    this.majority = majorityOf(servers.length);
  }

  get isQuorum(): boolean {
    return this.servers.length > 1;
  }

  holding(name: LockName, token: string): readonly number[] {
    return this.servers.flatMap((server, index) => (server.holds(name, token) ? [index] : []));
  }

  /** True time at which a majority may give a key to another, where one holds it for the token. */
  endOf(name: LockName, token: string): number | undefined {
    const ends = this.servers.flatMap((server) => {
      // One that has lost its data is away for longer than every lease that it had.
      const isAway = this.isQuorum && server.isEmptied && server.holds(name, token);
      const end = isAway ? server.upAt : server.endOf(name, token);
      return end === undefined ? [] : [end];
    });
    return ends.toSorted((a, b) => b - a)[this.majority - 1];
  }
}
