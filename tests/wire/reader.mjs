// A second reader of frames, written from docs/reference/frames.md alone.
// stdin: the test vectors. stdout: for each, the SHA-256 of what it decodes to.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { crc32 } from "./crc32.mjs";
import { decompress } from "./vendor/fzstd-0.1.1.mjs";

const NUMBERS = [0, 1, -1, 2, -2, 3, -3, 0];
const SIZES = [0, 1, 1, 2, 2, 2, 2, 2];

function expect(condition, text) {
  if (!condition) throw new Error(text);
}

function unsqueeze(section, size) {
  if (size === 0) return new Uint8Array(0);
  const bytes = decompress(section);
  expect(bytes.length === size, `expected ${size} bytes, got ${bytes.length}`);
  return bytes;
}

function container(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  expect(new TextDecoder().decode(bytes.subarray(0, 7)) === "HANDCAR" && bytes[7] === 1, "magic");
  const length = view.getUint32(8, true);
  const text = bytes.subarray(16, 16 + length);
  expect(crc32(text) === view.getUint32(12, true), "the header's checksum");
  const header = JSON.parse(new TextDecoder().decode(text));
  let at = 16 + length;
  const sections = header.sections.map(([size, checksum]) => {
    const section = bytes.subarray(at, (at += size));
    expect(section.length === size && crc32(section) === checksum, "a section's checksum");
    return section;
  });
  expect(at === bytes.length, "bytes after the last section");
  return { header, sections };
}

function planes(section, size) {
  const bytes = unsqueeze(section, size * 4);
  const numbers = new Float32Array(size);
  const raw = new Uint8Array(numbers.buffer);
  for (let plane = 0; plane < 4; plane++)
    for (let n = 0; n < size; n++) raw[4 * n + plane] = bytes[plane * size + n];
  return numbers;
}

function bf16(section, size) {
  const bytes = unsqueeze(section, size * 2);
  const bits = new Uint32Array(size);
  for (let n = 0; n < size; n++) {
    const turned = bytes[n] | (bytes[size + n] << 8);
    bits[n] = ((turned >>> 1) | ((turned & 1) << 15)) << 16;
  }
  return new Float32Array(bits.buffer);
}

function packed(sections, size) {
  const quads = unsqueeze(sections[0], Math.ceil(size / 4));
  const codes = Array.from({ length: size }, (_, n) => (quads[n >> 2] >> (2 * (n & 3))) & 3);
  const escapes = new Int8Array(unsqueeze(sections[1], codes.filter((c) => c === 3).length));
  let escape = 0;
  return codes.map((code) => (code === 3 ? escapes[escape++] : [0, 1, -1][code]));
}

function contexts(levels, shapes) {
  const found = [];
  let at = 0;
  for (const [rows, columns] of shapes) {
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        const [a, b] = [levels[at + row], levels[at + rows + column]];
        found.push(a && b ? Math.min(40, Math.max(1, a + b - 20)) : 0);
      }
    at += rows + columns;
  }
  return found;
}

function symbols(live, table, states, words) {
  const lanes = states.length;
  const steps = Math.ceil(live.length / lanes);
  const out = new Uint8Array(lanes * steps);
  let word = 0;
  for (let step = 0; step < steps; step++) {
    for (let lane = 0; lane < lanes; lane++) {
      const at = lane * steps + step;
      const before = step ? SIZES[out[at - 1]] : 0;
      const first = 8 * (3 * (live[at] ?? 0) + before);
      const slot = states[lane] % 4096;
      let [symbol, start] = [0, 0];
      while (symbol < 7 && slot >= start + table[first + symbol]) start += table[first + symbol++];
      out[at] = symbol;
      states[lane] = table[first + symbol] * Math.floor(states[lane] / 4096) + slot - start;
    }
    for (let lane = 0; lane < lanes; lane++)
      if (states[lane] < 65536) states[lane] = states[lane] * 65536 + words[word++];
  }
  expect(word === words.length && states.every((state) => state === 65536), "the last states");
  return out.subarray(0, live.length);
}

function context(sections, size, shapes) {
  const sum = shapes.reduce((total, [rows, columns]) => total + rows + columns, 0);
  const all = contexts(unsqueeze(sections[0], sum), shapes);
  const live = all.filter((one) => one > 0);
  const table = new Uint16Array(new Uint8Array(unsqueeze(sections[1], 41 * 3 * 8 * 2)).buffer);
  const lanes = Math.max(1, Math.min(16384, Math.floor(live.length / 2048)));
  const states = Array.from(new Uint32Array(new Uint8Array(sections[2]).buffer));
  expect(states.length === lanes, "lanes");
  const read = symbols(live, table, states, new Uint16Array(new Uint8Array(sections[3]).buffer));
  const escapes = new Int8Array(unsqueeze(sections[4], read.filter((s) => s === 7).length));
  let [next, escape] = [0, 0];
  return all.map((one) => {
    if (!one) return 0;
    const symbol = read[next++];
    return symbol === 7 ? escapes[escape++] : NUMBERS[symbol];
  });
}

const product = (shape) => shape.reduce((total, one) => total * one, 1);
const matrix = ({ shape }) =>
  shape.length < 2 ? [product(shape), 1] : [product(shape.slice(0, -1)), shape.at(-1)];

function difference({ header, sections }, tensors) {
  const trainable = tensors.filter((tensor) => !tensor.statistic);
  const statistic = tensors.filter((tensor) => tensor.statistic);
  const size = (list) => list.reduce((total, { shape }) => total + product(shape), 0);
  const shapes = trainable.map((tensor) => matrix(tensor).reverse());
  const numbers =
    header.entropy === "packed"
      ? packed(sections, size(trainable))
      : context(sections, size(trainable), shapes);
  const statistics = planes(sections.at(-1), size(statistic));
  const change = new Float32Array(size(tensors));
  let [at, number, value, scale] = [0, 0, 0, 0];
  for (const tensor of tensors) {
    const count = product(tensor.shape);
    if (tensor.statistic) {
      change.set(statistics.subarray(value, (value += count)), at);
    } else {
      const [inputs, units] = matrix(tensor);
      const step = Math.fround(header.scales[scale++]);
      for (let unit = 0; unit < units; unit++)
        for (let input = 0; input < inputs; input++)
          change[at + input * units + unit] = numbers[number++] * step;
    }
    at += count;
  }
  return change;
}

function follow(header, change, base, tensors) {
  const weights = new Float32Array(change.length);
  let at = 0;
  for (const { shape, statistic } of tensors)
    for (const end = at + product(shape); at < end; at++)
      weights[at] = statistic ? change[at] : base[at] + change[at];
  if (!header.rounded) return weights;
  const bits = new Uint32Array(weights.buffer);
  return new Float32Array(
    bits.map((one) => (one + 0x7fff + ((one >>> 16) & 1)) & 0xffff0000).buffer,
  );
}

function decode({ frame, tensors, base }) {
  const found = container(Buffer.from(frame, "base64"));
  const { header, sections } = found;
  const size = tensors.reduce((total, { shape }) => total + product(shape), 0);
  if (header.kind === "keyframe") return (header.codec === "bf16" ? bf16 : planes)(sections[0], size);
  const change = difference(found, tensors);
  if (header.kind === "update") return change;
  const bytes = Buffer.from(base, "base64");
  const weights = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + 4 * size));
  return follow(header, change, weights, tensors);
}

const vectors = JSON.parse(readFileSync(0, "utf8"));
for (const vector of vectors) {
  const bytes = Buffer.from(decode(vector).buffer);
  console.log(createHash("sha256").update(bytes).digest("hex"));
}
