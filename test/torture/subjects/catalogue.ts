import { bare } from './bare.js';
import { brokenSubjects } from './broken.js';
import { ours, oursGuarded } from './ours.js';
import { redisSemaphore } from './redis-semaphore.js';
import { redlock } from './redlock.js';
import type { Subject } from './subject.js';

/** Everybody under torture, in the order of the tables. */
export const subjects: readonly Subject[] = [ours, oursGuarded, bare, redisSemaphore, redlock];

/** Also those that are under torture in tests only. */
export function subjectOf(id: string): Subject {
  const found = [...subjects, ...brokenSubjects].find((subject) => subject.id === id);
  if (found === undefined) throw new Error(`There is no subject ${id}.`);
  return found;
}
