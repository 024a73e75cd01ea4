/**
 * Sources import each other as `./x.js`, the name that the built file will have. This resolver finds `./x.ts` for it.
 * A `moduleNameMapper` would do so for packages in node_modules as well, and send their own `./x.js` astray.
 */
const { existsSync } = require('node:fs');
const { resolve, sep } = require('node:path');

const inNodeModules = `${sep}node_modules${sep}`;

module.exports = {
  sync(request, options) {
    if (/^\.{1,2}\/.*\.js$/.test(request) && !`${options.basedir}${sep}`.includes(inNodeModules)) {
      const source = resolve(options.basedir, request.replace(/\.js$/, '.ts'));
      if (existsSync(source)) return source;
    }
    return options.defaultResolver(request, options);
  },
};
