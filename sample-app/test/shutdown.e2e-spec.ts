import { describe, expect, it } from '@jest/globals';
import type { Sale } from '../src/tickets/box-office.js';
import { Shop } from './support/shop.js';

describe('A replica that is asked to end (SIGTERM) in the middle of a purchase', () => {
  it('finishes it, gives the lock back, refuses who waits, and exits by itself', async () => {
    // So long a ttl that only a release explains that the other replica gets the lock.
    await using shop = await Shop.open(['A', 'B'], { lockTtl: '60s' });
    const [a, b] = [shop.replica('A'), shop.replica('B')];
    await shop.putOnSale('concert', 2);

    const payment = shop.bank.hold('for Ada');
    const ada = a.post<Sale>('tickets/concert/buy', { buyer: 'Ada' });
    await payment.arrived;
    const impatient = a.post<{ code: string }>('tickets/concert/buy', { buyer: 'Eve' });
    await a.waits('tickets:concert', 1);
    const bob = b.post<Sale>('tickets/concert/buy', { buyer: 'Bob' });
    await b.waits('tickets:concert', 1);

    // Kills it if it takes too long, which its exit would tell.
    const exited = a.process.stop();
    // It can't get a lock any more here; another replica can serve it.
    expect(await impatient).toMatchObject({ status: 503, body: { code: 'LOCK_UNAVAILABLE' } });
    payment.answer();

    expect(await ada).toMatchObject({ status: 201, body: { ticket: 2, soldBy: 'A' } });
    expect(await bob).toMatchObject({ status: 201, body: { ticket: 1, soldBy: 'B' } });
    // When all is closed, Nest raises the signal again, so that whoever sent it sees what it died of.
    expect(await exited).toEqual({ code: null, signal: 'SIGTERM' });
    expect(await b.lock('tickets:concert')).toMatchObject({ held: [], pending: [] });
  });
});
