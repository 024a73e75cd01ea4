import { Body, Controller, Get, Param, ParseIntPipe, Post, Put } from '@nestjs/common';
import { CurrentLock, DistributedLock, type Lock } from 'nestjs-redis-lock';

import { BoxOffice, type Sale, type Sales } from './box-office.js';

@Controller('tickets/:event')
export class TicketsController {
  constructor(private readonly boxOffice: BoxOffice) {}

  @Put()
  open(@Param('event') event: string, @Body('stock', ParseIntPipe) stock: number): Promise<Sales> {
    return this.boxOffice.open(event, stock);
  }

  @Get()
  sales(@Param('event') event: string): Promise<Sales> {
    return this.boxOffice.sales(event);
  }

  /** One buyer of an event at a time, over all replicas; buyers of different events don't wait for each other. */
  @Post('buy')
  @DistributedLock((event: string) => `tickets:${event}`)
  buy(
    @Param('event') event: string,
    @Body('buyer') buyer: string | undefined,
    @CurrentLock() lock: Lock,
  ): Promise<Sale> {
    return this.boxOffice.sell(event, buyer ?? 'somebody', lock);
  }

  /** What the shop would be without the lock. */
  @Post('buy-unguarded')
  buyUnguarded(
    @Param('event') event: string,
    @Body('buyer') buyer: string | undefined,
  ): Promise<Sale> {
    return this.boxOffice.sell(event, buyer ?? 'somebody');
  }
}
