import { setTimeout as sleep } from 'node:timers/promises';

import { BadGatewayException, Injectable } from '@nestjs/common';

import { Settings } from '../settings.js';

/** Takes the money, which takes a while: the time in which two buyers can get hold of one ticket. */
@Injectable()
export class Payment {
  constructor(private readonly settings: Settings) {}

  /** Ends when it's paid. With a signal that aborts, nothing is paid and the call rejects with its reason. */
  async take(purpose: string, signal?: AbortSignal): Promise<void> {
    const { paymentUrl, paymentTime, replica } = this.settings;
    if (paymentUrl === undefined) {
      await sleep(paymentTime, undefined, signal && { signal });
      return;
    }
    const answer = await fetch(paymentUrl, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ purpose, replica }),
      ...(signal && { signal }),
    });
    await answer.body?.cancel();
    if (!answer.ok) throw new BadGatewayException(`The payment failed with ${answer.status}.`);
  }
}
