import { Body, Controller, Get, Param, ParseIntPipe, Post } from '@nestjs/common';

import { type Balance, Ledger } from './ledger.js';

@Controller('ledger/:account')
export class LedgerController {
  constructor(private readonly ledger: Ledger) {}

  @Get()
  balance(@Param('account') account: string): Promise<Balance> {
    return this.ledger.balance(account);
  }

  @Post()
  book(
    @Param('account') account: string,
    @Body('amount', ParseIntPipe) amount: number,
  ): Promise<Balance> {
    return this.ledger.book(account, amount);
  }
}
