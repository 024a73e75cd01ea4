import { describe, expect, it } from '@jest/globals';
import type { Sale } from '../src/tickets/box-office.js';
import { Shop } from './support/shop.js';

const TTL = 1_000;
/** A timer, a few round trips, and a busy machine. */
const MARGIN = 300;

describe('A replica that is killed while it holds a lock', () => {
  it('is followed by the one that waits within the ttl, which sells what the dead one had not sold', async () => {
    await using shop = await Shop.open(['A', 'B'], { lockTtl: `${TTL}ms` });
    const [a, b] = [shop.replica('A'), shop.replica('B')];
    await shop.putOnSale('concert', 1);

    const payment = shop.bank.hold('for Ada');
    const ada = a.post('tickets/concert/buy', { buyer: 'Ada' }).catch(() => 'never answered');
    await payment.arrived;
    const bob = b.post<Sale>('tickets/concert/buy', { buyer: 'Bob' });
    await b.waits('tickets:concert', 1);
    const { held } = await b.lock('tickets:concert');
    expect(held).toMatchObject([{ application: 'A', pid: a.process.pid }]);

    const killedAt = performance.now();
    await a.process.kill();
    const { status, body } = await bob;
    expect(performance.now() - killedAt).toBeLessThan(TTL + MARGIN);

    expect(await ada).toBe('never answered');
    expect(status).toBe(201);
    expect(body).toMatchObject({ ticket: 1, buyer: 'Bob', soldBy: 'B' });
    expect(await b.sales('concert')).toMatchObject({ sold: 1, left: 0, oversold: 0 });
  });
});
