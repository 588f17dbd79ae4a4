//! What a pipeline's options say about how its result is kept.

use datafusion::arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use tidemill_core::{SqlState, Ttl};

use crate::Error;

/// Options begin with this.
const TTL: &str = "ttl";

/// A positive length of time of weeks or less, in microseconds.
pub fn micros_of(text: &str) -> Option<i64> {
    let interval = parse_interval_month_day_nano(text).ok()?;
    let micros =
        i64::from(interval.days).checked_mul(86_400_000_000)?.checked_add(interval.nanoseconds / 1000)?;
    (interval.months == 0 && micros > 0).then_some(micros)
}

/// Whether an option is one of those that [`ttl`] reads.
pub fn is_ttl(key: &str) -> bool {
    key == TTL || key.strip_prefix(TTL).is_some_and(|rest| rest.starts_with('.'))
}

/// `ttl = '1 day'` for all relations of the query, `ttl.orders = '7 days'` for one, and `'none'` for never.
pub fn ttl<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Ttl, Error> {
    let mut ttl = Ttl::default();
    for (key, value) in options {
        if !is_ttl(key) {
            continue;
        }
        let length = match value.eq_ignore_ascii_case("none") {
            true => None,
            false => Some(micros_of(value).ok_or_else(|| {
                let message = format!("\"{value}\" is not a length of time for the option \"{key}\"");
                Error::new(SqlState::INVALID_PARAMETER, message).with_hint(
                    "Write a positive length of weeks, days or less, such as '1 day' or '90 minutes', or 'none'.",
                )
            })?),
        };
        match key.strip_prefix("ttl.") {
            Some(relation) => {
                ttl.by_relation.insert(relation.to_owned(), length);
            }
            None => ttl.default = length,
        }
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_positive_and_have_no_months() {
        assert_eq!(micros_of("1 day 2 hours"), Some(26 * 3_600_000_000));
        assert_eq!(micros_of("500 milliseconds"), Some(500_000));
        for text in ["1 month", "0 seconds", "-1 day", "", "soon"] {
            assert_eq!(micros_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_relation_can_have_a_ttl_of_its_own() {
        let options = [("ttl", "1 hour"), ("ttl.rates", "none"), ("ttl.o", "2 days"), ("other", "x")];
        let read = ttl(options).unwrap();
        assert_eq!(read.default, Some(3_600_000_000));
        assert_eq!(read.by_relation["rates"], None);
        assert_eq!(read.by_relation["o"], Some(172_800_000_000));
        assert!(ttl([("ttl", "1 year")]).is_err());
    }
}
