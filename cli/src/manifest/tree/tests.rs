//! What is read is written so that it is read the same, and what was not touched is spelled as before.

use serde_json::json;

use super::*;

fn read(text: &str) -> Node {
    parse(text).unwrap_or_else(|bad| panic!("{}: {}\n{text}", bad.line, bad.why))
}

#[test]
fn values_are_what_kubectl_makes_of_them() {
    for (text, value) in [
        ("0644", json!(420)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("-7", json!(-7)),
        ("08", json!(8.0)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000.0)),
        ("yes", json!(true)),
        ("off", json!(false)),
        ("~", Value::Null),
        ("'0644'", json!("0644")),
        ("\"yes\"", json!("yes")),
        ("1.2.3", json!("1.2.3")),
        ("100m", json!("100m")),
        ("e", json!("e")),
        ("-", json!([null])),
        (".5", json!(0.5)),
    ] {
        assert_eq!(read(text).value(), value, "{text}");
    }
}

#[test]
fn spelling_and_order_survive() {
    let text = "z: 0644\na: yes\nm:\n- \"1\"\n- name: x\n  deep:\n  - - 1\n    - 2\nempty: {}\nnone:\nlist: []\nblock: |\n  one\n\n  two\n";
    assert_eq!(read(text).to_string(), text);
    let odd = read("b: [1, {c: 'it''s'}]\n\"a: b\": >\n  folded\n  line\n");
    assert_eq!(read(&odd.to_string()).value(), odd.value());
}

#[test]
fn what_could_not_be_written_back_is_refused_with_its_line() {
    for (text, line, part) in [
        ("a: 1\nb: [1\nc: 2\n", 3, ""),
        ("a: 1\na: 2\n", 2, "twice"),
        ("a: !!binary x\n", 1, "tags"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge keys"),
        ("a: *x\n", 1, ""),
        ("? [a]\n: b\n", 1, "cannot be a key"),
    ] {
        let bad = parse(text).unwrap_err();
        assert!(bad.why.contains(part), "{text}: {}", bad.why);
        assert!(bad.line.abs_diff(line) <= 1, "{text}: {} {}", bad.line, bad.why);
    }
    let bomb = (1..40)
        .fold("a0: &a0 [x, x]\n".to_owned(), |text, n| format!("{text}a{n}: &a{n} [*a{}, *a{}]\n", n - 1, n - 1));
    assert!(parse(&bomb).unwrap_err().why.contains("more than"));
}

#[test]
fn anchors_are_followed() {
    assert_eq!(read("a: &x {b: 1}\nc: *x\n").value(), json!({"a": {"b": 1}, "c": {"b": 1}}));
}

#[allow(clippy::too_many_lines, reason = "a table of texts")]
#[test]
fn every_text_is_written_so_that_it_is_read_the_same() {
    for text in [
        "",
        " ",
        "a",
        "yes",
        "null",
        "~",
        "1",
        "0x1",
        "1e3",
        "-",
        "- a",
        "a: b",
        "a #b",
        "#",
        "*a",
        "&a",
        "!a",
        "|",
        ">",
        "%",
        "@",
        "`",
        "'",
        "\"",
        "a\\b",
        "a\nb",
        "a\nb\n",
        "a\n\n",
        "\na\n",
        " a\nb\n",
        "a\n  b\n",
        "a\tb",
        "\t",
        "é",
        "🦋\n🦋\n",
        "\u{1}",
        "a\r\nb\n",
        "{a}",
        "[a]",
        "a,b",
        "?",
        "=",
        "<<",
        "2026-11-22",
        "12:30:45",
        "lacewing.dev/inject",
        "a:1",
        "a:",
        ":a",
        "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        "---\na\n",
        "a\u{85}b",
        "a\u{2028}b\n",
        "a\u{2029}",
    ] {
        for value in [
            json!(text),
            json!([text]),
            json!({"k": text}),
            json!([[text, {"k": [text]}]]),
            json!({"k": {"k": text, "l": 1}}),
        ] {
            let written = Node::from(&value).to_string();
            assert_eq!(read(&written).value(), value, "{text:?} as\n{written}");
            let breaks = ['\u{85}', '\u{2028}', '\u{2029}'];
            assert!(!written.contains(breaks), "kubectl takes these for the ends of lines:\n{written}");
        }
        let key = json!({"k": {text: 1}});
        if text != "<<" {
            assert_eq!(read(&Node::from(&key).to_string()).value(), key, "{text:?} as a key");
        }
    }
}

#[test]
fn patches_edit_in_place() {
    let mut node = read("b: 1\na:\n- x\n- z\n");
    let patch: json_patch::Patch = serde_json::from_value(json!([
        {"op": "add", "path": "/a/1", "value": "yy"},
        {"op": "add", "path": "/a/-", "value": {"name": true}},
        {"op": "add", "path": "/new~1key", "value": "1"},
        {"op": "remove", "path": "/b"},
    ]))
    .unwrap();
    node.apply(&patch.0).unwrap();
    assert_eq!(node.to_string(), "a:\n- x\n- yy\n- z\n- name: true\nnew/key: \"1\"\n");
    let missing: json_patch::Patch = serde_json::from_value(json!([{"op": "remove", "path": "/gone"}])).unwrap();
    assert!(node.apply(&missing.0).unwrap_err().contains("/gone"));
}
