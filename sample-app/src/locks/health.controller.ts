import { Controller, Get } from '@nestjs/common';
import { RedisLockService } from 'nestjs-redis-lock';

import { Settings } from '../settings.js';

@Controller('health')
export class HealthController {
  constructor(
    private readonly locks: RedisLockService,
    private readonly settings: Settings,
  ) {}

  /** Whether this replica can ask for locks. If not, the answer is the library's 503. */
  @Get()
  async health(): Promise<{ replica: string; pid: number; locks: 'ok' }> {
    await this.locks.inspect('health');
    return { replica: this.settings.replica, pid: process.pid, locks: 'ok' };
  }
}
