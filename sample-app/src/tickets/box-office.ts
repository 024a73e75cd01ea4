import { GoneException, Injectable, NotFoundException } from '@nestjs/common';
import type { Lock } from 'nestjs-redis-lock';

import { Settings } from '../settings.js';
import { Store } from '../store/store.js';
import { Payment } from './payment.js';

export interface Sale {
  readonly ticket: number;
  readonly buyer: string;
  readonly soldBy: string;
  /** `null`: sold without a lock. */
  readonly fence: number | null;
}

export interface Sales {
  readonly event: string;
  readonly stock: number;
  readonly left: number;
  readonly sold: number;
  /** How many were sold beyond the stock: so many people stand before a taken seat. */
  readonly oversold: number;
  readonly sales: readonly Sale[];
}

/**
 * Sells the tickets of an event: reads how many are left, has one paid, writes back one less. Between reading and
 * writing anybody else may do the same, so two sales of one event must not overlap, on whatever replica they are.
 * That's for the caller to see to.
 */
@Injectable()
export class BoxOffice {
  constructor(
    private readonly store: Store,
    private readonly payment: Payment,
    private readonly settings: Settings,
  ) {}

  /** Puts so many tickets on sale, and forgets whatever was sold before. */
  async open(event: string, stock: number): Promise<Sales> {
    await this.store.remove(`sales:${event}`);
    await this.store.write(`stock:${event}`, String(stock));
    await this.store.write(`left:${event}`, String(stock));
    return this.sales(event);
  }

  async sell(event: string, buyer: string, lock?: Lock): Promise<Sale> {
    const left = await this.#count(`left:${event}`, event);
    if (left === 0) throw new GoneException(`${event} is sold out.`);
    await this.payment.take(`ticket ${left} of ${event} for ${buyer}`, lock?.signal);
    await this.store.write(`left:${event}`, String(left - 1));
    const { replica: soldBy } = this.settings;
    const sale: Sale = { ticket: left, buyer, soldBy, fence: lock?.fencingToken ?? null };
    await this.store.append(`sales:${event}`, JSON.stringify(sale));
    return sale;
  }

  async sales(event: string): Promise<Sales> {
    const stock = await this.#count(`stock:${event}`, event);
    const left = await this.#count(`left:${event}`, event);
    const entries = await this.store.entries(`sales:${event}`);
    const sales = entries.map((entry) => JSON.parse(entry) as Sale);
    const sold = sales.length;
    return { event, stock, left, sold, oversold: Math.max(0, sold - stock), sales };
  }

  async #count(name: string, event: string): Promise<number> {
    const count = await this.store.read(name);
    if (count === undefined) throw new NotFoundException(`There are no tickets for ${event}.`);
    return Number(count);
  }
}
