/**
 * How TypeScript is compiled where speed counts and types are checked elsewhere: by jest and by `register-ts.mjs`.
 * It has to agree with tsconfig.json in all that changes behaviour: decorators, metadata, class fields, target.
 */
export const swcOptions = {
  swcrc: false,
  jsc: {
    target: 'es2023',
    parser: { syntax: 'typescript', decorators: true },
    transform: {
      legacyDecorator: true,
      decoratorMetadata: true,
      useDefineForClassFields: true,
      verbatimModuleSyntax: true,
    },
    keepClassNames: true,
  },
};
