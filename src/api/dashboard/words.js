// Numbers and times as people read them. Nothing here touches the page.

const MINUTE = 60, HOUR = 3600, DAY = 86400;

const pad = (number) => String(number).padStart(2, "0");

/// Epoch seconds as `2024-01-16 10:05`, UTC.
export function moment(epoch) {
  const at = new Date(epoch * 1000);
  return `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())} ${clock(epoch)}`;
}

/// Epoch seconds as `10:05`, UTC.
export function clock(epoch) {
  const at = new Date(epoch * 1000);
  return `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
}

/// Epoch seconds as `Tue 10:05`, UTC.
export function weekday(epoch) {
  return `${["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"][new Date(epoch * 1000).getUTCDay()]} ${clock(epoch)}`;
}

/// A length of time by its two largest units.
export function length(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min`;
  const [whole, part, unit, rest] = s < DAY ? [HOUR, MINUTE, "h", "min"] : [DAY, HOUR, "d", "h"];
  const left = Math.floor((s % whole) / part);
  return `${Math.floor(s / whole)} ${unit}${left ? ` ${left} ${rest}` : ""}`;
}

/// A stretch of time: the day is said once where it is the same.
export function stretch(from, to) {
  const same = moment(from).slice(0, 10) === moment(to).slice(0, 10);
  return `${moment(from)} to ${same ? clock(to) : moment(to)}`;
}

/// A whole number with its thousands apart.
export function counted(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en-GB")} ${number === 1 ? one : many}`;
}

/// Digits behind the point of a pair's prices.
export function decimals(pair) {
  return pair.endsWith("JPY") ? 3 : 5;
}

/// `EUR_USD` as `EUR/USD`; what concerns no pair alone concerns all.
export function pairName(pair) {
  return pair?.replace("_", "/") ?? "all pairs";
}

/// A word of the API's as people write it: `unconfirmed_close` as `unconfirmed close`.
export function spelled(word) {
  return String(word ?? "").replaceAll("_", " ");
}
