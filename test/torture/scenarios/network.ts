/** Networks that fail between a client and the one server: its proxy cuts, delays, loses, repeats. */
import { setTimeout as pause } from 'node:timers/promises';
import { UNORDERED, type Scenario } from '../scenario.js';
import { SingleSite } from '../sites/single.js';
import { heal } from '../sites/site.js';

const promises = { promised: UNORDERED, guarded: UNORDERED, shows: [] } as const;

export const proxyCuts: Scenario<SingleSite> = {
  ...promises,
  name: 'proxy-cuts',
  topology: 'single',
  about:
    'A connection is cut: before a command reaches the server, after it ran and before its reply arrives, or all at once; new ones are refused for up to a ttl.',
  pauses: [20, 200],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    const proxy = stage.site.proxy(stage.place());
    const kind = stage.pick(['before', 'after', 'all', 'refused'] as const);
    stage.note(`cut: ${kind}`);
    if (kind === 'all') return proxy.cutAll();
    if (kind === 'refused') {
      proxy.refuse();
      proxy.cutAll();
      await pause(stage.between(0, 1) * stage.ttl);
      return proxy.accept();
    }
    proxy.onRequest = () => {
      proxy.onRequest = () => 'pass';
      return kind === 'before' ? 'cut' : 'cut-after-reply';
    };
  },
};

export const proxyDelays: Scenario<SingleSite> = {
  ...promises,
  name: 'proxy-delays',
  topology: 'single',
  about:
    'Requests, replies or both are held back, all together or each, for up to 1.5 ttl: past the deadline of a lock.',
  pauses: [0, 50],
  shows: [{ subject: 'bare', invariant: 'I1' }],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    const proxy = stage.site.proxy(stage.place());
    const direction = stage.pick(['up', 'down', 'down', undefined] as const);
    const length = stage.between(0.1, 1.5) * stage.ttl;
    stage.note(`delay: ${direction ?? 'both'}`);
    if (stage.random() < 0.5) proxy.hold(direction);
    else proxy.delay(length / 2, direction);
    await pause(length);
    heal(proxy);
  },
};

export const proxyRepeats: Scenario<SingleSite> = {
  ...promises,
  name: 'proxy-repeats',
  topology: 'single',
  about: 'A quarter of all requests come twice, the second up to a ttl later.',
  pauses: [50, 100],
  open: (processes) => SingleSite.open(processes),
  async fault(stage) {
    const proxy = stage.site.proxy(stage.place());
    proxy.repeatAfter = stage.between(0, 1) * stage.ttl;
    proxy.onRequest = () => (stage.random() < 0.25 ? 'repeat' : 'pass');
    stage.note('requests repeated');
  },
};
