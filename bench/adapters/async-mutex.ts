import type { Adapter, LockClient } from './adapter.js';
import { rival } from './rival.js';

type Releaser = () => void;

interface AsyncMutex {
  readonly Mutex: new () => { acquire(): Promise<Releaser> };
}

class Mutexes implements LockClient<Releaser> {
  readonly #Mutex = rival<AsyncMutex>('async-mutex').Mutex;
  readonly #byKey = new Map<string, InstanceType<AsyncMutex['Mutex']>>();

  acquire(key: string): Promise<Releaser> {
    let mutex = this.#byKey.get(key);
    if (mutex === undefined) this.#byKey.set(key, (mutex = new this.#Mutex()));
    return mutex.acquire();
  }

  async release(held: Releaser): Promise<void> {
    held();
  }

  async close(): Promise<void> {}
}

/** The limit inside a process: no Redis at all. */
export const asyncMutex: Adapter = {
  id: 'async-mutex',
  title: 'async-mutex',
  settings: 'one mutex a key, in this process alone',
  lacks: { processes: 'it excludes in its own process alone', renewal: 'nothing expires' },
  async open() {
    return new Mutexes();
  },
};
