/**
 * A TCP proxy between a client and a server that breaks the connection in the ways networks do.
 *
 * Bytes go `up` (client to server, requests) and `down` (server to client, replies). In each direction the proxy
 * either forwards, at once or after a delay, or holds: it then keeps the bytes, in order, until `resume()`.
 *
 * The case that no other tool makes on purpose is "the command ran, but its reply never came": `dropReplies()` lets
 * requests through and cuts the connection when the reply arrives, without delivering it. `onRequest` does the same
 * for one chosen command.
 */
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';

export type Direction = 'up' | 'down';

/**
 * What happens to a piece of the request stream.
 * - `pass`: it's forwarded
 * - `cut-after-reply`: it's forwarded, and its connection is cut when the next bytes come back, which are lost
 * - `cut`: its connection is cut now; the server never sees it
 * - `hold`: from this piece on, its connection's requests are held until `resume()`
 * - `repeat`: it's forwarded, and comes a second time `repeatAfter` ms later, over a connection of its own: what a client
 *   does that sends again after a lost reply, or a packet that arrives late. Nobody gets the second reply.
 */
export type Verdict = 'pass' | 'cut-after-reply' | 'cut' | 'hold' | 'repeat';

/**
 * What happens to a piece of the reply stream.
 * - `pass`: it's delivered
 * - `swallow`: it's lost, and what comes after it isn't
 * - `cut`: its connection is cut, and it's lost
 * - `hold`: from this piece on, its connection's replies are held until `resume()`
 */
export type ReplyVerdict = 'pass' | 'swallow' | 'cut' | 'hold';

const DIRECTIONS: readonly Direction[] = ['up', 'down'];

export class TcpProxy {
  /**
   * Asked for each piece of bytes from a client, before it's forwarded. A client writes each pipeline in one piece
   * as long as it's small, so `bytes.includes('...')` finds a command; a large one may come in several pieces.
   */
  onRequest: (bytes: Buffer) => Verdict = () => 'pass';
  /** Asked for each piece of bytes from the server, before it's delivered: replies, and messages to a subscriber. */
  onReply: (bytes: Buffer) => ReplyVerdict = () => 'pass';
  /** How much later the second of a repeated request comes, in ms. */
  repeatAfter = 0;
  readonly port: number;
  /** Where connections lead that come from now on; the open ones stay where they are. */
  targetPort: number;
  readonly #server: Server;
  readonly #links = new Set<Link>();
  readonly #held = new Set<Direction>();
  /** Ends each repeated request that's still to come or to be answered. */
  readonly #repeats = new Set<() => void>();
  readonly #delays: Record<Direction, number> = { up: 0, down: 0 };
  #refusing = false;
  #repliesToDrop = 0;

  private constructor(server: Server, targetPort: number) {
    this.#server = server;
    this.port = (server.address() as AddressInfo).port;
    this.targetPort = targetPort;
    server.on('connection', (client) => this.#onConnection(client));
  }

  /** A proxy on a free loopback port in front of `targetPort`, which need not listen yet. */
  static async start(targetPort: number): Promise<TcpProxy> {
    const server = createServer({ allowHalfOpen: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, '127.0.0.1', resolve);
    });
    return new TcpProxy(server, targetPort);
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** How many client connections are open now. */
  get connections(): number {
    return this.#links.size;
  }

  /** Resets all connections. Clients may connect again at once. */
  cutAll(): void {
    for (const link of [...this.#links]) link.cut();
  }

  /** Resets each new connection; the open ones stay. */
  refuse(): void {
    this.#refusing = true;
  }

  accept(): void {
    this.#refusing = false;
  }

  /** Stops forwarding and keeps the bytes; without a direction, in both. Also for connections that come later. */
  hold(direction?: Direction): void {
    for (const each of direction ? [direction] : DIRECTIONS) {
      this.#held.add(each);
      for (const link of this.#links) link.hold(each);
    }
  }

  /** Forwards what was held, in order, and goes on. Also ends the `hold` of a verdict. */
  resume(direction?: Direction): void {
    for (const each of direction ? [direction] : DIRECTIONS) {
      this.#held.delete(each);
      for (const link of this.#links) link.release(each);
    }
  }

  /**
   * The next `count` pieces of reply are not delivered: each cuts its connection instead. The commands have run by
   * then. `Infinity` until `deliverReplies()`.
   */
  dropReplies(count = 1): void {
    this.#repliesToDrop = count;
  }

  deliverReplies(): void {
    this.#repliesToDrop = 0;
  }

  /** Forwards each later piece `ms` after it came, in order; 0 ends it. Without a direction, in both. */
  delay(ms: number, direction?: Direction): void {
    for (const each of direction ? [direction] : DIRECTIONS) this.#delays[each] = ms;
  }

  /** Cuts everything and stops listening. */
  async close(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const end of [...this.#repeats]) end();
    this.cutAll();
    await closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #onConnection(client: Socket): void {
    if (this.#refusing) {
      client.on('error', () => {});
      reset(client);
      return;
    }
    const link: Link = new Link(
      client,
      connect({ port: this.targetPort, host: '127.0.0.1', allowHalfOpen: true }),
      {
        delay: (direction) => this.#delays[direction],
        isHeld: (direction) => this.#held.has(direction),
        judge: (bytes) => this.onRequest(bytes),
        judgeReply: (bytes) => this.onReply(bytes),
        repeat: (bytes) => this.#repeat(bytes, this.targetPort),
        dropsReply: () => this.#repliesToDrop > 0 && this.#repliesToDrop-- > 0,
        closed: () => this.#links.delete(link),
      },
    );
    this.#links.add(link);
  }

  #repeat(bytes: Buffer, targetPort: number): void {
    const timer = setTimeout(() => {
      this.#repeats.delete(cancel);
      const socket = connect({ port: targetPort, host: '127.0.0.1' }, () => socket.write(bytes));
      const cut = () => socket.destroy();
      this.#repeats.add(cut);
      socket.on('error', () => {});
      socket.on('data', cut);
      socket.on('close', () => this.#repeats.delete(cut));
    }, this.repeatAfter);
    const cancel = () => clearTimeout(timer);
    this.#repeats.add(cancel);
  }
}

/**
 * Ends a connection by a reset. One that is being shut down, or fails while it's reset, must only be destroyed: Node
 * 20 then neither resets nor closes its handle, and spins forever when the process ends.
 */
function reset(socket: Socket): void {
  if (socket.writableEnded || socket.destroyed) {
    socket.destroy();
    return;
  }
  // Not read any more, so that no error from there comes in between.
  socket.pause();
  socket.resetAndDestroy();
}

/** What a link asks its proxy, at the moment when it matters. */
interface Rules {
  delay(direction: Direction): number;
  isHeld(direction: Direction): boolean;
  judge(bytes: Buffer): Verdict;
  judgeReply(bytes: Buffer): ReplyVerdict;
  repeat(bytes: Buffer): void;
  dropsReply(): boolean;
  closed(): void;
}

/** One client's connection and the connection to the server that stands for it: they live and die together. */
class Link {
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #rules: Rules;
  readonly #lanes: Record<Direction, Lane>;
  #cutsOnReply = false;
  #closed = false;

  constructor(client: Socket, server: Socket, rules: Rules) {
    this.#client = client;
    this.#server = server;
    this.#rules = rules;
    this.#lanes = { up: new Lane(server), down: new Lane(client) };
    client.setNoDelay(true);
    server.setNoDelay(true);
    client.on('data', (bytes) => this.#onRequest(bytes as Buffer));
    server.on('data', (bytes) => this.#onReply(bytes as Buffer));
    for (const socket of [client, server]) {
      socket.on('error', () => this.cut());
      socket.on('close', () => this.cut());
    }
    // A half-close is passed on behind what is still on its way: QUIT's reply must arrive before the end.
    client.on('end', () => this.#forward('up', () => server.end()));
    server.on('end', () => this.#forward('down', () => client.end()));
  }

  cut(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const lane of Object.values(this.#lanes)) lane.close();
    for (const socket of [this.#client, this.#server]) reset(socket);
    this.#rules.closed();
  }

  hold(direction: Direction): void {
    this.#lanes[direction].hold();
  }

  release(direction: Direction): void {
    this.#lanes[direction].release();
  }

  #onRequest(bytes: Buffer): void {
    const verdict = this.#rules.judge(bytes);
    if (verdict === 'cut') return this.cut();
    if (verdict === 'hold') this.#lanes.up.hold();
    this.#forward('up', () => {
      // Marked when the request leaves, not when it came: an earlier reply on its way isn't the answer to it.
      if (verdict === 'cut-after-reply') this.#cutsOnReply = true;
      this.#server.write(bytes);
      if (verdict === 'repeat') this.#rules.repeat(bytes);
    });
  }

  #onReply(bytes: Buffer): void {
    const verdict = this.#rules.judgeReply(bytes);
    if (verdict === 'cut' || this.#cutsOnReply || this.#rules.dropsReply()) return this.cut();
    if (verdict === 'swallow') return;
    if (verdict === 'hold') this.#lanes.down.hold();
    this.#forward('down', () => this.#client.write(bytes));
  }

  #forward(direction: Direction, send: () => void): void {
    const lane = this.#lanes[direction];
    if (this.#rules.isHeld(direction)) lane.hold();
    lane.push(send, this.#rules.delay(direction));
  }
}

/** The bytes on their way in one direction: strictly in order, each with its earliest time, or held. */
class Lane {
  readonly #destination: Socket;
  readonly #waiting: Array<{ send: () => void; due: number }> = [];
  #held = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(destination: Socket) {
    this.#destination = destination;
  }

  push(send: () => void, delay: number): void {
    this.#waiting.push({ send, due: performance.now() + delay });
    this.#drain();
  }

  hold(): void {
    this.#held = true;
  }

  release(): void {
    this.#held = false;
    this.#drain();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#waiting.length = 0;
  }

  #drain(): void {
    clearTimeout(this.#timer);
    for (;;) {
      const next = this.#waiting[0];
      if (this.#held || next === undefined || this.#destination.destroyed) return;
      const left = next.due - performance.now();
      if (left > 0) {
        this.#timer = setTimeout(() => this.#drain(), Math.ceil(left));
        return;
      }
      this.#waiting.shift();
      next.send();
    }
  }
}
