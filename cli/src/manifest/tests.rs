//! Files as they are read and given back: what is not edited, byte by byte.

use serde_json::json;

use super::*;

/// The file given back, after `edit` of its documents.
fn given_back(texts: &[&str], edit: impl Fn(&mut Document)) -> String {
    let mut documents: Vec<Document> =
        texts.iter().flat_map(|text| parse("x.yaml", text).unwrap_or_else(|_| panic!("{text:?}"))).collect();
    for document in &mut documents {
        edit(document);
        document.settle();
    }
    write(&documents)
}

fn add(document: &mut Document) {
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{ "op": "add", "path": "/new", "value": 1 }])).expect("a patch");
    document.root.apply(&patch.0).expect("a map");
    document.changed = true;
}

#[test]
fn a_file_that_is_not_edited_is_given_back_byte_by_byte() {
    for text in [
        "a: 1\n",
        "a: 1",
        "# Licence\n\n---\na: 1\n",
        "---\na: 1\n---\n# nothing\n---\nb: 2\n---\n# the end\n",
        "a: |+\n  one\n\n\n",
        "a: |+\n  one\n\n---\nb: 2\n\n\n",
        "a: 1\r\n---\r\nb: 2\r\n",
        "--- # first\na: 1\n...\n---\nb: 2\n...\n",
        "{\"a\": 1}",
    ] {
        assert_eq!(given_back(&[text], |_| ()), text);
    }
}

#[test]
fn files_are_joined_by_markers() {
    for (texts, expected) in [
        (["a: 1", "b: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1\n", "---\nb: 2\n"], "a: 1\n---\nb: 2\n"),
        (["a: 1\n", "# x\n---\nb: 2\n"], "a: 1\n# x\n---\nb: 2\n"),
        (["a: 1\n", "# x\nb: 2\n"], "a: 1\n---\n# x\nb: 2\n"),
        (["{\"a\": 1}\n", "{\"b\": 2}"], "{\"a\": 1}\n---\n{\"b\": 2}"),
    ] {
        assert_eq!(given_back(&texts, |_| ()), expected);
    }
}

#[test]
fn the_last_value_of_an_edited_document_keeps_its_ends() {
    for (text, expected) in [
        ("a: |+\n  one\n\n---\nb: 2\n\n", "a: |+\n  one\n\nnew: 1\n---\nb: 2\nnew: 1\n\n"),
        ("# x\n---\na: 1\n---\n# y\n", "# x\n---\na: 1\nnew: 1\n---\n# y\n"),
        ("a: 1\r\n---\r\nb: 2\r\n", "a: 1\r\nnew: 1\r\n---\r\nb: 2\r\nnew: 1\r\n"),
    ] {
        assert_eq!(given_back(&[text], add), expected);
    }
}

#[test]
fn what_cannot_be_put_in_is_written_anew_and_said() {
    let mut documents = parse("x.yaml", "---\na: &x # gone\n  b: 1\nc: *x\n").unwrap_or_else(|_| panic!("YAML"));
    let patch: json_patch::Patch =
        serde_json::from_value(json!([{ "op": "add", "path": "/a/d", "value": 1 }])).expect("a patch");
    documents[0].root.apply(&patch.0).expect("a map");
    documents[0].changed = true;
    assert!(!documents[0].settle());
    let text = write(&documents);
    assert!(text.starts_with("---\n") && text.ends_with('\n') && !text.contains("gone"), "{text}");
}
