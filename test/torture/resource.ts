/** The resource that the locks protect, seen from outside its process: by who runs it, and by who writes to it. */
import { connect, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { spawnWorker, type TestWorker } from '../support/worker.js';

export interface Write {
  readonly key: string;
  /** The hold under which it's done. */
  readonly id: string;
  readonly fence: number | undefined;
}

export interface WriteCounts {
  readonly accepted: number;
  /** Those of the accepted that came after a write of a later hold. */
  readonly stale: number;
  readonly rejected: number;
}

export class Resource implements AsyncDisposable {
  private constructor(
    private readonly worker: TestWorker,
    readonly port: number,
  ) {}

  static async start(): Promise<Resource> {
    const worker = spawnWorker(new URL('./resource-process.ts', import.meta.url));
    const { port } = (await worker.next(() => true, 30_000)) as { port: number };
    return new Resource(worker, port);
  }

  async counts(): Promise<WriteCounts> {
    this.worker.send('counts');
    return (await this.worker.next()) as WriteCounts;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.worker.kill();
  }
}

/** A writer's connection to it. */
export class Writer {
  readonly #socket: Socket;
  readonly #waiting: ((accepted: boolean) => void)[] = [];

  constructor(port: number) {
    this.#socket = connect(port, '127.0.0.1');
    this.#socket.on('error', () => {});
    const lines = createInterface({ input: this.#socket });
    lines.on('error', () => {});
    lines.on('line', (line) => {
      this.#waiting.shift()?.(line === '1');
    });
  }

  write(write: Write): Promise<boolean> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#socket.write(`${JSON.stringify(write)}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}
