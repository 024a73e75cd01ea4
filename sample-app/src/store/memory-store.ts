import { setImmediate as nextTurn } from 'node:timers/promises';

import { Injectable } from '@nestjs/common';

import { type FencedRecord, LONGEST_LIST, Store } from './store.js';

/** What the replicas of one process share, as Redis is what several processes share. */
const values = new Map<string, string>();
const lists = new Map<string, string[]>();
const fenced = new Map<string, FencedRecord>();

/** Records in this process's memory. Every step takes a turn of the event loop, as it would over a network. */
@Injectable()
export class MemoryStore extends Store {
  async read(name: string): Promise<string | undefined> {
    await nextTurn();
    return values.get(name);
  }

  async write(name: string, value: string): Promise<void> {
    await nextTurn();
    values.set(name, value);
  }

  async remove(name: string): Promise<void> {
    await nextTurn();
    for (const kind of [values, lists, fenced]) kind.delete(name);
  }

  async append(name: string, entry: string): Promise<void> {
    await nextTurn();
    const list = lists.get(name) ?? [];
    lists.set(name, list);
    if (list.push(entry) > LONGEST_LIST) list.shift();
  }

  async entries(name: string): Promise<string[]> {
    await nextTurn();
    return [...(lists.get(name) ?? [])];
  }

  async readFenced(name: string): Promise<FencedRecord | undefined> {
    await nextTurn();
    return fenced.get(name);
  }

  async writeFenced(name: string, record: FencedRecord): Promise<boolean> {
    await nextTurn();
    const last = fenced.get(name);
    if (last !== undefined && last.fence > record.fence) return false;
    fenced.set(name, record);
    return true;
  }
}
