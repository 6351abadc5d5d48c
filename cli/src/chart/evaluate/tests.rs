//! Tables: what is read, and what is refused with which words.

use serde_json::json;

use super::*;
use crate::chart::template::parse;

fn rendered(template: &str, dot: &Value) -> Result<String, ChartError> {
    let mut defined = Defined::default();
    let nodes = defined.take("t.yaml", parse("t.yaml", template)?);
    render("t.yaml", &nodes, dot, &defined)
}

#[test]
fn values_become_text() {
    let dot = json!({
        "t": "a b", "n": 3, "yes": true, "no": false, "nothing": null, "zero": 0, "empty": "", "list": [], "map": {},
        "labels": { "b": "2", "a": "1" }, "html": "<&>\u{2028}é\"\\\u{1}\u{7f}",
    });
    for (template, text) in [
        ("{{ .t }}", "a b"),
        ("{{ .n }}", "3"),
        ("{{ .labels.b }}", "2"),
        ("{{ \"x\" }}", "x"),
        ("{{ .t | toJson }}", "\"a b\""),
        ("{{ .labels | toJson }}", r#"{"a":"1","b":"2"}"#),
        ("{{ .labels | toJson | toJson }}", r#""{\"a\":\"1\",\"b\":\"2\"}""#),
        ("{{ .html | toJson }}", "\"\\u003c\\u0026\\u003e\\u2028é\\\"\\\\\\u0001\u{7f}\""),
        ("{{ nindent 2 \"a\" }}", "\n  a"),
        ("{{ if .yes }}1{{ end }}{{ if .no }}2{{ end }}{{ if .nothing }}3{{ end }}", "1"),
        ("{{ if .zero }}1{{ else if .empty }}2{{ else if .list }}3{{ else if .map }}4{{ else }}5{{ end }}", "5"),
        ("{{ if gt (int .n) 2 }}more{{ end }}{{ if gt .n 3 }}much more{{ end }}", "more"),
        ("{{ if eq .t \"a b\" }}1{{ end }}{{ if ne .t \"a b\" }}2{{ end }}{{ if eq .yes .no }}3{{ end }}", "1"),
        ("{{ range $k, $v := .labels }}{{ $k }}={{ $v }};{{ end }}", "a=1;b=2;"),
        ("{{ range $k, $v := .map }}never{{ end }}", ""),
        ("{{ define \"x\" }}<{{ .b }}>{{ end }}{{ include \"x\" .labels }}", "<2>"),
        ("{{ define \"x\" }}a\nb{{ end }}{{ include \"x\" . | nindent 1 }}", "\n a\n b"),
    ] {
        assert_eq!(rendered(template, &dot).as_deref(), Ok(text), "{template}");
    }
}

#[test]
fn what_has_no_meaning_is_an_error_with_its_line() {
    let dot = json!({ "t": "a", "n": 3, "list": [1], "map": {} });
    for (template, line, part) in [
        ("\n{{ .m.a }}", 2, ".m.a is not there: \"m\" is missing"),
        ("{{ .map.a.b }}", 1, "\"a\" is missing"),
        ("{{ .t.a }}", 1, "\"a\" is missing"),
        ("{{ .list }}", 1, "use `toJson`"),
        ("{{ .map }}", 1, "use `toJson`"),
        ("{{ quote .t }}", 1, "the function `quote` is not in the subset"),
        ("{{ toJson }}", 1, "`toJson` cannot be called with "),
        ("{{ gt .t 1 }}", 1, "`gt` cannot be called with \"a\" 1"),
        ("{{ eq .t .n }}", 1, "`eq` cannot be called"),
        ("{{ int .t }}", 1, "`int` cannot be called"),
        ("{{ .t .n }}", 1, "this is no function"),
        ("{{ .t | .n }}", 1, "this is no function"),
        ("{{ 1.5 }}", 1, "this is no function"),
        ("{{ $x }}", 1, "$x is not set"),
        ("{{ range $k, $v := .list }}{{ end }}", 1, "only a map"),
        ("{{ include \"x\" . }}", 1, "no file defines \"x\""),
        ("{{ define \"x\" }}\n{{ include \"x\" . }}{{ end }}{{ include \"x\" . }}", 2, "includes itself"),
        ("{{ if .t }}{{ define \"x\" }}{{ end }}{{ end }}", 0, "within something else"),
        ("\n\n{{ fail \"no\" }}", 3, "no"),
    ] {
        match rendered(template, &dot) {
            Err(ChartError::Template { file, line: at, what }) => {
                assert_eq!((file.as_str(), at), ("t.yaml", line), "{template:?}: {what}");
                assert!(what.contains(part), "{template:?}: {what}");
            }
            other => panic!("{template:?}: {other:?}"),
        }
    }
}
