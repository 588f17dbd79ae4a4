//! A number of bytes as people write it.

use std::fmt;
use std::str::FromStr;

/// `256MB`, `1.5 GiB`, `65536`.
///
/// Units are powers of 1024 whichever way they are written, as in PostgreSQL's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteSize, String> {
        let wrong = || format!("\"{text}\" is not a size such as 256MB, 1.5 GiB or 65536");
        let trimmed = text.trim();
        let end =
            trimmed.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '_')).unwrap_or(trimmed.len());
        let (digits, unit) = (trimmed[..end].replace('_', ""), trimmed[end..].trim());
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        if let Ok(number) = digits.parse::<u64>() {
            return number.checked_mul(1 << shift).map(ByteSize).ok_or_else(wrong);
        }
        let number = digits.parse::<f64>().map_err(|_| wrong())? * (1u64 << shift) as f64;
        match number < u64::MAX as f64 {
            true => Ok(ByteSize(number as u64)),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "kB")];
        match units.iter().find(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(size("64"), Ok(64));
        assert_eq!(size(" 1.5 GiB "), Ok(3 << 29));
        assert_eq!(size("256MB"), Ok(256 << 20));
        assert_eq!(size("65_536kb"), Ok(64 << 20));
        for text in ["", "MB", "-1", "1 pb", "99999999999 TB", "1e3"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["64MB", "3GB", "17B", "0B", "1536kB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }
}
