/** Lines by which commands find their server, one of a Cluster or behind Sentinels, and are confirmed, guarded and answered. */
import {
  clock,
  cluster,
  clusterSafety,
  clusterWakeUp,
  failover,
  guard,
  network,
  processes,
  refusal,
  replicas,
  scripts,
  serverErrors,
  servers,
  wakeUp,
} from './tests.mjs';

const redis = (name) => `lib/core/redis/${name}.ts`;
const BACKEND = 'lib/core/backend/redis-backend.ts';

export const inServers = [
  // Deadlines in server time
  {
    name: 'P1 the deadline is told to the server no later than it is',
    file: redis('server-clock'),
    find: 'return localTime + this.#low - sinceObserved * DRIFT;',
    replace: 'return localTime + this.#high + sinceObserved * DRIFT;',
    test: clock('ServerClock is never late, and early by no more'),
  },
  {
    name: 'P1 a clock that was heard long ago may have drifted',
    file: redis('server-clock'),
    find: 'return localTime + this.#low - sinceObserved * DRIFT;',
    replace: 'return localTime + this.#low;',
    test: clock('ServerClock is never late when a clock drifts'),
  },
  {
    name: "P4 a server's clock that was set is believed again",
    file: redis('server-clock'),
    find: 'const fits = this.#observedAt !== undefined && narrowedLow <= narrowedHigh;',
    replace: 'const fits = this.#observedAt !== undefined;',
    test: clock('ServerClock sees with the next reply that the clock was set'),
  },
  {
    name: 'P1 another server has another clock',
    file: BACKEND,
    find: 'const forget = () => this.#serverClock.forget();',
    replace: 'const forget = () => {};',
    test: scripts('connections ask for the time anew where they are new'),
  },
  {
    name: 'P1 another node of a Cluster has another clock',
    file: redis('connection'),
    find: 'const itsArgs = script.timed(args, call.dueAt, node.clock);',
    replace: 'const itsArgs = args;',
    test: cluster('A deadline is told each node in its own time'),
  },
  {
    name: 'P1 another server at the address of a node has another clock',
    file: redis('cluster-nodes'),
    find: 'node.clock.forget();',
    test: cluster('A deadline is told a node in the time of the server that is there now'),
  },

  // Commands
  {
    name: 'P1 no command is sent twice by the client',
    file: redis('connection'),
    find: `autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,`,
    replace: `autoResendUnfulfilledCommands: true,
    maxRetriesPerRequest: 20,`,
    test: network('cut after the command ran and before its reply acquire: the call fails in time'),
  },
  {
    name: 'P4 a command that is not answered ends in time',
    file: redis('connection'),
    find: 'this.#calls.add(call);',
    replace: 'call.heapIndex = 0;',
    test: servers('Redis is frozen mid-extend: the call ends in time'),
  },
  {
    name: 'P4 a link that has gone silent is given up',
    file: redis('connection'),
    find: '      this.#drop(node);',
    test: network('a connection that has gone silent for good is given up for a new one'),
  },
  {
    name: 'P4 a blocked event loop drops no link',
    file: redis('connection'),
    find: 'silent && !blocked && mayHaveRun',
    replace: 'silent && mayHaveRun',
    test: processes('for longer than the command timeout, with commands under way'),
  },
  {
    name: 'P5 a refusal may come after a part of the script has run',
    file: redis('refusal'),
    find: 'return NOT_RUN.has(codeOf(error));',
    replace: 'return true;',
    test: refusal('it may have run in part, by who may still be master'),
  },
  {
    name: 'P5 what a refusal leaves in doubt is undone',
    file: redis('connection'),
    find: 'mayHaveRun: mayHaveRun && !hasNotRun(error),',
    replace: 'mayHaveRun: false,',
    test: scripts('scripts that were refused half-way are undone when they can be'),
  },
  {
    name: 'failover: a server that is no master any more is left',
    file: redis('refusal'),
    find: 'return DEMOTED.has(codeOf(error));',
    replace: 'return error === undefined;',
    test: serverErrors('READONLY: where its name leads to the new master'),
  },
  {
    name: 'failover: by all connections',
    file: redis('connection'),
    find: 'if (demoted) onDemoted();',
    test: serverErrors('READONLY: where its name leads to the new master'),
  },

  // Sentinels
  {
    name: 'failover: a server that was voted out is left',
    file: redis('failover-watch'),
    find: 'if (!this.#isAtMaster(client)) leave(client);',
    test: failover('leaves a server that is no master any more'),
  },
  {
    name: 'failover: also by who was on its way there',
    file: redis('failover-watch'),
    find: 'this.#unsure.add(client);',
    test: failover('that was on its way to the old one leaves it once it is there'),
  },
  {
    name: 'failover: at once by who sits out a pause',
    file: redis('failover-watch'),
    find: `if (client.status === 'reconnecting') endPause(client);`,
    test: failover('goes at once where it sits out a pause'),
  },
  {
    name: 'failover: whatever other masters do',
    file: redis('failover-watch'),
    find: 'if (name !== this.#name) return;',
    test: failover('stays where the master is'),
  },
  {
    name: 'failover: also from a Sentinel that was away',
    file: redis('failover-watch'),
    find: 'retryStrategy: (times) => Math.min(100 * times, LONGEST_RECONNECT_DELAY),',
    replace: 'retryStrategy: () => null,',
    test: failover('hears a Sentinel that was away'),
  },

  // A Cluster
  {
    name: 'cluster: a slot that has moved is followed',
    file: redis('cluster-nodes'),
    find: 'next = this.#redirectedTo(refusal.address, last);',
    replace: 'next = last;',
    test: cluster('While its slot moves, a lock is found where it has gone to'),
  },
  {
    name: 'cluster: a key that is on its way is asked for where it goes',
    file: redis('cluster-nodes'),
    find: `const asking = refusal?.kind === 'ask';`,
    replace: 'const asking = false;',
    test: cluster('While its slot moves, a lock is prolonged all the time'),
  },
  {
    name: 'cluster: what is half-way is tried again',
    file: redis('cluster-nodes'),
    find: '(TRYAGAIN|CLUSTERDOWN',
    replace: '(CLUSTERDOWN',
    test: cluster('While its slot moves, a lock is prolonged all the time'),
  },
  {
    name: 'cluster: a node that is gone is asked for once more',
    file: redis('cluster-nodes'),
    find: 'if (next === undefined && asksAgain) {',
    replace: 'if (next === undefined && last === next && !asksAgain) {',
    test: serverErrors('in which a replica takes over, which never saw the scripts'),
  },
  {
    name: 'cluster: what nobody waits for any more is not sent again',
    file: redis('cluster-nodes'),
    find: 'if (errand.isOver) throw error ?? new UnreachableNode();',
    test: cluster('is given back by no release whose time was up while the move went on'),
  },
  {
    name: 'cluster: a grant is confirmed by the replicas of the very node',
    file: redis('confirmed-cluster'),
    find: 'const connection = this.#connectionTo(node);',
    replace: 'const connection = this.#nodes.values().next().value ?? this.#connectionTo(node);',
    test: clusterSafety('replicas only the replicas of that master count'),
  },
  {
    name: 'P4 a grant that is confirmed ends in time, however long its node is looked for',
    file: redis('confirmed-cluster'),
    find: 'await Promise.race([sent, timeUp]);',
    replace: 'await sent;',
    test: clusterSafety('a call ends in time where the master is frozen, and was not reached'),
  },

  // Replicas
  {
    name: 'replicas: too few is no confirmation',
    file: redis('confirmed-connection'),
    find: 'if (confirmed >= wanted && onOwnDisk >= 1) return undefined;',
    replace: 'return undefined;',
    test: replicas('a grant alone is confirmed, or undone and refused'),
  },
  {
    name: 'replicas: nor is no answer',
    file: redis('confirmed-connection'),
    find: `if (outcome.reason !== 'refused') return outcome;`,
    replace: `if (outcome.reason !== 'refused') return undefined;`,
    test: replicas('a grant is none where the connection is cut before it is confirmed'),
  },
  {
    name: 'replicas: what too few confirmed is undone',
    file: redis('confirmed-connection'),
    find: `reason: 'replicas', cause, mayHaveRun: true, facts };`,
    replace: `reason: 'replicas', cause, mayHaveRun: false, facts };`,
    test: replicas('a grant alone is confirmed, or undone and refused'),
  },
  {
    name: 'replicas: a grant waits for the confirmation',
    file: BACKEND,
    find: `return ifConfirmed({ kind: 'granted', fencingToken, sentAt, othersWait: false }, confirmed);
    }
    this`,
    replace: `return { kind: 'granted', fencingToken, sentAt, othersWait: false };
    }
    this`,
    test: replicas('a grant alone is confirmed, or undone and refused'),
  },
  {
    name: 'replicas: a grant for which others wait does as well',
    file: BACKEND,
    find: `          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: reply[3] === 1 },
          confirmed,`,
    replace: `          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: reply[3] === 1 },
          undefined,`,
    test: replicas('a grant shared is confirmed, or undone and refused'),
  },
  {
    name: 'replicas: a grant of several keys does as well',
    file: BACKEND,
    find: `          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: false },
          confirmed,`,
    replace: `          { kind: 'granted', fencingToken: Number(reply[2]), sentAt, othersWait: false },
          undefined,`,
    test: replicas('a grant of several keys is confirmed, or undone and refused'),
  },
  {
    name: 'replicas: a renewal is confirmed as well',
    file: BACKEND,
    find: `await ifConfirmed<ExtendOutcome>({ kind: 'extended', sentAt }, confirmed)`,
    replace: `await ifConfirmed<ExtendOutcome>({ kind: 'extended', sentAt }, undefined)`,
    test: replicas('a renewal counts only where it is confirmed'),
  },
  {
    name: 'replicas: the waiting for the confirmation is no part of the lease',
    file: BACKEND,
    find: 'confirmed.then((failure) => failure ?? outcome)',
    replace: 'confirmed.then((failure) => failure ?? { ...outcome, sentAt: performance.now() })',
    test: replicas('a grant counts from before its command, however long the confirmation takes'),
  },
  {
    name: 'replicas: the claim of a tick is confirmed as well',
    file: 'lib/core/backend/redis-run-store.ts',
    find: `kind === 'begun' ? await outcome.confirmed : undefined`,
    replace: 'undefined',
    test: replicas('the claim of a tick counts only where it is confirmed'),
  },
  {
    name: 'replicas: a server that had forgotten the script confirms it as well',
    file: redis('confirmed-connection'),
    find: 'this.#gathered.push({ ...call, knownScript: false });',
    replace:
      'return this.#connection.send(call.bySource, dueAt).then((its) => (call.resolve(its), its));',
    test: replicas('a grant is confirmed also where the server had forgotten the scripts'),
  },

  // The guard
  ...['acquire', 'share', "'acquire-all'"].map((script) => ({
    name: `guard: every grant goes by it (${script})`,
    file: redis('server-guard'),
    find: {
      acquire: '  acquire: new Script(acquireGuardedScript),\n',
      share: '  share: new Script(shareGuardedScript),\n',
      "'acquire-all'": "  'acquire-all': new Script(acquireAllGuardedScript),\n",
    }[script],
    test: guard(
      `after FLUSHALL with a guard, nobody enters ${
        { acquire: 'alone', share: 'shared', "'acquire-all'": 'with another key' }[script]
      }`,
    ),
  })),
  {
    name: 'guard: what was seen over another connection says nothing',
    file: redis('server-guard'),
    find: `known?.link === link ? (known?.record ?? '') : ''`,
    replace: `known?.record ?? ''`,
    test: guard('a moratorium lets owners renew, extend, enter again and give back'),
  },
  {
    name: 'guard: a new connection in the middle of its question says nothing',
    file: redis('server-guard'),
    find: 'link: asked === link() ? asked : undefined,',
    replace: 'link: link(),',
    test: {
      spec: 'test/unit/server-guard.spec.ts',
      name: 'believes nothing that it heard over a connection that is gone',
    },
  },
  {
    name: 'guard: a server that has lost its record is told of the longest lease',
    file: redis('server-guard'),
    find: '[Math.max(longestTtl, before?.longest ?? 0), lag, before?.epoch ?? 0],',
    replace: '[longestTtl, lag, before?.epoch ?? 0],',
    test: guard('a moratorium is so also where the record is lost'),
  },
  {
    name: 'guard: an old master is told of what was seen',
    file: redis('server-guard'),
    find: '[Math.max(longestTtl, before?.longest ?? 0), lag, before?.epoch ?? 0],',
    replace: '[Math.max(longestTtl, before?.longest ?? 0), lag, 0],',
    test: guard('a moratorium begins where an old master is back'),
  },
  {
    name: 'guard: locks that are there are no new installation',
    file: BACKEND,
    find: `if (traces.names.length > 0) return { kind: 'in-use', names: traces.names };`,
    test: guard('initializeGuard refuses where there are locks'),
  },

  // Wake-ups
  {
    name: 'P7 everybody looks when it is heard again',
    file: redis('redis-wake-up'),
    find: `this.#listener({ kind: 'listening' });`,
    test: scripts('connections listen again after they were cut, and let every waiter look'),
  },
  {
    name: 'P7 a subscription that has gone silent is given up',
    file: redis('redis-wake-up'),
    find: `      this.#hears = false;
      client.disconnect(true);`,
    test: wakeUp('The subscriber connection is replaced when a check gets no answer'),
  },
  {
    name: 'P7 a subscription that was cut is not counted on',
    file: redis('redis-wake-up'),
    find: "client.on('close', () => (this.#hears = false));",
    test: wakeUp('The subscriber connection is not counted on from when it is cut'),
  },
  {
    name: 'P7 everybody on a Cluster looks when it is heard again',
    file: redis('cluster-wake-up'),
    find: `this.#listener({ kind: 'listening' });`,
    test: clusterWakeUp('asks for its locks whenever its process begins to hear'),
  },
  {
    name: 'P7 a shard channel that was lost is subscribed to again',
    file: redis('cluster-wake-up'),
    find: `subscription.state = 'lost';
      void this.#place(subscription);`,
    replace: `subscription.state = 'lost';`,
    test: clusterWakeUp('is woken by shard again where its link was cut'),
  },
];
