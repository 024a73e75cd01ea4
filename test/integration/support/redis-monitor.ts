/**
 * Redis' own stream of commands (MONITOR): all that the server does, in the one order in which it does it.
 *
 * A script's commands follow the client's command that ran it, and count as its client's.
 */
import { connect, type Socket } from 'node:net';

export interface MonitoredCommand {
  /** The client's address (`127.0.0.1:1234`); of a script's command, that of who ran the script. */
  readonly address: string;
  readonly ofScript: boolean;
  /** As shown: see {@link words}. */
  readonly text: string;
}

const LINE = /^\+?[\d.]+ \[\d+ ([^\]]+)\] (.*)$/;

export class RedisMonitor {
  readonly #socket: Socket;
  readonly #onCommand: (command: MonitoredCommand) => void;
  #address = '';
  #rest = '';
  /** What it failed with, or what `onCommand` threw first. */
  error: unknown;

  private constructor(socket: Socket, onCommand: (command: MonitoredCommand) => void) {
    this.#socket = socket;
    this.#onCommand = onCommand;
    socket.setEncoding('latin1');
    socket.on('error', (error) => (this.error ??= error));
    socket.on('data', (text: string) => this.#read(text));
  }

  static async start(
    port: number,
    onCommand: (command: MonitoredCommand) => void,
  ): Promise<RedisMonitor> {
    const socket = connect(port, '127.0.0.1');
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      socket.once('data', () => resolve());
      socket.write('MONITOR\r\n');
    });
    return new RedisMonitor(socket, onCommand);
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(text: string): void {
    const lines = (this.#rest + text).split('\r\n');
    this.#rest = lines.pop() ?? '';
    try {
      for (const line of lines) this.#onLine(line);
    } catch (error) {
      this.error ??= error;
    }
  }

  #onLine(line: string): void {
    const [, source = '', text = ''] = LINE.exec(line) ?? [];
    const ofScript = source === 'lua';
    if (!ofScript) this.#address = source;
    this.#onCommand({ address: this.#address, ofScript, text });
  }
}

/** The words of a command as MONITOR shows it: each quoted, with backslashes before quotes. */
export function words(command: string): string[] {
  return [...command.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map(([, word = '']) =>
    word.replaceAll(/\\(.)/g, '$1'),
  );
}
