/**
 * Waits for a condition instead of for a length of time. A test says what must become true and how long that may take
 * at most, so it's as fast as the code and fails with what it saw last.
 */
export interface EventuallyOptions {
  /** How long the condition may take, in ms. @default 5000 */
  timeout?: number;
  /** The pause between two looks, in ms. @default 10 */
  interval?: number;
  /** What was waited for; it opens the error's message. */
  message?: string;
}

/** Resolves with the first truthy value of `look`; rejects with its last value or error when time is up. */
export async function eventually<T>(
  look: () => T | Promise<T>,
  { timeout = 5_000, interval = 10, message = 'condition' }: EventuallyOptions = {},
): Promise<NonNullable<T>> {
  const end = performance.now() + timeout;
  for (;;) {
    let seen: string;
    let cause: unknown;
    try {
      const value = await beforeEnd(look, end);
      if (value) return value as NonNullable<T>;
      seen = `last value: ${show(value)}`;
    } catch (error) {
      cause = error;
      seen = `last error: ${error instanceof Error ? error.message : show(error)}`;
    }
    if (performance.now() + interval > end) {
      throw new Error(`${message}: not within ${timeout} ms; ${seen}`, { cause });
    }
    await new Promise((resolve) => setTimeout(resolve, interval));
  }
}

/** A look that hangs must not outlast the bound. */
async function beforeEnd<T>(look: () => T | Promise<T>, end: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      (async () => look())(),
      new Promise<never>((_resolve, reject) => {
        const left = Math.max(0, end - performance.now());
        timer = setTimeout(() => reject(new Error('the look itself did not answer')), left);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value);
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    return String(value);
  }
}
