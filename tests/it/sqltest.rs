//! `tidemill test` as a user runs it: what it prints, what it writes, how it exits.

use std::path::Path;
use std::process::{Command, Output};

fn run(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .arg("test")
        .args(arguments)
        .current_dir(directory)
        .output();
    let Output { status, stdout, stderr } = command.expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[test]
fn an_example_passes_in_several_lanes_and_over_crashes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let report = tempfile::tempdir().expect("a directory can be made");
    let report = report.path().join("report.xml").display().to_string();
    let of_days = ["examples", "--filter", "a day comes out"];
    let arguments = [&of_days[..], &["--lanes", "1,4", "--crash-everywhere", "--junit", &report]].concat();
    let (code, stdout, stderr) = run(root, &arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(stdout.starts_with("examples/flights/flights.test.sql\n  ok    a day comes out"), "{stdout}");
    assert!(stdout.contains("\n4 tests: 4 passed in "), "{stdout}");
    let report = std::fs::read_to_string(report).expect("the report is there");
    assert!(
        report.contains("<testsuites name=\"tidemill test\" tests=\"4\" failures=\"0\" errors=\"0\""),
        "{report}"
    );
}

#[test]
fn what_fails_is_the_exit_code() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("a file can be written")
    };
    write(
        "a.test.sql",
        "TEST 'right';\nEXPECT (SELECT 1) VALUES (1);\nTEST 'wrong';\nEXPECT (SELECT 1) VALUES (2);",
    );
    write("b.test.sql", "TEST 'a';\nEXPEC x;");
    let (code, stdout, stderr) = run(directory.path(), &[".", "--junit", "report.xml"]);
    assert_eq!((code, stderr.as_str()), (1, ""), "{stdout}");
    for part in [
        "./a.test.sql\n  ok    right (",
        "  FAIL  wrong\n        ./a.test.sql:4: EXPECT (SELECT 1) VALUES (2)\n        1 missing, 1 unexpected: 1 row expected, 1 found\n",
        "./b.test.sql\n        ./b.test.sql:2:1: ERROR:  42601: syntax error at or near \"EXPEC\"\n",
        "HINT:  Did you mean EXPECT?\n",
        "2 tests: 1 passed, 1 failed, 1 file not understood in ",
    ] {
        assert!(stdout.contains(part), "no {part:?} in {stdout}");
    }
    let report = std::fs::read_to_string(directory.path().join("report.xml")).expect("the report is there");
    assert!(report.contains("tests=\"3\" failures=\"1\" errors=\"1\""), "{report}");
    let right = run(directory.path(), &["a.test.sql", "--filter", "right"]);
    assert_eq!(right.0, 0, "{}", right.1);

    for (arguments, message) in [
        (&[][..], "required arguments were not provided"),
        (&["nowhere"], "cannot read \"nowhere\""),
        (&["a.test.sql", "--lanes", "0"], "invalid value '0'"),
        (&["a.test.sql", "--filter", "nix"], "no test has a name that contains \"nix\""),
        (&["empty"], "there are no tests in \"empty\""),
    ] {
        std::fs::create_dir_all(directory.path().join("empty")).expect("a directory can be made");
        let (code, _, stderr) = run(directory.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(message), "{arguments:?}: {stderr}");
    }
}
