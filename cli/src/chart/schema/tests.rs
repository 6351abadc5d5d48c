//! Tables: what is read, and what is refused with which words.

use serde_json::json;

use super::*;

#[test]
fn every_mistake_is_told_with_its_place() {
    let schema = json!({
        "definitions": { "pull": { "enum": ["Always", "Never"] } },
        "type": "object", "additionalProperties": false, "required": ["image"],
        "properties": {
            "image": { "type": "string", "minLength": 1, "maxLength": 9 },
            "pull": { "$ref": "#/definitions/pull" },
            "lost": { "$ref": "#/definitions/lost" },
            "replicas": { "type": "integer", "minimum": 1, "maximum": 9 },
            "amount": { "type": ["string", "integer"] },
            "labels": { "type": "object", "additionalProperties": { "type": "string" } },
            "list": { "type": "array", "items": { "type": "boolean" } },
            "size": { "type": ["string", "integer"], "pattern": "^[0-9]+Mi$", "description": "Such as 9Mi." },
            "loose": { "pattern": "(" },
            "odd": { "format": "x" },
        },
    });
    let good = json!({ "image": "i", "pull": "Never", "replicas": 9, "amount": 1, "size": "64Mi", "labels": { "a": "b" }, "list": [true] });
    assert_eq!(violations(&schema, &good), Vec::<String>::new());
    for (values, message) in [
        (json!({ "image": "" }), "image: \"\" is too short"),
        (json!({ "image": "0123456789" }), "image: it has more than 9 letters"),
        (json!({}), "image: it must have a value; leave it out to have the default"),
        (json!({ "image": 1 }), "image: 1 is not a text; put it in quotes in a file, or use --set-string"),
        (json!({ "image": ["a"] }), "image: [\"a\"] is not a text"),
        (
            json!({ "image": "i", "pull": "Allways" }),
            "pull: \"Allways\" is not one of Always, Never; did you mean Always?",
        ),
        (json!({ "image": "i", "lost": 1 }), "lost: the schema has no \"#/definitions/lost\""),
        (json!({ "image": "i", "replicas": 0 }), "replicas: 0 is less than 1"),
        (json!({ "image": "i", "replicas": 10 }), "replicas: 10 is more than 9"),
        (json!({ "image": "i", "replicas": 1.5 }), "replicas: 1.5 is not a whole number"),
        (json!({ "image": "i", "replicas": null }), "replicas: null is not a whole number"),
        (json!({ "image": "i", "amount": true }), "amount: true is not a text or a whole number"),
        (
            json!({ "image": "i", "labels": { "a": 1 } }),
            "labels.a: 1 is not a text; put it in quotes in a file, or use --set-string",
        ),
        (json!({ "image": "i", "labels": [] }), "labels: [] is not a map"),
        (json!({ "image": "i", "list": [true, "x"] }), "list[1]: \"x\" is not true or false"),
        (json!({ "image": "i", "list": {} }), "list: {} is not a list"),
        (json!({ "image": "i", "size": " 9Mi" }), "size: \" 9Mi\" does not match pattern '^[0-9]+Mi$': Such as 9Mi."),
        (json!({ "image": "i", "size": true }), "size: true is not a text or a whole number"),
        (json!({ "image": "i", "loose": "" }), "loose: the schema's pattern \"(\" is not understood"),
        (json!({ "image": "i", "odd": "x" }), "odd: the schema's word \"format\" is not understood"),
        (json!("x"), "\"x\" is not a map"),
    ] {
        assert_eq!(violations(&schema, &values), [message], "{values}");
    }
    let found = violations(&schema, &json!({ "imgae": "i", "labels": { "a": 1 } }));
    assert_eq!(found.len(), 3, "all of it at once: {found:?}");
    assert!(
        found.iter().any(|what| what.starts_with("imgae: there is no such value; did you mean image?")),
        "{found:?}"
    );
}
