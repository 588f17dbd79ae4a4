//! The results as JUnit XML, which continuous integration reads.

use std::fmt::Write;
use std::time::Duration;

use super::FileReport;

/// A suite per file, a case per test and mode. A file that cannot be read is a suite with an error.
pub fn junit(files: &[FileReport]) -> String {
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    // Writing to a string does not fail.
    let _ = writeln!(out, "<testsuites name=\"tidemill test\" {}>", counts(files));
    for file in files {
        let name = escape(&file.name);
        let _ = writeln!(out, "  <testsuite name=\"{name}\" {}>", counts(std::slice::from_ref(file)));
        if let Some(error) = &file.error {
            let message = escape(error.lines().next().unwrap_or_default());
            let _ = writeln!(out, "    <testcase name=\"{name}\" classname=\"{name}\" time=\"0.000\">");
            let _ = writeln!(out, "      <error message=\"{message}\">{}</error>", escape(error));
            out += "    </testcase>\n";
        }
        for test in &file.tests {
            let mut title = test.name.clone();
            if !test.label.is_empty() {
                let _ = write!(title, " [{}]", test.label);
            }
            let (title, line, time) = (escape(&title), test.line, seconds(test.duration));
            let _ = write!(
                out,
                "    <testcase name=\"{title}\" classname=\"{name}\" file=\"{name}\" line=\"{line}\" time=\"{time}\""
            );
            match &test.failure {
                None => out += "/>\n",
                Some(failure) => {
                    let (message, text) = (escape(&failure.message), escape(&failure.text));
                    let _ = writeln!(out, ">\n      <failure message=\"{message}\">{text}</failure>");
                    out += "    </testcase>\n";
                }
            }
        }
        out += "  </testsuite>\n";
    }
    out + "</testsuites>\n"
}

/// How many there are of what, as attributes.
fn counts(files: &[FileReport]) -> String {
    let n_unread = files.iter().filter(|file| file.error.is_some()).count();
    let tests = || files.iter().flat_map(|file| &file.tests);
    let n_failed = tests().filter(|test| test.failure.is_some()).count();
    let time = seconds(tests().map(|test| test.duration).sum());
    let n_tests = tests().count() + n_unread;
    format!("tests=\"{n_tests}\" failures=\"{n_failed}\" errors=\"{n_unread}\" skipped=\"0\" time=\"{time}\"")
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// Text as it may stand in an attribute or between tags. What XML 1.0 has no way to say is shown as what it is not.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            // In an attribute they would be read as blanks.
            '\n' => out += "&#10;",
            '\t' => out += "&#9;",
            '\r' => out += "&#13;",
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqltest::{Failure, TestReport};

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b> & \"c\" 'd'"), "a&lt;b&gt; &amp; &quot;c&quot; &apos;d&apos;");
        assert_eq!(
            escape("]]>\n\t\r\u{0}\u{1b}[31m\u{fffe}é"),
            "]]&gt;&#10;&#9;&#13;\u{fffd}\u{fffd}[31m\u{fffd}é"
        );
    }

    #[test]
    fn a_report_is_what_continuous_integration_reads() {
        let test = |name: &str, label: &str, failure: Option<Failure>| TestReport {
            name: name.into(),
            label: label.into(),
            line: 3,
            duration: Duration::from_millis(1250),
            failure,
        };
        let failure = Failure { message: "1 is <missing>".into(), text: "a.test.sql:4\nrows".into() };
        let files = [
            FileReport {
                name: "a.test.sql".into(),
                error: None,
                tests: vec![test("it's", "", None), test("\"b\"", "4 lanes", Some(failure))],
            },
            FileReport { name: "b&c.test.sql".into(), error: Some("no\nyes".into()), tests: Vec::new() },
        ];
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites name=\"tidemill test\" tests=\"3\" failures=\"1\" errors=\"1\" skipped=\"0\" time=\"2.500\">
  <testsuite name=\"a.test.sql\" tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"0\" time=\"2.500\">
    <testcase name=\"it&apos;s\" classname=\"a.test.sql\" file=\"a.test.sql\" line=\"3\" time=\"1.250\"/>
    <testcase name=\"&quot;b&quot; [4 lanes]\" classname=\"a.test.sql\" file=\"a.test.sql\" line=\"3\" time=\"1.250\">
      <failure message=\"1 is &lt;missing&gt;\">a.test.sql:4&#10;rows</failure>
    </testcase>
  </testsuite>
  <testsuite name=\"b&amp;c.test.sql\" tests=\"1\" failures=\"0\" errors=\"1\" skipped=\"0\" time=\"0.000\">
    <testcase name=\"b&amp;c.test.sql\" classname=\"b&amp;c.test.sql\" time=\"0.000\">
      <error message=\"no\">no&#10;yes</error>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(junit(&files), expected);
    }
}
