/**
 * Ends a child process when this process is gone, in whatever way it went: done, crashed, or killed with SIGKILL.
 *
 * An exit handler can't promise that: nothing runs after SIGKILL, and under jest `process` is a copy, on which no
 * 'exit' is ever emitted. So a shell waits at the far end of a pipe. The pipe closes with us, and then the shell kills
 * the child by pid, with SIGKILL, which a paused process obeys as well.
 */
import { type ChildProcess, spawn } from 'node:child_process';

const SCRIPT = 'read -r _; kill -KILL "$0" 2>/dev/null; [ -z "$1" ] || rm -rf "$1"';

export class Watchdog {
  readonly #shell: ChildProcess;

  /** Watches over `pid`. `dir`, if given, is a temporary folder that goes with it. */
  constructor(pid: number, dir = '') {
    this.#shell = spawn('/bin/sh', ['-c', SCRIPT, String(pid), dir], {
      stdio: ['pipe', 'ignore', 'ignore'],
      // Ctrl-C goes to the whole group of the terminal; the watchdog must survive it.
      detached: true,
    });
    // It waits for us to end; we mustn't wait for it.
    this.#shell.unref();
    (this.#shell.stdin as unknown as { unref(): void }).unref();
  }

  /** To be called once the child has ended by itself: its pid may soon be another's. */
  dismiss(): void {
    this.#shell.kill('SIGKILL');
  }
}
