/**
 * Sets this process's clock back by CLOCK_BEHIND_MS, as if its machine's were wrong: `node --import ./clock-behind.mjs`.
 * Whatever strikes at a time of day then strikes so much later. Timers aren't touched: they count from now.
 */
const behind = Number(process.env.CLOCK_BEHIND_MS ?? 0);
const RealDate = Date;

globalThis.Date = class Date extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(Date.now());
    else super(...args);
  }

  static now() {
    return RealDate.now() - behind;
  }
};
