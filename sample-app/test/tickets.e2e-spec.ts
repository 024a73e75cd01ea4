import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Shop } from './support/shop.js';

const STOCK = 20;

describe('Buying tickets on three replicas at once', () => {
  let shop: Shop;

  beforeAll(async () => {
    shop = await Shop.open(['A', 'B', 'C']);
  });

  afterAll(async () => {
    await shop[Symbol.asyncDispose]();
  });

  it('without the lock, sells one ticket to everybody who looked before the first had paid', async () => {
    const buyers = 30;
    await shop.putOnSale('unguarded', STOCK);
    // Nobody has paid before everybody has looked.
    const payments = shop.bank.hold('unguarded', buyers);
    const answers = shop.buy('unguarded', buyers, 'buy-unguarded');
    await payments.arrived;
    payments.answer();

    expect((await answers).map(({ status }) => status)).toEqual(Array(buyers).fill(201));
    const { sold, oversold, sales } = await shop.any.sales('unguarded');
    expect({ sold, oversold }).toEqual({ sold: buyers, oversold: buyers - STOCK });
    expect(new Set(sales.map(({ ticket }) => ticket))).toEqual(new Set([STOCK]));
  });

  it('with the lock, sells each ticket once and never more, one payment at a time', async () => {
    const buyers = 60;
    await shop.putOnSale('guarded', STOCK);
    shop.bank.most();
    const answers = await shop.buy('guarded', buyers, 'buy');

    expect(shop.bank.most()).toBe(1);
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 201)).toHaveLength(STOCK);
    expect(statuses.filter((status) => status === 410)).toHaveLength(buyers - STOCK);
    const { left, oversold, sales } = await shop.any.sales('guarded');
    expect({ left, oversold }).toEqual({ left: 0, oversold: 0 });
    expect(sales.map(({ ticket }) => ticket)).toEqual(
      Array.from({ length: STOCK }, (_, at) => STOCK - at),
    );
    expect(new Set(sales.map(({ soldBy }) => soldBy))).toEqual(new Set(['A', 'B', 'C']));
  });

  it('gives every sale a larger fencing token than the one before, whichever replica made it', async () => {
    await shop.putOnSale('fenced', STOCK);
    await shop.buy('fenced', STOCK, 'buy');

    const { sales } = await shop.any.sales('fenced');
    const fences = sales.map(({ fence }) => fence);
    expect(fences).toEqual([...new Set(fences)].toSorted((a, b) => Number(a) - Number(b)));
    expect(fences).not.toContain(null);
  });

  it('lets buyers of another event pass', async () => {
    await shop.putOnSale('slow', 1);
    await shop.putOnSale('fast', 1);
    const slow = shop.bank.hold('slow');
    const slowAnswer = shop.replica('A').post('tickets/slow/buy');
    await slow.arrived;

    expect((await shop.replica('A').post('tickets/fast/buy')).status).toBe(201);
    slow.answer();
    expect((await slowAnswer).status).toBe(201);
  });

  it('passes the exception of the guarded handler through', async () => {
    const { status, body } = await shop.any.post('tickets/nowhere/buy');
    expect(status).toBe(404);
    expect(body).toMatchObject({ message: 'There are no tickets for nowhere.' });
  });
});
