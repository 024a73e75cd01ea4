import { describe, expect, it } from '@jest/globals';
import { eventually } from '../../test/support/eventually.js';
import type { Balance } from '../src/ledger/ledger.js';
import { Shop } from './support/shop.js';

describe('A booking with the fencing token', () => {
  it('of a replica that was paused for longer than the ttl is refused by the store', async () => {
    await using shop = await Shop.open(['A', 'B'], { lockTtl: '500ms' });
    const [a, b] = [shop.replica('A'), shop.replica('B')];
    expect((await b.post<Balance>('ledger/till', { amount: 100 })).body.balance).toBe(100);

    // A has read the balance of 100 and is about to write 110.
    const payment = shop.bank.hold('10 on till');
    const late = a.post<{ message: string }>('ledger/till', { amount: 10 });
    await payment.arrived;
    a.process.pause();
    payment.answer();
    const { status, body } = await b.post<Balance>('ledger/till', { amount: 5 });
    expect(status).toBe(201);
    expect(body.balance).toBe(105);

    a.process.resume();
    expect(await late).toMatchObject({
      status: 409,
      body: { message: expect.stringContaining(`${body.fence} has written already`) },
    });
    expect(await b.get<Balance>('ledger/till')).toEqual(body);
  });

  it('adds up over two replicas', async () => {
    await using shop = await Shop.open(['A', 'B']);
    const bookings = Array.from({ length: 40 }, (_, at) =>
      shop.replica(at % 2 === 0 ? 'A' : 'B').post<Balance>('ledger/till', { amount: at }),
    );
    const answers = await Promise.all(bookings);
    expect(answers.map(({ status }) => status)).toEqual(Array(40).fill(201));

    const { balance, fence } = await shop.any.get<Balance>('ledger/till');
    expect(balance).toBe((39 * 40) / 2);
    expect(fence).toBe(Math.max(...answers.map(({ body }) => body.fence)));
    // Given back, not left to expire.
    await eventually(async () => (await shop.any.lock('ledger:till')).held.length === 0);
  });
});
