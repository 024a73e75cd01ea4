import { WatchedProcess } from './watched-process.js';

/** What a peer's process is told on its command line. */
export interface PeerRequest {
  readonly workload: string;
  readonly role: string;
  readonly adapter: string;
  readonly url: string;
}

const NEXT_TIMEOUT = 60_000;

/** A further process of a case, seen from the one that measures. */
export class Peer {
  readonly #process: WatchedProcess;

  private constructor(watched: WatchedProcess) {
    this.#process = watched;
  }

  /** Resolves when it's ready for messages. */
  static async start(request: PeerRequest): Promise<Peer> {
    const file = new URL('./peer-process.js', import.meta.url);
    const peer = new Peer(new WatchedProcess(file, [JSON.stringify(request)]));
    await peer.next();
    return peer;
  }

  send(message: unknown): void {
    this.#process.send(message);
  }

  next<M>(): Promise<M> {
    return this.#process.next<M>(NEXT_TIMEOUT);
  }

  end(): Promise<void> {
    return this.#process.end(0);
  }
}
