//! Time as text and as a passed-in clock: Go durations, Kuma expirations, RFC 3339. Milliseconds since 1970 are the
//! one unit inside; nothing here knows what a moment is used for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_S: u64 = 86_400;

/// Where "now" comes from; tests pass their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    pub fn system() -> Self {
        Self::from_fn(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64))
    }

    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// A clock that stands still until its cell is moved.
    pub fn manual(start_ms: u64) -> (Self, Arc<AtomicU64>) {
        let cell = Arc::new(AtomicU64::new(start_ms));
        let read = cell.clone();
        (Self::from_fn(move || read.load(Ordering::Relaxed)), cell)
    }

    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock({})", self.now_ms())
    }
}

/// `1h2m3.5s`, `720h`, `0`: Go's durations, without the negative ones. The reasons read like Go's, since scripts see them.
pub fn parse_go_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() || rest.starts_with('-') {
        return Err(invalid());
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (amount, tail) = rest.split_at(number);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        if unit.is_empty() && !amount.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ if amount.is_empty() => return Err(invalid()),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        total_ns = total_ns.saturating_add(scaled(amount, unit_ns).ok_or_else(invalid)?);
        rest = next;
    }
    // Go holds a duration in an i64 of nanoseconds.
    u64::try_from(total_ns).ok().filter(|ns| *ns <= i64::MAX as u64).map(Duration::from_nanos).ok_or_else(invalid)
}

/// `12`, `3.5`, `.5` of a unit.
fn scaled(amount: &str, unit_ns: u128) -> Option<u128> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |s: &str| if s.is_empty() { Some(0) } else { s.parse::<u64>().ok().map(u128::from) };
    let fraction = fraction.get(..fraction.len().min(15))?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = digits(fraction)? * unit_ns / 10u128.pow(fraction.len() as u32);
    digits(whole)?.checked_mul(unit_ns)?.checked_add(part)
}

/// Kuma's expirations: one number and one unit of y, w, d, h, m, s, ms (`1d`, `10y`); `0` is none.
pub fn parse_expiration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (amount, unit) = text.split_at(end);
    let amount: u64 = amount.parse().ok()?;
    let unit_ms: u64 = match unit {
        "y" => 365 * DAY_S * 1000,
        "w" => 7 * DAY_S * 1000,
        "d" => DAY_S * 1000,
        "h" => 3_600_000,
        "m" => 60_000,
        "s" => 1000,
        "ms" => 1,
        _ => return None,
    };
    amount.checked_mul(unit_ms).map(Duration::from_millis)
}

/// RFC 3339 in UTC, with milliseconds only where there are any. 0 is the moment that means "never set".
pub fn to_rfc3339(ms: u64) -> String {
    if ms == 0 {
        return "0001-01-01T00:00:00Z".to_string();
    }
    let (seconds, rest_ms) = (ms / 1000, ms % 1000);
    let (year, month, day) = civil(seconds / DAY_S);
    let of_day = seconds % DAY_S;
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}");
    if rest_ms > 0 {
        text.push_str(format!(".{rest_ms:03}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Milliseconds since 1970; moments before count as 0.
pub fn from_rfc3339(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        text.get(from..to).filter(|s| s.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
    };
    let at = |i: usize| text.as_bytes().get(i).copied();
    let separated =
        at(4)? == b'-' && at(7)? == b'-' && matches!(at(10)?, b'T' | b't' | b' ') && at(13)? == b':' && at(16)? == b':';
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (h, m, s) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !separated || !(1..=12).contains(&month) || !(1..=31).contains(&day) || h > 23 || m > 59 || s > 60 {
        return None;
    }
    let mut tail = text.get(19..)?;
    let mut ms = 0;
    if let Some(after) = tail.strip_prefix('.') {
        let end = after.find(|c: char| !c.is_ascii_digit())?;
        let digits: String = after.get(..end)?.chars().chain("00".chars()).take(3).collect();
        ms = digits.parse::<i64>().ok()?;
        tail = after.get(end..)?;
    }
    let seconds = days(year as i64, month as i64, day as i64) * DAY_S as i64 + (h * 3600 + m * 60 + s) as i64;
    let total = (seconds - offset_s(tail)?) * 1000 + ms;
    Some(u64::try_from(total).unwrap_or(0))
}

/// `Z`, `+02:00`.
fn offset_s(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = match text.get(..1)? {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (h, m) = text.get(1..)?.split_once(':')?;
    let two = |s: &str| if s.len() == 2 { s.parse::<u8>().ok() } else { None };
    Some(sign * (i64::from(two(h)?) * 3600 + i64::from(two(m)?) * 60))
}

/// Day 0 is 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_add_their_parts_up() {
        for (text, ms) in [("1h2m3.5s", 3_723_500), ("720h", 2_592_000_000), ("0", 0), (".5s", 500), ("10ms", 10)] {
            assert_eq!(parse_go_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn days_and_bare_numbers_are_no_go_durations() {
        assert_eq!(parse_go_duration("1d").unwrap_err(), "time: unknown unit \"d\" in duration \"1d\"");
        assert_eq!(parse_go_duration("10").unwrap_err(), "time: missing unit in duration \"10\"");
        for text in ["", "-1s", "s", "1.2.3s", "9999999999999h", "abc"] {
            assert!(parse_go_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn expirations_are_one_number_and_one_unit() {
        assert_eq!(parse_expiration("1d"), Some(Duration::from_secs(DAY_S)));
        assert_eq!(parse_expiration("10y"), Some(Duration::from_secs(3650 * DAY_S)));
        assert_eq!(parse_expiration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_expiration("0"), Some(Duration::ZERO));
        for text in ["", "1d12h", "d", "1", "1.5d", "99999999999999999999y", "9999999999999999y"] {
            assert_eq!(parse_expiration(text), None, "{text}");
        }
    }

    #[test]
    fn moments_survive_rfc3339_and_back() {
        for (ms, text) in [
            (1_709_210_096_000, "2024-02-29T12:34:56Z"),
            (951_782_400_120, "2000-02-29T00:00:00.12Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(to_rfc3339(ms), text);
            assert_eq!(from_rfc3339(text), Some(ms), "{text}");
        }
        assert_eq!(to_rfc3339(0), "0001-01-01T00:00:00Z");
        assert_eq!(from_rfc3339("0001-01-01T00:00:00Z"), Some(0));
        assert_eq!(from_rfc3339("2024-02-29T14:34:56.5+02:00"), Some(1_709_210_096_500));
        for text in
            ["", "2024", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01T00:00:00.Ü", "é024-01-01T00:00:00Z"]
        {
            assert_eq!(from_rfc3339(text), None, "{text}");
        }
    }
}
