// How numbers are written: three significant digits, thin blanks in thousands (as in pages.py).
const THIN = "\u202f";

export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const power = Math.floor(Math.log10(Math.abs(Number(value.toPrecision(digits)))));
  if (power <= -4 || power >= 9) return value.toExponential(digits - 1).replace("+", "");
  const decimals = Math.max(0, digits - 1 - power);
  const [whole, rest] = Number(value.toPrecision(digits)).toFixed(decimals).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, THIN) + (rest ? `.${rest}` : "");
}

export function count(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN);
}

export function density(value) {
  if (value === 0) return "never";
  return value >= 1e-4 ? `${number(100 * value)}${THIN}%` : `1 in ${number(1 / value)} tokens`;
}

export function percent(share) {
  return `${number(100 * share)}${THIN}%`;
}

// A tick's value, without the zeros that a measurement would keep.
export function tick(value) {
  const shown = number(value);
  return /[.][0-9]*$/.test(shown) ? shown.replace(/[.]?0+$/, "") : shown;
}

// A tick of a density axis, whose places are exponents of ten.
export function densityTick(exponent) {
  return `${number(100 * 10 ** exponent, 1)}${THIN}%`;
}
