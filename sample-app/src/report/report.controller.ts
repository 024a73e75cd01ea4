import { Controller, Get, ParseIntPipe, Query } from '@nestjs/common';

import { Report, type ReportRun } from './report.js';

@Controller('report')
export class ReportController {
  constructor(private readonly report: Report) {}

  /** Who wrote the report when, since a second or within the last minute. */
  @Get()
  async runs(
    @Query('since', new ParseIntPipe({ optional: true })) since?: number,
  ): Promise<ReportRun[]> {
    const first = since ?? Math.floor(Date.now() / 1_000) - 60;
    return (await this.report.runs()).filter(({ tick }) => tick >= first);
  }
}
