//! Texts before and after: what was not edited is there byte by byte, or the edit is refused.

use serde_json::{Value, json};

use super::*;

/// `text` after the patch, as it is spliced.
fn patched(text: &str, patch: Value) -> Option<String> {
    let mut node = tree::parse(text).unwrap_or_else(|bad| panic!("{}: {}\n{text}", bad.line, bad.why));
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
    node.apply(&patch.0).expect("it fits");
    splice(text, &node)
}

#[test]
fn what_is_not_edited_stays_byte_by_byte() {
    let add = |path: &str, value: Value| json!([{ "op": "add", "path": path, "value": value }]);
    let remove = |path: &str| json!([{ "op": "remove", "path": path }]);
    for (text, patch, expected) in [
        // Entries of maps: behind the last, in its column, before comments that follow.
        ("# head\na: 1 # one\n\n# tail\n", add("/b", json!("x")), "# head\na: 1 # one\nb: x\n\n# tail\n"),
        (
            "a:\n    b: 'q'   # c\n# d\ne: 1\n",
            add("/a/c", json!({"d": 1})),
            "a:\n    b: 'q'   # c\n    c:\n      d: 1\n# d\ne: 1\n",
        ),
        (
            "a:\n  b: |\n    one\n\n    # no comment\n",
            add("/a/c", json!(1)),
            "a:\n  b: |\n    one\n\n    # no comment\n  c: 1\n",
        ),
        ("a: 1", add("/b", json!(2)), "a: 1\nb: 2\n"),
        ("- a: 1\n  # x\n- b: 2\n", add("/0/c", json!(3)), "- a: 1\n  c: 3\n  # x\n- b: 2\n"),
        ("a: 1 # one\r\n# x\r\n", add("/b", json!({"c": 1})), "a: 1 # one\r\nb:\r\n  c: 1\r\n# x\r\n"),
        ("a: |+\n  b\n\n\n", add("/c", json!(1)), "a: |+\n  b\n\n\nc: 1\n"),
        // With brackets: on the line.
        ("a: {b: 1 }  # c\n", add("/a/c", json!("x")), "a: {b: 1, c: x }  # c\n"),
        ("a: {} # c\n", add("/a/c", json!(true)), "a: {c: true} # c\n"),
        (
            "{\n  \"a\": [1, 2],\n  \"b\": {}\n}\n",
            add("/c", json!("x")),
            "{\n  \"a\": [1, 2],\n  \"b\": {}, \"c\": \"x\"\n}\n",
        ),
        ("a: # none\nb: 1\n", add("/a", json!({"c": 1})), "a: {c: 1} # none\nb: 1\n"),
        ("a: 0644 # mode\n", add("/a", json!(1)), "a: 1 # mode\n"),
        // Items.
        ("a:\n# x\n- 1 # one\n# y\n- 2\n", add("/a/0", json!({"b": 0})), "a:\n# x\n- b: 0\n- 1 # one\n# y\n- 2\n"),
        (
            "a:\n  - 1 # one\n  # y\n  - 2\nb: 3\n",
            add("/a/-", json!("z")),
            "a:\n  - 1 # one\n  # y\n  - 2\n  - z\nb: 3\n",
        ),
        ("a:\n  - 1\n  # y\n  - 2\n", add("/a/1", json!([4])), "a:\n  - 1\n  # y\n  - - 4\n  - 2\n"),
        // What goes takes its lines with it.
        ("a: 1 # one\nb: # two\n  c: 3\nd: 4\n", remove("/b"), "a: 1 # one\nd: 4\n"),
        ("a:\n- 1\n# x\n- b: 2\n  c: 3\n- 4\n", remove("/a/1"), "a:\n- 1\n# x\n- 4\n"),
        ("a: {b: 1, c: 2} # x\n", remove("/a/b"), "a: {c: 2} # x\n"),
        ("a: {b: 1 , c: 2 } # x\n", remove("/a/c"), "a: {b: 1 } # x\n"),
        ("a: {b: 1 } # x\n", remove("/a/b"), "a: { } # x\n"),
        (
            "{\n  \"a\": {\n    \"b\": [1]\n  },\n  \"c\": {\n    \"d\": 2\n  }\n}\n",
            remove("/a"),
            "{\n  \"c\": {\n    \"d\": 2\n  }\n}\n",
        ),
        (
            "{\n  \"a\": {\n    \"b\": [1]\n  },\n  \"c\": {\n    \"d\": 2\n  }\n}\n",
            remove("/c"),
            "{\n  \"a\": {\n    \"b\": [1]\n  }\n}\n",
        ),
        ("a:\n  b: 1\nc: 2 # x\n", remove("/a/b"), "a:\n  {}\nc: 2 # x\n"),
        ("a:\n  - 1\nc: 2 # x\n", remove("/a/0"), "a:\n  []\nc: 2 # x\n"),
    ] {
        assert_eq!(patched(text, patch.clone()).as_deref(), Some(expected), "{text}{patch}");
    }
}

#[test]
fn several_edits_at_one_place_keep_their_order() {
    let patch = json!([
        { "op": "add", "path": "/a/b/x", "value": 1 }, { "op": "add", "path": "/a/w", "value": 2 },
        { "op": "add", "path": "/z", "value": 3 }, { "op": "remove", "path": "/a/b/c" },
    ]);
    assert_eq!(patched("a:\n  b:\n    c: 0 # x\n", patch).as_deref(), Some("a:\n  b:\n    x: 1\n  w: 2\nz: 3\n"));
}

#[test]
fn what_would_mean_something_else_is_refused() {
    let add = |path: &str| json!([{ "op": "add", "path": path, "value": 1 }]);
    // What an anchor names is what its aliases mean, too.
    assert_eq!(patched("a: &x\n  b: 1\nc: *x\n", add("/a/d")), None);
    assert_eq!(patched("? a\n", add("/a")), None, "no colon to stand behind");
}

#[test]
fn ends_of_lines_that_only_some_know_stay_what_they_are() {
    for c in ['\u{85}', '\u{2028}', '\u{2029}'] {
        let add = json!([{ "op": "add", "path": "/c", "value": format!("x{c}y") }]);
        let text = format!("a: \"one{c}two\" # {c}\n");
        let escaped = format!("c: \"x\\u{:04x}y\"\n", u32::from(c));
        assert_eq!(patched(&text, add), Some(format!("{text}{escaped}")));
    }
}

/// A value of a few levels, with texts that are awkward.
fn any(random: &mut fastrand::Rng, depth: u32) -> Value {
    let texts = ["", "a", "a: b", "# no", "- x", "é\n", "one\n\n two\n", "yes", "{", "x,y", "a:1", "'\""];
    match random.u32(0..if depth == 0 { 4 } else { 8 }) {
        0 => Value::Null,
        1 => json!(random.u32(0..9)),
        2 | 3 => json!(texts[random.usize(0..texts.len())]),
        4 | 5 => (0..random.u32(0..4)).map(|_| any(random, depth - 1)).collect(),
        _ => (0..random.u32(0..4)).map(|_| (format!("k{}", random.u32(0..6)), any(random, depth - 1))).collect(),
    }
}

/// The text of `node`, with brackets and comments here and there.
fn spelled(random: &mut fastrand::Rng, node: &Node) -> String {
    let mut text = String::new();
    for line in node.to_string().lines() {
        // Within a text of several lines it would be a part of it, which changes nothing here.
        let blanks = line.len() - line.trim_start().len();
        if random.u32(0..4) == 0 {
            text.extend([&" ".repeat(blanks), "# é\n"]);
        }
        text.push_str(line);
        text.push_str(if random.u32(0..4) == 0 && !line.ends_with('|') { " # x\n" } else { "\n" });
    }
    if random.bool() { text } else { node.flow(random.bool()) }
}

#[test]
fn whatever_is_edited_means_what_it_should_or_is_refused() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut done = 0;
    for _ in 0..5_000 {
        let (old, new) = (any(&mut random, 3), any(&mut random, 3));
        let Ok(read) = tree::parse(&spelled(&mut random, &Node::from(&old))) else { continue };
        let text = spelled(&mut random, &read);
        // Half of the time something that has much in common with it.
        let mut near = read.value();
        if let Some(map) = near.as_object_mut() {
            map.retain(|_, _| random.u32(0..4) > 0);
            map.insert("k7".to_owned(), new.clone());
        } else if let Some(list) = near.as_array_mut() {
            list.insert(random.usize(0..=list.len()), new.clone());
        }
        let new = if random.bool() { new } else { near };
        if let Some(spliced) = splice(&text, &Node::from(&new)) {
            assert_eq!(tree::parse(&spliced).expect("YAML").value(), new, "{text}\n{spliced}");
            done += 1;
        }
    }
    assert!(done > 2_500, "{done}");
}
