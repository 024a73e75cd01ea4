/** Lines of the engine in each process, which decide what a caller may believe and what is left behind. */
import {
  cleanUp,
  force,
  guardUnit,
  lease,
  locker,
  lockerUnit,
  nestSafety,
  queue,
  renewal,
  runOnceAway,
  runOnce,
  scripts,
  several,
} from './tests.mjs';

const core = (name) => `lib/core/${name}.ts`;

export const inEngine = [
  // A lease
  {
    name: 'P2 a lease ends at its deadline',
    file: core('lease'),
    find: `if (now >= this.deadline) this.lose('expired');
      else if`,
    replace: 'if',
    test: lease('Lease is held up to its deadline and lost from then on'),
  },
  {
    name: 'P2 a lease ends at maxHold',
    file: core('lease'),
    find: `else if (now >= this.holdUntil) this.lose('max-hold');`,
    test: lease('Lease ends at maxHold, however often it is prolonged'),
  },
  {
    name: 'P2 the deadline allows for drift',
    file: core('lease'),
    find: 'return sentAt + ttl * (1 - DRIFT) - DEADLINE_MARGIN;',
    replace: 'return sentAt + ttl - DEADLINE_MARGIN;',
    test: lease('ms is good for'),
  },
  {
    name: 'P2 a renewal counts from when it was sent',
    file: core('lease'),
    find: 'this.deadline = Math.max(this.deadline, validUntil(sentAt, this.ttl));',
    replace: 'this.deadline = Math.max(this.deadline, validUntil(now, this.ttl));',
    test: lease('Lease is prolonged from when its renewal was sent'),
  },
  {
    name: 'P2 a late renewal brings nothing back',
    file: core('lease'),
    find: `if (!this.isHeldAt(now)) return;
    this.sentAt = sentAt;`,
    replace: 'this.sentAt = sentAt;',
    test: lease("Lease doesn't come back by a renewal that is answered after its deadline"),
  },
  {
    name: 'P2 the signal aborts on a loss',
    file: core('lease'),
    find: `this.#controller?.abort(this.lostError());
    this.#onLost(this, reason);`,
    replace: 'this.#onLost(this, reason);',
    test: lease('Lease signal aborts when the lease is lost, before anybody else is told'),
  },
  {
    name: 'P2 the signal of the next holder is its own',
    file: core('lease'),
    find: 'this.#controller = undefined;',
    test: queue('who has passed the lease on stays released, under its own fencing token'),
  },
  {
    name: 'P2 a signal that is read after the loss has aborted',
    file: core('lease'),
    find: `if (this.state === 'lost') this.#controller.abort(this.lostError());`,
    test: lease('Lease signal asked for after the loss is aborted already'),
  },

  // Renewals
  {
    name: 'P2 a renewal that meets another holder is a loss',
    file: core('renewal'),
    find: `lease.lose('taken');
          return;`,
    replace: 'return;',
    test: renewal('Renewal applies each outcome of a batch to its own lease'),
  },
  {
    name: 'P2 a timer looks at each deadline',
    file: core('renewal'),
    find: 'const end = Math.min(lease.deadline, lease.holdUntil);',
    replace: 'const end = Number.POSITIVE_INFINITY;',
    test: renewal('Renewal ends a lease at its deadline'),
  },
  {
    name: 'P2 a renewal that failed is tried again',
    file: core('renewal'),
    find: 'lease.retryAt = this.#soon(lease, now);',
    replace: 'lease.retryAt = Number.POSITIVE_INFINITY;',
    test: renewal('a failed renewal is tried up to the deadline'),
  },
  {
    name: 'P2 all leases are looked at where a message may have been missed',
    file: core('locker'),
    find: 'this.#renewal.lookAtAll();',
    test: force('is lost once its holder listens again, where it missed the message'),
  },
  {
    name: 'P2 also those that are renewed',
    file: core('renewal'),
    find: `    this.#extendAll(renewed);
    // What`,
    replace: '    // What',
    test: renewal(
      'looks at all leases where a message may have been missed: renews those that are renewed at once',
    ),
  },
  {
    name: 'P2 also those of which a renewal was under way',
    file: core('renewal'),
    find: 'void outcomes.then(() => this.#extendAll(leases.filter(({ renew }) => renew)));',
    test: renewal(
      'looks at all leases where a message may have been missed: once more where a renewal was under way',
    ),
  },
  {
    name: 'P2 also those that are not renewed',
    file: core('renewal'),
    find: 'lease.lookAt = now;',
    test: renewal(
      'looks at all leases where a message may have been missed: asks for those that are not renewed',
    ),
  },
  {
    name: 'P2 a lease that was downgraded meanwhile is asked for again',
    file: core('renewal'),
    find: 'if (lease.access !== asked[index]) {',
    replace: 'if (lease.access === undefined) {',
    test: {
      spec: 'test/integration/replicas.spec.ts',
      name: 'a downgrade that overtakes a renewal',
    },
  },
  {
    name: 'P2 a release by force is a loss',
    file: core('locker'),
    find: `else lease.lose('forced', forced.by);`,
    test: lockerUnit('a lease that somebody releases by force is lost, without a command'),
  },
  {
    name: 'P2 a release by force that overtakes the grant is a loss',
    file: core('locker'),
    find: 'if (lease === undefined) this.#forced.remember(forced);',
    replace: 'if (lease === undefined) return;',
    test: lockerUnit(
      'a lease that somebody releases by force may be one whose grant is still on its way',
    ),
  },
  {
    name: 'P6 a release by force is of the lease that was meant',
    file: core('locker'),
    find: 'token === forced.token && name.owner === forced.owner',
    replace: 'name.owner === forced.owner',
    test: lockerUnit('a lease that somebody releases by force is not the one of a later holder'),
  },

  // Work under a lock
  {
    name: 'P8 work does not begin under a lock that is over',
    file: core('locker'),
    find: `    if (!lock.isHeld) {
      // Granted, and gone`,
    replace: `    if (lock.key === undefined) {
      // Granted, and gone`,
    test: lockerUnit('using refuses a grant that was over before the work could begin'),
  },
  {
    name: 'P2 work whose lock was lost has not succeeded',
    file: core('locker'),
    find: 'if (lost) throw lock.lostError();',
    test: locker(
      'a lease lost under `using`: rejects with LockLostError although the work was done',
    ),
  },
  {
    name: 'P5 a lock is given back when its work fails',
    file: core('locker'),
    find: `      result = await runHolding(lock, this.#keeper, () => work(lock));
    } catch (error) {
      await lock.release();`,
    replace: `      result = await runHolding(lock, this.#keeper, () => work(lock));
    } catch (error) {`,
    test: locker(
      "using passes the work's own exception on, whatever it is, and gives the lock back",
    ),
  },
  {
    name: 'P5 what was lost is given back to those who wait',
    file: core('locker'),
    find: `this.#cleanUp.cancel({ ...releaseOf(lease), lastFence: lease.fencingToken });`,
    replace: 'this.#cleanUp.size;',
    test: lockerUnit('a loss (expired'),
  },
  {
    name: 'P5 a release that failed goes on',
    file: core('locker'),
    find: `        void this.#cleanUp.release(() => releaseOf(lease));
        this.#events.emit('releaseFailed'`,
    replace: `        this.#events.emit('releaseFailed'`,
    test: lockerUnit('release that is not answered is "unconfirmed"'),
  },
  {
    name: 'P1 siblings on a held key take turns',
    file: core('reentry'),
    find: `if (this.#taken) return 'busy';`,
    test: locker('re-entry makes siblings on the held key take turns'),
  },
  {
    name: 'P4 several keys are taken in one order everywhere',
    file: core('lock-name'),
    find: '.toSorted((a, b) => (a.owner < b.owner ? -1 : 1))',
    test: several('several keys asked for in opposite orders never block each other'),
  },
  {
    name: 'P5 of several keys, what was taken is given back',
    file: core('joint-acquire'),
    find: 'for (const part of parts) void part.giveBack();',
    test: several(
      'several keys are waited for within one budget; what was taken meanwhile is given back',
    ),
  },
  {
    name: 'P3 of several keys, all have one fencing token',
    file: core('joint-acquire'),
    find: `if (taken.length > 1) await this.#alignFences(`,
    replace: 'if (taken.length < 1) await this.#alignFences(',
    test: several('several keys that had to be waited for have one fencing token as well'),
  },
  {
    name: 'P1 of several keys, one that is lost meanwhile is told',
    file: core('joint-acquire'),
    find: `group[outcome.index]?.lease.lose('taken');
            throw`,
    replace: `if (outcome.index < 0) throw`,
    test: scripts(
      'several keys of which one was lost at the server while the others were waited for',
    ),
  },

  // Tries
  {
    name: 'P5 what is in doubt is undone (a try)',
    file: core('single-tries'),
    find: 'if (outcome.mayHaveRun) undo(notAfter);',
    test: lockerUnit('tryAcquire without an answer'),
  },
  {
    name: 'P5 a grant that comes too late is none (a try)',
    file: core('single-tries'),
    find: 'if (clock.now() < validUntil(sentAt, ttl)) {',
    replace: 'if (clock.now() > 0) {',
    test: lockerUnit('tryAcquire gives back what was granted after its deadline'),
  },
  {
    name: 'P5 a grant that comes too late is given back (a try)',
    file: core('single-tries'),
    find: `            undo();
            break;`,
    replace: '            break;',
    test: lockerUnit('tryAcquire gives back what was granted after its deadline'),
  },
  {
    name: 'P5 a grant that comes while it closes is given back',
    file: core('single-tries'),
    find: `              undo();
              throw new LockUnavailableError(key, 'shutting-down');`,
    replace: `              throw new LockUnavailableError(key, 'shutting-down');`,
    test: lockerUnit('close gives back what an tryAcquire is granted while it closes'),
  },
  {
    name: 'P5 what is in doubt is undone (a waiter)',
    file: core('wait-queue'),
    find: 'this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl }, notAfter);',
    test: queue('an unknown outcome is cancelled, and the next token asks for the same place'),
  },
  {
    name: 'P5 a grant that comes too late is none (a waiter)',
    file: core('wait-queue'),
    find: ` &&
      this.context.clock.now() < validUntil(grant.sentAt, ttl);`,
    replace: ';',
    test: queue('a grant that nobody can use is given back where it arrived after its deadline'),
  },
  {
    name: 'P5 a grant that nobody waits for is given back',
    file: core('wait-queue'),
    find: `      this.context.cleanUp.cancel({ name: this.name, token: stand.token, ttl });
      if (head`,
    replace: '      if (head',
    test: queue(
      'a grant that nobody can use is given back where its caller has given up meanwhile',
    ),
  },
  {
    name: 'P1 a grant for another ttl is of no use',
    file: core('wait-queue'),
    find: `      head.options.ttl === ttl &&
`,
    test: queue('a grant that nobody can use is given back where it is for another ttl'),
  },
  {
    name: 'P5 a waiter that leaves gives up its place',
    file: core('wait-queue'),
    find: 'if (left > 0) this.context.cleanUp.cancel({ name: this.name, token, ttl: left });',
    test: queue('several callers that all have given up leave nothing at the backend'),
  },
  {
    name: 'P7 a wake-up that overtakes the reply is remembered',
    file: core('wait-queue'),
    find: 'if (this.#woken || this.#line.size === 0) return Promise.resolve(true);',
    replace: 'if (this.#line.size === 0) return Promise.resolve(true);',
    test: queue('a wake-up that overtakes the reply "busy" is remembered'),
  },
  {
    name: 'P7 who listens before it queues',
    file: core('wait-queue'),
    find: 'const queues = stand.told || backend.wakeUp.listensTo(this.name);',
    replace: 'const queues = true;',
    test: queue('a first try queues only if it will be told'),
  },
  {
    name: 'P7 a waiter refreshes its place',
    file: core('wait-queue'),
    find: 'this.#sleep(Math.min(leaseEnds, refresh, poll))',
    replace: 'this.#sleep(Math.min(leaseEnds, poll))',
    test: queue('asleep refreshes its place well before it would count as dead'),
  },
  {
    name: 'P4 who is not told polls',
    file: core('wait-queue'),
    find: 'this.#sleep(Math.min(leaseEnds, refresh, poll))',
    replace: 'this.#sleep(Math.min(leaseEnds, refresh))',
    test: queue('asleep polls where it will not be told'),
  },
  {
    name: 'P4 who waits looks when the lease would end',
    file: core('wait-queue'),
    find: 'this.#sleep(Math.min(leaseEnds, refresh, poll))',
    replace: 'this.#sleep(Math.min(refresh, poll))',
    test: queue('asleep looks again just after the lease would end'),
  },
  {
    name: 'P1 a lease is not passed on in jeopardy',
    file: core('wait-queue'),
    find: `lease.state !== 'held' || lease.keepFor > 0`,
    replace: 'lease.keepFor > 0',
    test: queue(
      'a lease to which the next would fit is not passed on in jeopardy: it might end too soon',
    ),
  },
  {
    name: 'P3 a lease is not passed on beyond its range of fencing tokens',
    file: core('wait-queue'),
    find: 'if (lease.passes >= FENCE_RANGE - 1 || lease.noted) return false;',
    replace: 'if (lease.noted) return false;',
    test: queue(
      'a lease to which the next would fit is not passed on once its range of fencing tokens is used up',
    ),
  },
  {
    name: 'P7 a lease is passed on so often while others wait',
    file: core('wait-queue'),
    find: 'return lease.sharedPasses < SHARED_PASSES && now - others < SHARED_BUDGET;',
    replace: 'return true;',
    test: queue('whose turn it is then that of 16 in all'),
  },

  // Undone behind the caller's back
  {
    name: 'P5 what is undone is undone again when the command in doubt would be late',
    file: core('clean-up'),
    find: 'if (done && sentAt >= settledAt) return;',
    replace: 'if (done) return;',
    test: cleanUp('CleanUp cancels once more when a command in doubt would be refused as late'),
  },
  {
    name: 'P5 what is undone is tried again until it succeeds',
    file: core('clean-up'),
    find: `const done = kind !== 'unavailable';`,
    replace: 'const done = kind !== undefined;',
    test: cleanUp('CleanUp tries again, with growing pauses, until it succeeds'),
  },
  {
    name: 'P5 what is to be undone is tried once more before it closes',
    file: core('clean-up'),
    find: 'for (const end of [...this.#pauses]) end();',
    test: cleanUp('CleanUp close makes the last try at once'),
  },

  // Runs of jobs
  {
    name: 'run: a claim that is in doubt is taken back',
    file: core('run-once'),
    find: `          this.#abandon(claim, refusedAfter);
`,
    test: runOnceAway(
      'its claim comes to nothing, undoes one that arrives after it was undone, too',
    ),
  },
  {
    name: 'run: a claim of which the lock is gone is taken back',
    file: core('run-once'),
    find: 'if (tooLate) this.#abandon(claim);',
    test: runOnceAway(
      'its claim comes to nothing, leaves the tick to others where its lock was gone',
    ),
  },
  {
    name: 'run: no work begins whose lock is gone',
    file: core('run-once'),
    find: `const tooLate = reply.kind === 'begun' && !lock.isHeld;`,
    replace: 'const tooLate = false;',
    test: runOnceAway(
      'its claim comes to nothing, leaves the tick to others where its lock was gone',
    ),
  },
  {
    name: 'run: its end is recorded when Redis is back',
    file: core('run-once'),
    find: `if (outcome.kind !== 'unavailable' || clock.now() >= giveUpAt || !lock.isHeld) return;`,
    replace: 'return;',
    test: runOnceAway('Redis is away, records the end of a run when it is back'),
  },
  {
    name: 'run: one whose lock is lost has crashed',
    file: core('run-once'),
    find: `if (standing === 'gone') this.bury(run);
        else `,
    replace: '',
    test: runOnce('a runner that crashes is found out by the next tick'),
  },

  // safety: 'strict'
  {
    name: "strict: doesn't start below the level",
    file: core('locker'),
    find: `if (diagnosis.level !== 'strict') throw new LockSafetyError(diagnosis);`,
    test: nestSafety(
      "safety: 'strict' does not let it start, and names everything that is to be changed",
    ),
  },
  {
    name: "strict: doesn't start without Redis",
    file: core('locker'),
    find: ` || safety === 'strict') throw`,
    replace: ') throw',
    test: nestSafety("safety: 'strict' does not let it start without Redis"),
  },
  {
    name: 'strict: turns the guard on',
    file: core('options'),
    find: `(safety === 'strict' && onRedis)`,
    replace: 'undefined',
    test: nestSafety("safety: 'strict' turns the guard on"),
  },
  {
    name: "strict: what isn't known is not strict",
    file: core('diagnosis'),
    find: `worst === undefined || worst.severity === 'advice' ? 'strict'`,
    replace: `worst === undefined || worst.severity === 'advice' || worst.severity === 'unknown' ? 'strict'`,
    test: {
      spec: 'test/unit/diagnosis.spec.ts',
      name: 'that cannot be asked leaves everything unknown',
    },
  },

  // Standing in line for a guard
  {
    name: 'P5 a place that a guard gave is given up with the last caller',
    file: core('wait-queue'),
    find: `stand.left = lifeOf(ttl);
          stand.sequence = outcome.sequence;`,
    replace: 'stand.sequence = outcome.sequence;',
    test: queue(
      'in a moratorium of its guard leaves nothing in the queue when nobody waits any more',
    ),
  },
  {
    name: 'P5 also where it was given before another limit was told',
    file: core('wait-queue'),
    find: `if (queues) stand.left = lifeOf(ttl);
        break;
      case 'unavailable':`,
    replace: `break;
      case 'unavailable':`,
    test: queue('in a moratorium of its guard nor where it was queued before'),
  },
  {
    name: 'P7 whose place was undone in a moratorium asks for it again soon',
    file: core('wait-queue'),
    find: 'const isQueued = stand.left > 0;',
    replace: 'const isQueued = true;',
    test: queue('in a moratorium of its guard asks for its place again soon'),
  },
  {
    name: 'P5 a place is told of also where the next attempt comes to nothing',
    file: core('redis/server-guard'),
    find: '{ ...outcome, ...queued }',
    replace: 'outcome',
    test: guardUnit('tells of a place in the queue also where'),
  },
];
