//! Tables: what is read, and what is refused with which words.

use super::*;

fn parsed(text: &str) -> Vec<Node> {
    parse("t.yaml", text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn path(steps: &[&str]) -> Term {
    Term::Path(steps.iter().map(|step| (*step).to_owned()).collect())
}

fn print(line: usize, term: Term) -> Node {
    Node::Print(Pipe { line, calls: vec![vec![term]] })
}

#[test]
fn signs_trim_the_text_beside_them() {
    for (template, before, after) in [
        ("a \n {{ . }} \n b", "a \n ", " \n b"),
        ("a \n {{- . }} \n b", "a", " \n b"),
        ("a \n {{ . -}} \n b", "a \n ", "b"),
        ("a{{- . -}}b", "a", "b"),
    ] {
        let nodes = parsed(template);
        let line = 1 + template[..template.find("{{").unwrap_or(0)].matches('\n').count();
        assert_eq!(nodes, [text(before), print(line, path(&[])), text(after)], "{template:?}");
    }
    assert_eq!(parsed("a {{- /* no }} end */ -}} b"), [text("a"), text("b")]);
    assert_eq!(parsed(" {{- /* all */ -}} "), []);
}

#[test]
fn expressions() {
    let function = |name: &str| Term::Function(name.to_owned());
    let group = Pipe { line: 1, calls: vec![vec![function("int"), path(&["a", "b"])]] };
    let table = [
        ("{{ .Values.a }}", vec![vec![path(&["Values", "a"])]]),
        ("{{ $key | f }}", vec![vec![Term::Variable("key".to_owned())], vec![function("f")]]),
        (
            "{{ include \"a.b\" . | nindent 4 }}",
            vec![
                vec![function("include"), Term::Text("a.b".to_owned()), path(&[])],
                vec![function("nindent"), Term::Number(4)],
            ],
        ),
        ("{{gt (int .a.b) 1}}", vec![vec![function("gt"), Term::Group(group), Term::Number(1)]]),
    ];
    for (template, calls) in table {
        assert_eq!(parsed(template), [Node::Print(Pipe { line: 1, calls })], "{template}");
    }
}

#[test]
fn blocks_know_their_branches() {
    let condition = |line, name: &str| Some(Pipe { line, calls: vec![vec![path(&[name])]] });
    let nodes = parsed("{{ if .a }}1{{ else if .b }}2\n{{ else }}3{{ end }}");
    let branches =
        vec![(condition(1, "a"), vec![text("1")]), (condition(1, "b"), vec![text("2\n")]), (None, vec![text("3")])];
    assert_eq!(nodes, [Node::If(branches)]);
    let over = Pipe { line: 1, calls: vec![vec![path(&["m"])]] };
    let (key, value) = ("k".to_owned(), "v".to_owned());
    let body = vec![print(1, Term::Variable("v".to_owned()))];
    assert_eq!(parsed("{{range $k, $v := .m}}{{$v}}{{end}}"), [Node::Range { key, value, over, body }]);
    assert_eq!(parsed("{{define \"x\"}}y{{end}}"), [Node::Define { name: "x".to_owned(), body: vec![text("y")] }]);
}

#[test]
fn what_is_not_in_the_subset_is_an_error_with_its_line() {
    for (template, line, part) in [
        ("\n{{ with .a }}{{ end }}", 2, "`with` is not in the subset"),
        ("{{ range .a }}{{ end }}", 1, "`range` is not in the subset"),
        ("{{ template \"a\" . }}", 1, "`template` is not in the subset"),
        ("{{ if .a }}", 1, "`end` is missing"),
        ("{{ define \"a\" }}{{ else }}{{ end }}", 1, "`end` is missing"),
        ("a\n\n{{ end }}", 3, "without a beginning"),
        ("{{ else }}", 1, "without a beginning"),
        ("{{ if .a }}{{ else }}{{ else }}{{ end }}", 1, "after the last `else`"),
        ("{{ if }}{{ end }}", 1, "an expression is missing"),
        ("{{ .a | }}", 1, "an expression is missing"),
        ("{{ (.a }}", 1, "`(` without `)`"),
        ("{{ .a) }}", 1, "`)` without `(`"),
        ("{{ $x := .a }}", 1, "stand in `range` only"),
        ("{{ \"a\\n\" }}", 1, "with an escape"),
        ("{{ \"a }}", 1, "a string without its end"),
        ("{{ `a` }}", 1, "'`' is not in the subset"),
        ("{{ 1.5 }}\n", 1, ""),
        ("{{ /* a }}", 1, "a comment without its end"),
        ("{{ .a", 1, "`}}` is missing"),
        ("{{ 99999999999999999999 }}", 1, "no whole number"),
        ("{{ -1 }}", 1, "'-' is not in the subset"),
    ] {
        match parse("t.yaml", template) {
            Err(ChartError::Template { file, line: at, what }) => {
                assert_eq!((file.as_str(), at), ("t.yaml", line), "{template:?}");
                assert!(what.contains(part), "{template:?}: {what}");
            }
            // A number followed by a path is read as two terms, and refused when it is evaluated.
            other => assert!(part.is_empty(), "{template:?}: {other:?}"),
        }
    }
}
