/**
 * Who is to be told when a signal aborts: many callers, one listener. A program that passes one signal to all of its
 * calls (a shutdown's, say) would else be warned of a leak by Node, at the eleventh.
 */
const watchers = new WeakMap<AbortSignal, Set<() => void>>();

/** Calls back once when the signal aborts; returns what calls it off. The listener goes with the last who is to be told. */
export function watchAbort(signal: AbortSignal, callback: () => void): () => void {
  let told = watchers.get(signal);
  if (told === undefined) {
    told = new Set();
    watchers.set(signal, told);
  }
  const callbacks = told;
  // One of its own for each call, so that the same function may be given twice.
  const entry = () => callback();
  if (callbacks.size === 0) signal.addEventListener('abort', tellAll, { once: true });
  callbacks.add(entry);
  return () => {
    if (callbacks.delete(entry) && callbacks.size === 0) {
      signal.removeEventListener('abort', tellAll);
    }
  };
}

function tellAll(this: AbortSignal): void {
  const callbacks = watchers.get(this);
  watchers.delete(this);
  for (const callback of callbacks ?? []) callback();
}
