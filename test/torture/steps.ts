/**
 * The steps of a lock's protocol, as a proxy between a process and a server sees them pass: so that the process is struck
 * exactly between a command and its reply, or between what it's told and what it does of it.
 */
import type { TcpProxy } from '../support/tcp-proxy.js';

export const STEPS = [
  'connecting',
  'acquire sent',
  'granted, not told',
  'holding',
  'renewal sent',
  'waiting in the queue',
  'hand-over',
  'release sent',
] as const;
/**
 * - connecting: its first command on a new connection isn't answered
 * - acquire sent: and not seen by the server
 * - granted, not told: the grant is on its way back
 * - renewal sent, release sent: not seen by the server, or not answered
 * - waiting in the queue: it was told that others have the key, and has its place
 * - hand-over: the key is reserved for it, and the message that wakes it is on its way
 */
export type Step = (typeof STEPS)[number];

export type Command = 'acquire' | 'renewal' | 'release';
export type News = 'granted' | 'queued' | 'woken';

/** How a subject's commands and their replies are told from others. */
export interface Protocol {
  /** Those that it has. */
  readonly steps: readonly Step[];
  /** Of a piece of its requests. */
  commandOf(request: string): Command | undefined;
  /** Of a piece of its replies and messages. */
  newsOf(reply: string): News | undefined;
}

/** How long after a reply has passed, in ms, its process has surely read it, and surely still does what it led to. */
const AFTER_REPLY = 3;

/**
 * Waits until a process is in a step, and strikes it there: what is on its way then stays in the proxy until `resume()`.
 * Answers with whether the step came within so many ms.
 */
export class Trap {
  constructor(
    private readonly proxy: TcpProxy,
    private readonly protocol: Protocol,
    private readonly strike: () => void,
  ) {}

  async catch(step: Step, executed: boolean, within: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<boolean>((resolve) => {
        let over = false;
        timer = setTimeout(() => {
          over = true;
          resolve(false);
        }, within);
        const spring = () => {
          // Nobody would resume it, or take its place.
          if (over) return;
          over = true;
          this.#disarm();
          this.strike();
          resolve(true);
        };
        this.#arm(step, executed, spring);
      });
    } finally {
      clearTimeout(timer);
      this.#disarm();
    }
  }

  #arm(step: Step, executed: boolean, spring: () => void): void {
    switch (step) {
      case 'connecting':
        this.proxy.cutAll();
        this.proxy.onRequest = () => {
          spring();
          return 'hold';
        };
        break;
      case 'acquire sent':
        this.#onCommand('acquire', false, spring);
        break;
      case 'renewal sent':
        this.#onCommand('renewal', executed, spring);
        break;
      case 'release sent':
        this.#onCommand('release', executed, spring);
        break;
      case 'granted, not told':
        this.#onNews('granted', spring);
        break;
      case 'hand-over':
        this.#onNews('woken', spring);
        break;
      case 'holding':
        this.#afterNews('granted', spring);
        break;
      case 'waiting in the queue':
        this.#afterNews('queued', spring);
        break;
    }
  }

  /** `executed`: the server sees it, and its reply stays in the proxy; else the server doesn't see it. */
  #onCommand(command: Command, executed: boolean, spring: () => void): void {
    this.proxy.onRequest = (bytes) => {
      if (this.protocol.commandOf(bytes.toString('latin1')) !== command) return 'pass';
      if (!executed) {
        spring();
        return 'hold';
      }
      // Of all connections of the process: whatever comes next, it doesn't read it any more.
      this.proxy.onRequest = () => 'pass';
      this.proxy.hold('down');
      spring();
      return 'pass';
    };
  }

  #onNews(news: News, spring: () => void): void {
    this.proxy.onReply = (bytes) => {
      if (this.protocol.newsOf(bytes.toString('latin1')) !== news) return 'pass';
      spring();
      return 'hold';
    };
  }

  #afterNews(news: News, spring: () => void): void {
    this.proxy.onReply = (bytes) => {
      if (this.protocol.newsOf(bytes.toString('latin1')) !== news) return 'pass';
      this.proxy.onReply = () => 'pass';
      setTimeout(spring, AFTER_REPLY);
      return 'pass';
    };
  }

  #disarm(): void {
    this.proxy.onRequest = () => 'pass';
    this.proxy.onReply = () => 'pass';
  }
}
