import { AsyncResource } from 'node:async_hooks';
import { finished, Readable, type Writable } from 'node:stream';

import { StreamableFile } from '@nestjs/common';

import { LockError, LockLostError } from '../core/errors.js';
import type { Lock } from '../core/lock.js';

/**
 * A result that goes on after the method has returned it, and the lock with it.
 *
 *     handed over ──first read──▶ flowing ──end, error, consumer gone──▶ ended
 *         │                          └────────lock lost───────────────▶ ended; it fails with LockLostError
 *         └──not read within a ttl──▶ ended; a later read fails with LockLostError
 *
 * The last one, because a result that was dropped would else hold the lock, renewed again and again, for ever.
 */
export interface HeldBody {
  /** What the caller gets in the result's place. */
  readonly value: unknown;
  /** Resolves at its end. Never rejects: the error is for whoever reads it. */
  readonly ended: Promise<void>;
}

/**
 * Holds the result of any method, if it's one that goes on for sure: a `StreamableFile`, or an async generator, of
 * which nothing has run yet. `response`: where it's sent to, if that's known; a client that leaves ends it.
 */
export function holdResult(value: unknown, lock: Lock, response?: Writable): HeldBody | undefined {
  if (value instanceof StreamableFile) {
    failVisibly(value);
    return { value, ended: untilFinished(value.getStream(), lock, response) };
  }
  if (Object.prototype.toString.call(value) === '[object AsyncGenerator]') {
    const { iterable, ended } = holdIterable(value as AsyncGenerator, lock);
    return { value: iterable, ended };
  }
  return undefined;
}

/**
 * Holds what a handler answers with: also a Node stream, a web `ReadableStream` or a `Response`, which Nest sends as
 * they are. Elsewhere, these may be a mere result (of a `fetch`, say) whose body nobody reads.
 */
export function holdAnswer(value: unknown, lock: Lock, response?: Writable): HeldBody | undefined {
  if (value instanceof Readable) return { value, ended: untilFinished(value, lock, response) };
  if (value instanceof ReadableStream) {
    const { iterable, ended } = holdIterable(value, lock);
    return { value: ReadableStream.from(iterable), ended };
  }
  if (value instanceof Response && value.body !== null && !value.bodyUsed) {
    const { iterable, ended } = holdIterable(value.body, lock);
    const { status, statusText, headers } = value;
    return {
      value: new Response(ReadableStream.from(iterable), { status, statusText, headers }),
      ended,
    };
  }
  return holdResult(value, lock, response);
}

/**
 * Frees a lock whose result nobody began to read within a ttl. Returns what calls it off when somebody does; it looks whether
 * the lock is held still, since after a blocked event loop a reader may come before the timers that would have said so.
 */
export function whenUnread(lock: Lock, release: (error: LockLostError) => void): () => void {
  const timer = setTimeout(() => release(LockLostError.afterRelease(lock)), lock.remaining);
  timer.unref();
  return () => {
    clearTimeout(timer);
    // To look at it is what makes its signal abort.
    void lock.isHeld;
  };
}

function untilFinished(
  stream: Readable,
  lock: Lock,
  response: Writable | undefined,
): Promise<void> {
  return new Promise((resolve) => {
    const { signal } = lock;
    const lost = () => stream.destroy(signal.reason as Error);
    // `pipe` leaves its source open when the destination closes.
    const left = () => stream.destroy();
    const read = whenUnread(lock, (error) => {
      if (!stream.readableDidRead) stream.destroy(error);
    });
    // It also keeps listening for errors, so that one that comes where nobody listens doesn't end the process.
    finished(stream, () => {
      read();
      signal.removeEventListener('abort', lost);
      response?.removeListener('close', left);
      resolve();
    });
    signal.addEventListener('abort', lost, { once: true });
    response?.once('close', left);
    if (signal.aborted) lost();
    else if (response?.closed === true) left();
  });
}

/** A file that is cut short because its lock was lost must not look complete, which Nest's own handler leaves it to. */
function failVisibly(file: StreamableFile): void {
  const handleError = file.errorHandler;
  file.setErrorHandler((error, response) => {
    if (!LockError.is(error) || response.destroyed) {
      handleError(error, response);
    } else if (response.headersSent) {
      (response as unknown as Writable).destroy();
    } else {
      response.statusCode = 500;
      response.send('Internal server error');
    }
  });
}

function holdIterable<T>(
  source: AsyncIterable<T>,
  lock: Lock,
): { readonly iterable: AsyncGenerator<T>; readonly ended: Promise<void> } {
  // Its steps are the guarded work, whoever asks for them: they run as if called by the method.
  const asWork = AsyncResource.bind(<R>(step: () => R): R => step());
  const { signal } = lock;
  let end!: () => void;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  let unread: LockLostError | undefined;
  const read = whenUnread(lock, (error) => {
    unread = error;
    end();
  });
  signal.addEventListener('abort', end, { once: true });

  async function* held(): AsyncGenerator<T> {
    read();
    if (unread !== undefined) throw unread;
    signal.throwIfAborted();
    const iterator = source[Symbol.asyncIterator]();
    let done = false;
    try {
      for (;;) {
        const step = await asWork(() => iterator.next());
        done = step.done === true;
        signal.throwIfAborted();
        if (step.done) return step.value;
        yield step.value;
      }
    } catch (error) {
      done ||= !signal.aborted;
      throw error;
    } finally {
      if (!done) await asWork(() => iterator.return?.());
      signal.removeEventListener('abort', end);
      end();
    }
  }
  return { iterable: held(), ended };
}
