/** How many slots a Cluster divides its keys among. */
export const HASH_SLOTS = 16_384;

/**
 * The slot of a key in a Cluster: of what is between its first braces, where that's something, or of the whole key.
 * @see https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ (key distribution model, hash tags)
 */
export function hashSlotOf(key: string): number {
  const start = key.indexOf('{');
  const end = start < 0 ? -1 : key.indexOf('}', start + 1);
  const hashed = end > start + 1 ? key.slice(start + 1, end) : key;
  return crc16(Buffer.from(hashed)) % HASH_SLOTS;
}

const tags: string[] = [];
let tried = 0;

/** A text that's in a slot: the same in every process. Found by trying short ones, as far as they're needed. */
export function tagOfSlot(slot: number): string {
  for (; tags[slot] === undefined; tried += 1) {
    const tag = tried.toString(36);
    tags[hashSlotOf(tag)] ??= tag;
  }
  return tags[slot];
}

/** CRC-16/XMODEM, as the specification of the Cluster demands. */
function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) crc = ((crc << 8) ^ (TABLE[((crc >> 8) ^ byte) & 0xff] ?? 0)) & 0xffff;
  return crc;
}

const POLYNOMIAL = 0x1021;
const TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x8000 ? (crc << 1) ^ POLYNOMIAL : crc << 1;
  return crc;
});
