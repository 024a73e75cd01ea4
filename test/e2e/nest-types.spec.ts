/**
 * What the compiler says of @DistributedLock. The proof is `tsc -p test/tsconfig.json`: a `@ts-expect-error` without an
 * error below it is an error itself.
 */
import { describe, expect, it } from '@jest/globals';
import { expectTypeOf } from 'expect-type';

import {
  DistributedLock,
  type DistributedLockDecorator,
  type KeyFunctionMismatch,
  LockKey,
  type RedisLockService,
} from '../../lib/index.js';

interface Order {
  id: string;
  customer: { id: number };
}

class Methods {
  @DistributedLock((id: string) => `order:${id}`)
  async sameParameters(_id: string): Promise<void> {}

  @DistributedLock((id: string) => `order:${id}`)
  async fewerParameters(_id: string, _order: Order): Promise<void> {}

  @DistributedLock(() => 'order')
  async noParameters(_id: string): Promise<void> {}

  @DistributedLock((id: string | number) => `order:${id}`)
  async widerParameter(_id: string): Promise<void> {}

  @DistributedLock((...ids: string[]) => ids.join(':'))
  async restParameters(_a: string, _b: string): Promise<void> {}

  @DistributedLock((order: Pick<Order, 'id'>) => `order:${order.id}`)
  async partOfAnObject(_order: Order): Promise<void> {}

  @DistributedLock((id) => `order:${id}`)
  async withoutAnnotation(_id: string): Promise<void> {}

  @DistributedLock('order:{0}:{1.customer.id}')
  async template(_id: string, _order: Order): Promise<void> {}

  // @ts-expect-error the method is called with a number
  @DistributedLock((id: string) => `order:${id}`)
  async wrongParameter(_id: number): Promise<void> {}

  // @ts-expect-error the method may be called without an id
  @DistributedLock((id: string) => `order:${id}`)
  async optionalParameter(_id?: string): Promise<void> {}

  // @ts-expect-error the method has no second parameter
  @DistributedLock((id: string, order: Order) => `order:${id}:${order.id}`)
  async moreParameters(_id: string): Promise<void> {}

  // @ts-expect-error the order has no `number`
  @DistributedLock((order: { number: string }) => `order:${order.number}`)
  async wrongObject(_order: Order): Promise<void> {}
}

/** What the compiler refuses and, run by an untyped caller, fails as well; never called. */
function refused(locks: RedisLockService): void {
  // @ts-expect-error a key function gives a text
  DistributedLock((id: string) => id.length);
  // @ts-expect-error a list of keys is one of texts
  DistributedLock(['a', 7]);
  // @ts-expect-error no such option
  DistributedLock('key', { waitTime: 1 });
  // @ts-expect-error no such value
  DistributedLock('key', { onBusy: 'ignore' });
  // @ts-expect-error no such unit
  DistributedLock('key', { ttl: '3 fortnights' });
  // @ts-expect-error the key of a handler isn't made of its arguments
  LockKey((id: string) => id);
  // @ts-expect-error acquiring can't skip
  void locks.acquire('key', { onBusy: 'skip' });
}

describe('The types of the decorators', () => {
  it('name what is wrong with a key function', () => {
    type Descriptor = Parameters<DistributedLockDecorator<(id: string) => string>>[2];
    expectTypeOf<TypedPropertyDescriptor<(id: string) => void>>().toExtend<Descriptor>();
    expectTypeOf<
      keyof KeyFunctionMismatch<[number]>
    >().toEqualTypeOf<'the key function must accept the parameters of the method'>();
    expect([Methods, refused]).toHaveLength(2);
  });

  it('give `using` the result of its work, or undefined where it may skip', () => {
    type Using = RedisLockService['using'];
    const using = null as unknown as Using;
    expectTypeOf(() => using('key', () => 1)).returns.resolves.toEqualTypeOf<number>();
    expectTypeOf(() =>
      using('key', { onBusy: 'skip' }, async () => 1),
    ).returns.resolves.toEqualTypeOf<number | undefined>();
    expect(using).toBeNull();
  });
});
