/**
 * The lines on which the promises stand (README, "What it promises"), each with the test that fails without it: run by
 * `npm run mutate`. `mutations.spec.ts` sees to it that each is still found where it's said to be.
 *
 * `find` occurs once in the file and is replaced; by nothing where `replace` is left out.
 */
import { inEngine } from './in-engine.mjs';
import { inQuorum } from './in-quorum.mjs';
import { inScripts } from './in-scripts.mjs';
import { inServers } from './in-servers.mjs';

export const mutations = [...inScripts, ...inEngine, ...inServers, ...inQuorum];

/** The file's text with the mutation in place. */
export function mutated({ name, file, find, replace = '' }, text) {
  const parts = text.split(find);
  if (parts.length !== 2) {
    throw new Error(
      `'${name}': found ${parts.length - 1} times in ${file}, instead of once: ${find}`,
    );
  }
  return parts.join(replace);
}
