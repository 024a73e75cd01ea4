/**
 * Who takes the money in these tests: the shop's PAYMENT_URL. Between the shop's look at the stock and its write lies
 * a payment, so whoever decides when it's answered decides what overlaps with what, and nothing is left to luck.
 *
 * It answers within a few ms, unless the test has told it to hold payments back.
 */
import { type Server, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';

const PAYMENT_TIME = 3;

export interface Payment {
  readonly purpose: string;
  readonly replica: string;
}

export class Bank implements AsyncDisposable {
  readonly #server: Server;
  readonly #holds: Hold[] = [];
  #pending = 0;
  #most = 0;

  private constructor() {
    this.#server = createServer((request, response) => {
      void (async () => {
        this.#pending += 1;
        this.#most = Math.max(this.#most, this.#pending);
        const payment = (await json(request)) as Payment;
        await Promise.all([
          // Long enough for others to come in meanwhile, if they may.
          sleep(PAYMENT_TIME),
          this.#holds.find((hold) => hold.wants(payment))?.keep(payment),
        ]);
        this.#pending -= 1;
        response.end();
      })();
    });
  }

  static async open(): Promise<Bank> {
    const bank = new Bank();
    await new Promise<void>((resolve) => {
      bank.#server.listen(0, '127.0.0.1', resolve);
    });
    return bank;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Holds back the next payments whose purpose holds this text. */
  hold(purpose: string, count = 1): Hold {
    const hold = new Hold(purpose, count);
    this.#holds.push(hold);
    return hold;
  }

  /** How many payments were under way at once, at most, since the last time that this was asked. */
  most(): number {
    const most = this.#most;
    this.#most = this.#pending;
    return most;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** Payments that are held back until `answer`. */
export class Hold {
  /** Resolves when all of them are there. */
  readonly arrived: Promise<void>;
  readonly answer: () => void;
  readonly #answered: Promise<void>;
  readonly #payments: Payment[] = [];
  #allThere = (): void => {};

  constructor(
    private readonly purpose: string,
    private readonly count: number,
  ) {
    this.arrived = new Promise((resolve) => (this.#allThere = resolve));
    let answer = (): void => {};
    this.#answered = new Promise((resolve) => (answer = resolve));
    this.answer = answer;
  }

  wants({ purpose }: Payment): boolean {
    return this.#payments.length < this.count && purpose.includes(this.purpose);
  }

  keep(payment: Payment): Promise<void> {
    if (this.#payments.push(payment) === this.count) this.#allThere();
    return this.#answered;
  }
}
