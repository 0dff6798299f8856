// Latent vectors: drawn from a seed, moved along directions, and on the way from one to another.

/** A function that gives uniform numbers in [0, 1), the same ones for the same seed (mulberry32). */
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let bits = Math.imul(state ^ (state >>> 15), state | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` latents: standard normal (Box and Muller, 1958), or uniform in [-1, 1). */
export function latents(seed, count, size, distribution) {
  const uniform = uniforms(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const number = distribution === "uniform" ? () => 2 * uniform() - 1 : normal;
  return Array.from({ length: count }, () => Float32Array.from({ length: size }, number));
}

/** z + Σ steps[i]·directions[i], kept where latents are drawn from. */
export function moved(z, steps, directions, distribution) {
  const limit = distribution === "uniform" ? 1 : Infinity;
  return z.map((value, place) => {
    const sum = directions.reduce((sum, direction, i) => sum + steps[i] * direction[place], value);
    return Math.min(limit, Math.max(-limit, sum));
  });
}

/**
 * The latent at share t of the way from a to b, along the arc between them; its length goes evenly from |a| to |b|.
 * A straight line would pass near 0, where a generator has hardly seen a latent.
 */
export function slerp(a, b, t) {
  if (t === 0 || t === 1) return t ? b : a; // the ends themselves, not rounded
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const lengths = [Math.sqrt(dot(a, a)), Math.sqrt(dot(b, b))];
  const along = dot(a, b) / (lengths[0] * lengths[1]);
  const angle = Math.acos(Math.min(1, Math.max(-1, along)));
  const sine = Math.sin(angle);
  if (!(sine > 1e-4)) return a.map((value, i) => (1 - t) * value + t * b[i]); // no arc, or more than one
  const length = (1 - t) * lengths[0] + t * lengths[1];
  const share = [Math.sin((1 - t) * angle) / sine / lengths[0], Math.sin(t * angle) / sine / lengths[1]];
  return a.map((value, i) => length * (share[0] * value + share[1] * b[i]));
}
