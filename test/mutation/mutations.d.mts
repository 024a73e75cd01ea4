export interface Mutation {
  readonly name: string;
  readonly file: string;
  readonly find: string;
  readonly replace?: string;
  /** The test that is meant to see it: its file, and a part of its full name. */
  readonly test: { readonly spec: string; readonly name: string };
}

export const mutations: readonly Mutation[];

export function mutated(mutation: Mutation, text: string): string;
