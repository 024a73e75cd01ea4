import type { NestApplication } from '../nest-application.js';
import type { Adapter } from './adapter.js';
import { FunctionLocks } from './function-locks.js';

class DecoratedLocks extends FunctionLocks {
  readonly #application: NestApplication;

  constructor(application: NestApplication) {
    super();
    this.#application = application;
  }

  protected under(key: string, work: () => void | Promise<void>): Promise<void> {
    return this.#application.guarded.run(key, work);
  }

  close(): Promise<void> {
    return this.#application.close();
  }
}

export const oursDecorator: Adapter = {
  id: 'ours-decorator',
  title: 'ours, @DistributedLock',
  settings: 'the decorator on a method of a Nest service, all defaults',
  lacks: { handles: 'it only runs methods' },
  async open(options) {
    // Only here, so that the other libraries' processes don't load Nest.
    const { NestApplication } = await import('../nest-application.js');
    return new DecoratedLocks(await NestApplication.open(options));
  },
};
