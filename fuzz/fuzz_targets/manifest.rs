//! Manifests: any text is read or refused without a panic and within a time; an error names a line of the text and says a
//! cause, objects name lines of the text in order, and reading twice gives the same.

#![no_main]

use lacewing_controller::source::manifest::parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // To YAML a carriage return alone ends a line, too (YAML 1.2, 5.4).
    let lines = text.split(['\n', '\r']).count() as u64 + 1;
    let read = parse(text);
    match &read {
        Ok(objects) => {
            assert!(objects.iter().all(|one| (1..=lines).contains(&one.line)), "{objects:?}");
            assert!(objects.is_sorted_by_key(|one| one.line), "{objects:?}");
        }
        Err(error) => {
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{lines} lines: {error:?}");
            assert!(!error.cause.is_empty());
        }
    }
    assert_eq!(read, parse(text));
});
